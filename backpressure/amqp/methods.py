"""The arguments of methods, in the payload of their frames.

``pamqp`` defines which arguments a method has and their types; this module reads and writes them. The codec of
``pamqp`` accepts few characters in names, and raises five kinds of exceptions for malformed octets. The methods
that come with every message are in ``message_methods``.

Source: AMQP 0-9-1 sections 4.2.3 to 4.2.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from pamqp import base, commands

from backpressure.amqp.field_tables import FieldTable, octets_of, short_string
from backpressure.amqp.frames import FRAME_METHOD, bad_syntax, bad_text, frame, unknown_method

__all__ = [
    "ACCESS_REQUEST",
    "access_request_ok",
    "decode_method",
    "encode_method",
    "method_frame",
    "method_index",
    "queue_declare_ok",
    "read_short",
]

ACCESS_REQUEST = 0x001E000A
"""``access.request`` of AMQP 0-8: class and method number. ``pamqp`` does not know it."""


_INDEX = struct.Struct(">I")
_LENGTH = struct.Struct(">I")
_INTEGERS = {
    "octet": struct.Struct(">B"),
    "short": struct.Struct(">H"),
    "long": _LENGTH,
    "longlong": struct.Struct(">Q"),
}


def method_index(payload: bytes) -> int:
    """Return class and method number as one integer; 0 (not a method) for a payload that is too short."""
    return int.from_bytes(payload[:4], "big") if len(payload) >= 4 else 0


def decode_method(payload: bytes) -> base.Frame:
    """The ``pamqp`` method object in a method frame's payload; tables are `FieldTable`.

    Raises `DecodeError`: 503 for a method that does not exist, 501 for a name that is not UTF-8, 502 for arguments that
    cannot be read. Octets after the last argument are ignored, as RabbitMQ does.
    """
    if len(payload) < 4:
        raise bad_syntax()
    index = method_index(payload)
    kind = commands.INDEX_MAPPING.get(index)
    if kind is None:
        raise unknown_method(index)
    method: base.Frame = object.__new__(kind)  # its arguments are all set below, and need no check of pamqp
    try:
        for name, value in _arguments(kind, payload):
            setattr(method, name, value)
    except UnicodeDecodeError as cause:
        raise bad_text(index) from cause
    except (struct.error, IndexError, ValueError) as cause:
        raise bad_syntax(index) from cause
    return method


def _arguments(kind: type[base.Frame], payload: bytes) -> Iterator[tuple[str, Any]]:
    at, bit = 4, 0
    for name in kind.attributes():
        type_ = kind.amqp_type(name)
        if type_ == "bit":
            at, bit = (at, bit) if bit < 8 else (at + 1, 0)
            yield name, bool(payload[at] >> bit & 1)
            bit += 1
            continue
        at, bit = (at + 1 if bit else at), 0
        if type_ == "shortstr":
            octets, at = read_short(payload, at)
            yield name, octets.decode()
        elif type_ in {"longstr", "table"}:
            end = at + 4 + int(_LENGTH.unpack_from(payload, at)[0])
            if end > len(payload):
                raise ValueError("a string or table is truncated")
            octets = payload[at:end]
            yield name, FieldTable(octets) if type_ == "table" else octets[4:].decode(errors="surrogateescape")
            at = end
        else:
            integer = _INTEGERS[type_]
            yield name, integer.unpack_from(payload, at)[0]
            at += integer.size


def encode_method(method: base.Frame) -> bytes:
    """The payload of a method frame; `ValueError` for a short string of more than 255 octets."""
    pieces, bits = [_INDEX.pack(method.index)], ""
    for name in method.attributes():
        type_, value = method.amqp_type(name), getattr(method, name)
        if type_ == "bit":
            bits += "1" if value else "0"
            continue
        pieces += _packed(bits)
        bits = ""
        if type_ == "shortstr":
            pieces.append(short_string(value or ""))
        elif type_ == "longstr":
            octets = value.encode(errors="surrogateescape")
            pieces += (_LENGTH.pack(len(octets)), octets)
        elif type_ == "table":
            pieces.append(octets_of(value or {}))
        else:
            pieces.append(_INTEGERS[type_].pack(value or 0))
    return b"".join((*pieces, *_packed(bits)))


def _packed(bits: str) -> Iterator[bytes]:
    """Bits that follow each other share octets, the first in the lowest place."""
    for start in range(0, len(bits), 8):
        yield bytes((int(bits[start : start + 8][::-1], 2),))


def method_frame(channel: int, method: base.Frame) -> bytes:
    """A method frame."""
    return frame(FRAME_METHOD, channel, encode_method(method))


def queue_declare_ok(channel: int, queue: str, ready: int, consumers: int) -> bytes:
    """The answer to ``queue.declare``, which is how clients watch a queue: by hand, because it is frequent."""
    counts = ready.to_bytes(4, "big") + consumers.to_bytes(4, "big")
    return frame(FRAME_METHOD, channel, b"\x00\x32\x00\x0b" + short_string(queue) + counts)


def access_request_ok(channel: int) -> bytes:
    """The answer to ``access.request``: ticket 1."""
    return frame(FRAME_METHOD, channel, b"\x00\x1e\x00\x0b\x00\x01")


def read_short(data: bytes, at: int) -> tuple[bytes, int]:
    """The octets of the short string at ``at``, and the position after it; `IndexError` when it is truncated."""
    end = at + 1 + data[at]
    if end > len(data):
        raise IndexError("a short string is truncated")
    return data[at + 1 : end], end
