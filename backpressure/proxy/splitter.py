"""A byte stream to whole frames, without decoding or copying what is in them.

The result of `Splitter.feed` is a piece of the stream and the positions of the frames in it, so that any run of frames
can be forwarded as one slice. Bytes that are not AMQP are forwarded too: the other side answers them, and closes.
Must not know: what frames mean, channels, sockets.

Source: AMQP 0-9-1 specification, section 2.3.
"""

from __future__ import annotations

import struct

from backpressure.amqp.frames import (
    FRAME_BODY,
    FRAME_END_OCTET,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_OVERHEAD,
)

__all__ = ["Frames", "Splitter"]

_HEAD = struct.Struct(">BHI")
_HEAD_SIZE = 7
_KNOWN = frozenset((FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT))
_LARGEST_WHOLE = 1 << 20  # until they have agreed

Frames = list[tuple[int, int, int, int]]
"""Type and channel of each frame, and its first and last position (exclusive) in the piece of the stream."""


class Splitter:
    """Splits one direction of one connection.

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
        unpack, known, largest = _HEAD.unpack_from, _KNOWN, self.largest_payload
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
