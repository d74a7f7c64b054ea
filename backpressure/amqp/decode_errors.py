"""What is wrong with octets that are no AMQP 0-9-1, with the reply code the specification has for it."""

from __future__ import annotations

__all__ = ["DecodeError", "bad_frame", "bad_syntax", "bad_text", "unknown_method"]


class DecodeError(ValueError):
    """Octets that cannot be read; a peer closes the connection with `code`, `name` and `detail`."""

    def __init__(self, code: int, name: str, detail: str, method_index: int = 0) -> None:
        """``method_index`` is class id shifted left by 16, plus method id; 0 when no method is to blame."""
        super().__init__(f"{name} - {detail}")
        self.code = code
        self.name = name
        self.detail = detail
        self.method_index = method_index


def bad_frame(kind: int, size: int, frame_max: int) -> DecodeError:
    """501 for octets that are no frame: unknown type, beyond ``frame_max``, or without the end octet."""
    if size > frame_max:
        reason = f"frame size {size} exceeds the negotiated maximum of {frame_max}"
    else:
        reason = "unknown frame type or missing end octet"
    return DecodeError(501, "FRAME_ERROR", f"type {kind}, {reason}")


def bad_text(method_index: int) -> DecodeError:
    """501, as RabbitMQ, for a name that is not UTF-8."""
    return DecodeError(501, "FRAME_ERROR", "Malformed UTF-8 in shortstr", method_index)


def bad_syntax(method_index: int = 0) -> DecodeError:
    """502 for a frame whose contents cannot be read."""
    return DecodeError(502, "SYNTAX_ERROR", "illegal values in the frame", method_index)


def unknown_method(method_index: int) -> DecodeError:
    """503 for a method that does not exist."""
    return DecodeError(503, "COMMAND_INVALID", "unimplemented method", method_index)
