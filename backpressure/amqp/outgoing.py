"""A message to publish as bytes: the method, header and body frames in one piece.

The messages of a producer differ in few properties, so what stays the same is encoded once. The bytes are those of
pika's encoder (a test compares them). A message that is handed on keeps the properties it came with.

Source: AMQP 0-9-1, sections 4.2.3 to 4.2.6, and RabbitMQ's errata of the field types.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

from backpressure.amqp.field_tables import encode_value, short_string
from backpressure.amqp.frames import BASIC, FRAME_METHOD, FRAME_OVERHEAD, PUBLISH, content_frames, frame
from backpressure.amqp.properties import FLAGS
from backpressure.core.message import HeaderValue, Message

_CONTENT = struct.Struct(">HHQH")  # class, weight, size of the body, flags
_SHORT_INTEGER = struct.Struct(">ci")
_INTEGER = struct.Struct(">cq")
_TEXT = struct.Struct(">cI")
_LENGTH = struct.Struct(">I")
_TIME = struct.Struct(">Q")
_OCTET = struct.Struct(">B")
_SMALLEST, _LARGEST = -(1 << 31), (1 << 31) - 1
_METHOD = PUBLISH.to_bytes(4, "big") + bytes(2)  # with a reserved field
_MANDATORY = b"\x01"
_TRANSIENT, _PERSISTENT = b"\x01", b"\x02"
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = FLAGS["content_type"], FLAGS["headers"], FLAGS["delivery_mode"]
_PRIORITY, _CORRELATION_ID, _REPLY_TO = FLAGS["priority"], FLAGS["correlation_id"], FLAGS["reply_to"]
_EXPIRATION, _MESSAGE_ID, _TIMESTAMP = FLAGS["expiration"], FLAGS["message_id"], FLAGS["timestamp"]


def publish_frames(channel: int, exchange: str, routing_key: str, message: Message, frame_max: int) -> bytes:
    """Return the frames that publish ``message``; it is mandatory: the broker returns it when no queue is bound.

    Args:
        channel: the channel's number.
        exchange: the exchange to publish to.
        routing_key: the routing key.
        message: the message.
        frame_max: the largest frame allowed, in bytes.

    Raises:
        ValueError: a name is longer than 255 bytes, a header has a type that AMQP does not have, or the properties do
            not fit in one frame.
    """
    try:
        header = message.native if isinstance(message.native, bytes) else _header(message)
    except (struct.error, TypeError) as error:
        raise ValueError(f"AMQP cannot carry this message: {error}") from None
    if len(header) > frame_max - FRAME_OVERHEAD:
        raise ValueError(f"properties of {len(header)} bytes do not fit in one frame of {frame_max}")
    return _method_frame(channel, exchange, routing_key) + content_frames(channel, header, message.body, frame_max)


@lru_cache(maxsize=64)
def _method_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    return frame(FRAME_METHOD, channel, _METHOD + short_string(exchange) + short_string(routing_key) + _MANDATORY)


def _header(message: Message) -> bytes:
    """Return the payload of the header frame; the properties follow in the order of their flags."""
    flags = _DELIVERY_MODE
    values: list[bytes] = []
    if message.content_type is not None:
        flags |= _CONTENT_TYPE
        values.append(_name(message.content_type))
    if message.headers:
        flags |= _HEADERS
        values.append(_table(message.headers))
    values.append(_PERSISTENT if message.persistent else _TRANSIENT)
    if message.priority is not None:
        flags |= _PRIORITY
        values.append(_OCTET.pack(message.priority))
    if message.correlation_id is not None:
        flags |= _CORRELATION_ID
        values.append(short_string(message.correlation_id))
    if message.reply_to is not None:
        flags |= _REPLY_TO
        values.append(_name(message.reply_to))
    if message.expiration_ms is not None:
        flags |= _EXPIRATION
        values.append(short_string(str(message.expiration_ms)))
    if message.message_id is not None:
        flags |= _MESSAGE_ID
        values.append(short_string(message.message_id))
    if message.timestamp_s is not None:
        flags |= _TIMESTAMP
        values.append(_TIME.pack(message.timestamp_s))
    return _CONTENT.pack(BASIC, 0, len(message.body), flags) + b"".join(values)


def _table(headers: Mapping[str, HeaderValue]) -> bytes:
    pieces: list[bytes] = []
    for name, value in headers.items():
        if type(value) is int:
            small = _SMALLEST <= value <= _LARGEST
            pieces += (_name(name), _SHORT_INTEGER.pack(b"I", value) if small else _INTEGER.pack(b"l", value))
        elif type(value) is str:
            pieces.append(_text(name, value))
        else:
            pieces += (_name(name), encode_value(value))
    table = b"".join(pieces)
    return _LENGTH.pack(len(table)) + table


_name = lru_cache(maxsize=256)(short_string)


@lru_cache(maxsize=256)
def _text(name: str, value: str) -> bytes:
    """Return a whole field: producer id and host are the same in all messages of a producer."""
    text = value.encode()
    return _name(name) + _TEXT.pack(b"S", len(text)) + text
