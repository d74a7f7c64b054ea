"""The methods that come with every message, as a broker reads and writes them.

They are encoded by hand, because they are most of a broker's work; ``methods`` has all others. ``incoming`` and
``outgoing`` are the client's half. A route is the octets of exchange and routing key: the broker passes them on as they
came.

Must not know: queues, channels, sockets.

Source: AMQP 0-9-1 section 1.8 (the class basic), and RabbitMQ's ``basic.nack``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from backpressure.amqp.field_tables import short_string
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
)
from backpressure.amqp.methods import read_short

__all__ = [
    "PublishMethod",
    "confirm_frame",
    "deliver_frame",
    "deliver_prefix",
    "get_ok_frame",
    "read_acknowledgement",
    "read_publish",
    "return_frame",
]

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
