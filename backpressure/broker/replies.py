"""The broker's refusals: reply codes, and texts in RabbitMQ's form.

A `ChannelRefusal` closes the channel it happened on, a `ConnectionRefusal` the whole connection. Which of the two an
error is, and its code, follow AMQP 0-9-1 section 1.2, and RabbitMQ 4.0's behaviour where the two differ.
Must not know: who raises them, how they are sent.
"""

from __future__ import annotations


class AmqpRefusal(Exception):  # noqa: N818 - AMQP speaks of replies, and a refusal is not our error
    """A refusal with its reply code, its text and the method that caused it."""

    def __init__(self, code: int, name: str, detail: str, method_index: int = 0) -> None:
        """``method_index`` is class id shifted left by 16, plus method id; 0 if no method caused it."""
        super().__init__(f"{name} - {detail}")
        self.code = code
        self.name = name
        self.detail = detail
        self.method_index = method_index

    @property
    def text(self) -> str:
        """The reply text, cut at the 255 octets of a short string."""
        return f"{self.name} - {self.detail}".encode(errors="surrogateescape")[:255].decode(errors="ignore")


class ChannelRefusal(AmqpRefusal):
    """An error that closes the channel."""


class ConnectionRefusal(AmqpRefusal):
    """An error that closes the connection."""


def no_queue(name: str) -> ChannelRefusal:
    """404 for a queue that does not exist."""
    return ChannelRefusal(404, "NOT_FOUND", f"no queue '{name}' in vhost '/'")


def no_exchange(name: str) -> ChannelRefusal:
    """404 for an exchange that does not exist."""
    return ChannelRefusal(404, "NOT_FOUND", f"no exchange '{name}' in vhost '/'")


def access_refused(detail: str) -> ChannelRefusal:
    """403 for what no user may do: reserved names, the default exchange, a queue in exclusive use."""
    return ChannelRefusal(403, "ACCESS_REFUSED", detail)


def resource_locked(queue: str) -> ChannelRefusal:
    """405 for an exclusive queue of another connection."""
    return ChannelRefusal(
        405,
        "RESOURCE_LOCKED",
        f"cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be originally declared on "
        "another connection or the exclusive property value does not match that of the original declaration.",
    )


def precondition_failed(detail: str) -> ChannelRefusal:
    """406 for arguments that differ from the declaration, unknown delivery tags, and failed conditions."""
    return ChannelRefusal(406, "PRECONDITION_FAILED", detail)


def inequivalent(argument: str, kind: str, name: str, received: str, current: str) -> ChannelRefusal:
    """406 for a declaration that differs from what exists; ``kind`` is ``queue`` or ``exchange``."""
    return precondition_failed(
        f"inequivalent arg '{argument}' for {kind} '{name}' in vhost '/': received {received} but current is {current}"
    )


def not_allowed(detail: str) -> ConnectionRefusal:
    """530 for using protocol entities in a forbidden way, such as a consumer tag twice."""
    return ConnectionRefusal(530, "NOT_ALLOWED", detail)


def not_implemented(detail: str) -> ConnectionRefusal:
    """540 for parts of AMQP 0-9-1 that neither RabbitMQ nor this broker implements."""
    return ConnectionRefusal(540, "NOT_IMPLEMENTED", detail)


def command_invalid(detail: str) -> ConnectionRefusal:
    """503 for a method that is not expected in this state."""
    return ConnectionRefusal(503, "COMMAND_INVALID", detail)


def channel_error(detail: str) -> ConnectionRefusal:
    """504 for a frame on a channel that is not open."""
    return ConnectionRefusal(504, "CHANNEL_ERROR", detail)


def denied_feature(name: str) -> ConnectionRefusal:
    """541 for a feature that RabbitMQ has deprecated, and that is switched off."""
    return ConnectionRefusal(
        541, "INTERNAL_ERROR", f"Feature `{name}` is deprecated.\nBy default, this feature is not permitted anymore."
    )


def unexpected_frame(detail: str) -> ConnectionRefusal:
    """505 for content frames out of order."""
    return ConnectionRefusal(505, "UNEXPECTED_FRAME", detail)
