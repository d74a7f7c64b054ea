"""AMQP 0-9-1 frames: a byte stream to frames, and frames to bytes; for a proxy, a byte stream to whole frames.

Three outcomes of reading are distinct: a frame, more bytes needed, and bytes that are not AMQP (`DecodeError`).
Must not know: what is in a frame, sessions, sockets.

Source: AMQP 0-9-1 specification, sections 2.3 (framing) and 4.2 (wire level).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"
FRAME_END_OCTET = FRAME_END[0]
FRAME_MIN_SIZE = 4096
"""What a peer must accept before ``frame_max`` is negotiated, in bytes."""
FRAME_OVERHEAD = 8
"""Type, channel and size before the payload, and the end octet after it, in bytes."""
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

BASIC = 60
"""The class whose methods carry messages."""
PUBLISH, RETURN, DELIVER, GET_OK, ACK, REJECT, NACK = (BASIC << 16 | number for number in (40, 50, 60, 71, 80, 90, 120))
"""The methods that come with every message: class and method number, as they begin the payload of a method frame."""

_HEAD = struct.Struct(">BHI")
_HEAD_SIZE = 7
_LARGEST_WHOLE = 1 << 20  # of a splitter, until the peers have agreed
_KNOWN_TYPES = frozenset((FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT))

Frame = tuple[int, int, bytes]
"""Type, channel number, payload."""
Frames = list[tuple[int, int, int, int]]
"""Type and channel of each frame, and its first and last position (exclusive) in the piece of the stream."""


class DecodeError(ValueError):
    """Octets that are not AMQP; a broker closes the connection with `code`, `name` and `detail`."""

    def __init__(self, code: int, name: str, detail: str, method_index: int = 0) -> None:
        """``method_index`` is class id shifted left by 16, plus method id; 0 when no method is to blame."""
        super().__init__(f"{name} - {detail}")
        self.code = code
        self.name = name
        self.detail = detail
        self.method_index = method_index


def bad_frame(kind: int, size: int, frame_max: int) -> DecodeError:
    """501 for octets that are not a frame: unknown type, beyond ``frame_max``, or without the end octet."""
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


class FrameReader:
    """Bytes in, frames out.

    Three distinct outcomes: a frame is yielded; the iteration ends because more bytes are needed; or a
    `DecodeError` is raised because the bytes are not AMQP. Memory is bounded by ``frame_max`` plus one read.
    """

    def __init__(self, frame_max: int) -> None:
        """``frame_max`` is in bytes, and may be changed after negotiation.

        A payload alone may be so large: some clients leave the frame's own octets out of the count, and RabbitMQ
        allows for it.
        """
        self.frame_max = frame_max
        self._chunks: list[bytes] = []
        self._held = 0
        self._wanted = 1

    def feed(self, data: bytes) -> None:
        """Take what the peer sent; in pieces of any size."""
        self._chunks.append(data)
        self._held += len(data)

    def protocol_header(self) -> bytes | None:
        """The eight octets that open a connection, or None while they are incomplete.

        A stream that cannot become the header is returned as far as it came: the caller compares.
        """
        data = self._joined()
        if len(data) < len(PROTOCOL_HEADER) and PROTOCOL_HEADER.startswith(data):
            return None
        self._keep(data, len(PROTOCOL_HEADER))
        return data[: len(PROTOCOL_HEADER)]

    def frames(self) -> Iterator[Frame]:
        """Yield every complete frame. The caller may stop early; the rest is yielded by the next call.

        Raises `DecodeError` (501) on an unknown type, a payload beyond ``frame_max`` or a wrong end octet.
        """
        if self._held < self._wanted:  # joining the chunks for each octet of a slow peer would be quadratic
            return
        self._wanted = FRAME_OVERHEAD
        data = self._joined()
        size, start = len(data), 0
        try:
            while size - start >= FRAME_OVERHEAD - 1:
                kind, channel, length = _HEAD.unpack_from(data, start)
                end = start + length + FRAME_OVERHEAD
                if kind not in _KNOWN_TYPES or length > self.frame_max:
                    raise bad_frame(kind, length, self.frame_max)
                if end > size:
                    self._wanted = end - start
                    return
                if data[end - 1] != 0xCE:
                    raise bad_frame(kind, length, self.frame_max)
                payload = data[start + 7 : end - 1]
                start = end
                yield kind, channel, payload
        finally:
            self._keep(data, start)

    def _joined(self) -> bytes:
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def _keep(self, data: bytes, start: int) -> None:
        rest = data[start:] if start else data
        self._chunks = [rest] if rest else []
        self._held = len(rest)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame on the wire."""
    return _HEAD.pack(kind, channel, len(payload)) + payload + FRAME_END


def content_frames(channel: int, header: bytes, body: bytes, frame_max: int) -> bytes:
    """The header frame and as many body frames as ``frame_max`` asks for, untouched content."""
    head = _HEAD.pack(FRAME_HEADER, channel, len(header))
    room = frame_max - FRAME_OVERHEAD
    if len(body) <= room:
        if not body:
            return head + header + FRAME_END
        return b"".join((head, header, FRAME_END, _HEAD.pack(FRAME_BODY, channel, len(body)), body, FRAME_END))
    parts = [head, header, FRAME_END]
    for start in range(0, len(body), room):
        piece = body[start : start + room]
        parts += (_HEAD.pack(FRAME_BODY, channel, len(piece)), piece, FRAME_END)
    return b"".join(parts)


class Splitter:
    """Splits one direction of one connection into whole frames, without decoding or copying what is in them.

    The result of `feed` is a piece of the stream and the positions of the frames in it, so that any run of frames can
    be forwarded as one slice. Bytes that are not AMQP are forwarded too: the other side answers them, and closes.

    Attributes:
        largest_payload: bytes of the largest payload there can be, to be set when the peers have agreed.
        opaque: the stream is not AMQP, or a frame is too large: from here on it is only forwarded.
    """

    __slots__ = ("_held", "_pieces", "_wanted", "largest_payload", "opaque")

    def __init__(self) -> None:
        self.opaque = False
        self.largest_payload = _LARGEST_WHOLE
        self._pieces: list[bytes] = []
        self._held = 0
        self._wanted = _HEAD_SIZE

    def rest(self) -> bytes:
        """Return the beginning of a frame whose rest has not arrived; it is not kept any longer."""
        rest = b"".join(self._pieces)
        self._pieces.clear()
        self._held, self._wanted = 0, _HEAD_SIZE
        return rest

    def feed(self, data: bytes) -> tuple[bytes, Frames]:
        """Take what arrived; return what can be forwarded now, and the frames in it.

        An incomplete frame is kept for the next call. Once the stream is `opaque`, everything is returned, and the part
        after the last frame is not split.
        """
        if self._pieces:
            self._pieces.append(data)
            self._held += len(data)
            if self._held < self._wanted and not self.opaque:
                return b"", []
            data = b"".join(self._pieces)
            self._pieces.clear()
        frames: Frames = []
        if self.opaque:
            self._held = 0
            return data, frames
        at, size = 0, len(data)
        unpack, known, largest = _HEAD.unpack_from, _KNOWN_TYPES, self.largest_payload
        while size - at >= _HEAD_SIZE:
            kind, channel, length = unpack(data, at)
            end = at + length + FRAME_OVERHEAD
            if kind not in known or length > largest:
                self.opaque = True
                self._held = 0
                return data, frames
            if end > size:
                break
            if data[end - 1] != FRAME_END_OCTET:
                self.opaque = True
                self._held = 0
                return data, frames
            frames.append((kind, channel, at, end))
            at = end
        self._held = size - at
        if not self._held:
            self._wanted = _HEAD_SIZE
            return data, frames
        self._pieces.append(data[at:] if at else data)
        self._wanted = length + FRAME_OVERHEAD if self._held >= _HEAD_SIZE else _HEAD_SIZE
        return data[:at], frames
