"""AMQP 0-9-1 frames: splitting a byte stream into them and building the frequent ones by hand.

Lives here: frame layout, the reader, and encoders for what is sent once a message (deliver, get-ok, return, confirms).
May not know: sessions, queues, sockets. Rare methods are left to ``pamqp``, which is twenty times slower and
reports "incomplete" and "malformed" alike; hence the frame header and the end octet are checked here.

Source: AMQP 0-9-1 specification, sections 2.3 (framing) and 4.2 (wire level).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pamqp import commands, decode, encode

from backpressure.broker.replies import ConnectionFault, frame_error, syntax_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pamqp import base

__all__ = [
    "FRAME_BODY",
    "FRAME_HEADER",
    "FRAME_HEARTBEAT",
    "FRAME_METHOD",
    "FRAME_MIN_SIZE",
    "HEARTBEAT",
    "PROTOCOL_HEADER",
    "Frame",
    "FrameReader",
    "content_frames",
    "decode_method",
    "frame",
    "method_frame",
    "queue_declare_ok",
    "read_shortstr",
    "shortstr",
]

FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"
FRAME_MIN_SIZE = 4096
"""What a peer must accept before ``frame_max`` is negotiated, in bytes."""
FRAME_OVERHEAD = 8
"""Type, channel and size before the payload, and the end octet after it, in bytes."""
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_HEAD = struct.Struct(">BHI")
_METHOD_ID = struct.Struct(">I")
_KNOWN_TYPES = frozenset((FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT))

Frame = tuple[int, int, bytes]
"""Type, channel number, payload."""


class FrameReader:
    """Bytes in, frames out.

    Three distinct outcomes: a frame is yielded; the iteration ends because more bytes are needed; or a
    `ConnectionFault` is raised because the bytes are no AMQP. Memory is bounded by ``frame_max`` plus one read.
    """

    def __init__(self, frame_max: int) -> None:
        """``frame_max`` is the largest frame accepted, in bytes; it may be changed after negotiation."""
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

        Raises `ConnectionFault` (501) on an unknown type, a frame beyond ``frame_max`` or a wrong end octet.
        """
        if self._held < self._wanted:  # joining anew for each octet of a slow peer would be quadratic
            return
        self._wanted = FRAME_OVERHEAD
        data = self._joined()
        size, start = len(data), 0
        try:
            while size - start >= FRAME_OVERHEAD - 1:
                kind, channel, length = _HEAD.unpack_from(data, start)
                end = start + length + FRAME_OVERHEAD
                if kind not in _KNOWN_TYPES or length > self.frame_max - FRAME_OVERHEAD:
                    raise frame_error(kind, length, self.frame_max)
                if end > size:
                    self._wanted = end - start
                    return
                if data[end - 1] != 0xCE:
                    raise frame_error(kind, length, self.frame_max)
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


def method_frame(channel: int, method: base.Frame) -> bytes:
    """A method frame of a ``pamqp`` method object."""
    return frame(FRAME_METHOD, channel, _METHOD_ID.pack(method.index) + method.marshal())


def queue_declare_ok(channel: int, queue: str, ready: int, consumers: int) -> bytes:
    """The answer to ``queue.declare``; by hand, because ``pamqp`` refuses names that AMQP and RabbitMQ allow."""
    counts = ready.to_bytes(4, "big") + consumers.to_bytes(4, "big")
    return frame(FRAME_METHOD, channel, b"\x00\x32\x00\x0b" + shortstr(queue) + counts)


def decode_method(payload: bytes) -> base.Frame:
    """The ``pamqp`` method object in a method frame's payload.

    Raises `ConnectionFault`: 503 for a method that does not exist, 502 for arguments that cannot be read.
    """
    if len(payload) < 4:
        raise syntax_error()
    (index,) = _METHOD_ID.unpack_from(payload)
    kind = commands.INDEX_MAPPING.get(index)
    if kind is None:
        raise ConnectionFault(503, "COMMAND_INVALID", "unimplemented method", index)
    method: base.Frame = kind()
    try:
        method.unmarshal(payload[4:])
    except Exception as cause:  # pamqp lets struct, index, unicode, overflow and recursion errors through
        raise syntax_error(index) from cause
    return method


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


def shortstr(text: str) -> bytes:
    """A short string (at most 255 octets) with its length octet."""
    encoded: bytes = encode.short_string(text)
    return encoded


def read_shortstr(data: bytes, start: int) -> tuple[str, int]:
    """The short string at ``start`` and the position after it; raises ValueError or IndexError."""
    used, text = decode.short_str(data[start : start + 256])
    return text, start + used
