"""The arguments of methods, in the payload of their frames.

``pamqp`` defines which arguments a method has and their types; this module reads and writes them. The codec of
``pamqp`` accepts few characters in names, and raises five kinds of exceptions for malformed octets.

The methods that come with every message are encoded by hand, as a broker reads and writes them, because they are most
of a broker's work; ``incoming`` and ``outgoing`` are the client's half. A route is the octets of exchange and routing
key: the broker passes them on as they came.

Must not know: queues, channels, sockets.

Source: AMQP 0-9-1 sections 1.8 (the class basic) and 4.2.3 to 4.2.5, and RabbitMQ's ``basic.nack``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pamqp import base, commands

from backpressure.amqp.field_tables import FieldTable, octets_of, short_string
from backpressure.amqp.frames import (
    ACK,
    DELIVER,
    FRAME_END,
    FRAME_METHOD,
    GET_OK,
    NACK,
    PUBLISH,
    RETURN,
    bad_syntax,
    bad_text,
    frame,
    unknown_method,
)

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


_HEAD = struct.Struct(">BHI")
_TAG_AND_BITS = struct.Struct(">QB")
_COUNT = struct.Struct(">I")
_CONFIRM = struct.Struct(">BHIIQBB")  # the whole frame: type, channel, size, method, tag, multiple, end
_CONFIRM_SIZE = 4 + _TAG_AND_BITS.size
_DELIVER, _GET_OK = DELIVER.to_bytes(4, "big"), GET_OK.to_bytes(4, "big")
_RETURN_NO_ROUTE = RETURN.to_bytes(4, "big") + struct.pack(">H", 312) + short_string("NO_ROUTE")
_MOST_PUBLISH_BYTES = 4 + 2 + 256 + 256 + 1  # a larger method has extra octets after its arguments


@dataclass(frozen=True, slots=True)
class PublishMethod:
    """The arguments of ``basic.publish``. Names that are not UTF-8 are decoded without loss."""

    exchange: str
    routing_key: str
    route: bytes
    mandatory: bool
    immediate: bool

    @classmethod
    def parse(cls, payload: bytes) -> PublishMethod:
        """Parse a method frame's payload; `DecodeError` if malformed."""
        try:
            exchange, position = read_short(payload, 6)
            routing_key, position = read_short(payload, position)
            bits = payload[position]
        except IndexError as cause:
            raise bad_syntax(PUBLISH) from cause
        route = payload[6:position]
        return cls(_text(exchange), _text(routing_key), route, mandatory=bool(bits & 1), immediate=bool(bits & 2))


def _text(octets: bytes) -> str:
    return octets.decode(errors="surrogateescape")


cached_publish = lru_cache(maxsize=1024)(PublishMethod.parse)


def read_publish(payload: bytes) -> PublishMethod:
    """Parse ``basic.publish``. Publishers use few routes: results are cached, unless they would fill the memory."""
    return cached_publish(payload) if len(payload) <= _MOST_PUBLISH_BYTES else PublishMethod.parse(payload)


def read_acknowledgement(index: int, payload: bytes) -> tuple[int, int]:
    """Return the delivery tag and the bits of ``basic.ack``, ``nack`` or ``reject``; `DecodeError` if malformed."""
    try:
        tag, bits = _TAG_AND_BITS.unpack_from(payload, 4)
    except struct.error as cause:
        raise bad_syntax(index) from cause
    return tag, bits


def deliver_prefix(consumer_tag: str) -> bytes:
    """Return the octets with which each ``basic.deliver`` to this consumer begins."""
    return _DELIVER + short_string(consumer_tag)


def deliver_frame(channel: int, prefix: bytes, tag: int, redelivered: bool, route: bytes) -> bytes:
    """Return the frame of ``basic.deliver``; ``prefix`` is from `deliver_prefix`."""
    size = len(prefix) + _TAG_AND_BITS.size + len(route)
    head = _HEAD.pack(FRAME_METHOD, channel, size)
    return b"".join((head, prefix, _TAG_AND_BITS.pack(tag, redelivered), route, FRAME_END))


def get_ok_frame(channel: int, tag: int, redelivered: bool, route: bytes, left: int) -> bytes:
    """Return the frame of ``basic.get-ok``; ``left`` messages are still in the queue."""
    return deliver_frame(channel, _GET_OK, tag, redelivered, route + _COUNT.pack(left))


def return_frame(channel: int, route: bytes) -> bytes:
    """Return the frame of ``basic.return`` for a message that no queue is bound for."""
    payload = _RETURN_NO_ROUTE + route
    return _HEAD.pack(FRAME_METHOD, channel, len(payload)) + payload + FRAME_END


def confirm_frame(channel: int, accepted: bool, tag: int, multiple: bool) -> bytes:
    """Return the frame of ``basic.ack`` or ``basic.nack`` to a publisher."""
    index = ACK if accepted else NACK
    return _CONFIRM.pack(FRAME_METHOD, channel, _CONFIRM_SIZE, index, tag, multiple, FRAME_END[0])
