"""What a broker sends with every message, read straight from the bytes: deliveries, returned messages and confirms.

A client library makes an object of every frame, looks up callbacks and puts the message together from three of them,
which is two thirds of what a message costs a consumer. It also fails at properties it cannot decode, and so loses the
connection, again each time the message is redelivered. So all messages are read here: a usual one in one go, any other
frame by frame, and what cannot be read is left out (`backpressure.amqp.properties`).

Sans-IO: `Incoming.take` gets bytes and a position. It handles the frames there, or says that it needs more bytes
(`NEEDS_MORE`), or that they are for the client library (`NOT_OURS`): all other methods, and bytes that make no sense.

Source: AMQP 0-9-1, sections 4.2.3 to 4.2.6, and RabbitMQ's errata of the field types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from backpressure.amqp.field_tables import value_end
from backpressure.amqp.frames import (
    ACK,
    BASIC,
    DELIVER,
    FRAME_BODY,
    FRAME_END_OCTET,
    FRAME_HEADER,
    FRAME_METHOD,
    RETURN,
)
from backpressure.amqp.properties import FLAGS, UNREADABLE, read_properties, read_value
from backpressure.core.message import HeaderValue, Message

NEEDS_MORE = -1
NOT_OURS = -2

OnConfirm = Callable[[int, bool], None]
"""Called with a delivery tag, and whether all messages before it are confirmed too."""
OnMessage = Callable[[Message, int, bool, str, str, bytes], None]
"""Called with message, delivery tag, whether it is redelivered, exchange, routing key and content header."""
OnReturn = Callable[[Message, str], None]
"""Called with a message that no queue is bound for, and the broker's reason."""

_PAYLOAD_AT = 7  # where the payload of a frame begins
_FRAME = struct.Struct(">BHI")  # type, channel, size
_METHOD_FRAME = struct.Struct(">BHII")  # the same, then class and method
_DELIVERED = struct.Struct(">QB")  # delivery tag, redelivered
_HEADER_FRAME = struct.Struct(">BHIHHQH")  # type, channel, size, class, weight, size of the body, flags
_CONTENT_HEADER = struct.Struct(">HHQH")
_CONFIRMED = struct.Struct(">QBB")  # delivery tag, multiple, end of frame
_ACK_BYTES = _METHOD_FRAME.size + _CONFIRMED.size
_ACK_SIZE = _ACK_BYTES - _PAYLOAD_AT - 1
_MOST_BODY_BYTES = 1 << 16  # a larger body may come in several frames, and reading is not what it costs

_LENGTH = struct.Struct(">I")
_SHORT_INTEGER = struct.Struct(">i")
_INTEGER = struct.Struct(">q")
_TIME = struct.Struct(">Q")
_MOST_FIELD_BYTES = 64  # longer fields, such as a traceparent, differ between messages
_TEXT_KIND, _SHORT_KIND, _LONG_KINDS = ord("S"), ord("I"), frozenset(b"lL")

_PERSISTENT = 2
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = FLAGS["content_type"], FLAGS["headers"], FLAGS["delivery_mode"]
_EXPIRATION, _MESSAGE_ID, _TIMESTAMP = FLAGS["expiration"], FLAGS["message_id"], FLAGS["timestamp"]
_UNUSUAL = 0xFFFF & ~(_CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _EXPIRATION | _MESSAGE_ID | _TIMESTAMP)

_Delivered = tuple[Message, int, bool, str, str, bytes]  # what `OnMessage` is called with


class Incoming:
    """Calls the listeners of each channel with its messages and confirms; one for each connection."""

    def __init__(self) -> None:
        self._wants_messages: dict[int, OnMessage] = {}
        self._wants_returns: dict[int, OnReturn] = {}
        self._wants_confirms: dict[int, OnConfirm] = {}
        self._unfinished: dict[int, _Unfinished] = {}

    def deliver_to(self, channel: int, on_message: OnMessage) -> None:
        """Hand ``on_message`` what is delivered on this channel, for any of its consumers."""
        self._wants_messages[channel] = on_message

    def return_to(self, channel: int, on_return: OnReturn) -> None:
        """Hand ``on_return`` the messages of this channel that no queue was bound for."""
        self._wants_returns[channel] = on_return

    def confirm_to(self, channel: int, on_confirm: OnConfirm) -> None:
        """Hand ``on_confirm`` the positive confirms of this channel."""
        self._wants_confirms[channel] = on_confirm

    def take(self, data: bytes, at: int) -> int:
        """Handle what begins at ``at`` and return where it ends, or `NEEDS_MORE`, or `NOT_OURS`."""
        if len(data) >= at + _ACK_BYTES:  # no method that is asked for is shorter
            kind, channel, size, method = _METHOD_FRAME.unpack_from(data, at)
            if kind == FRAME_METHOD:
                if method == DELIVER and channel in self._wants_messages:
                    try:
                        end, delivered = _delivery(data, at, channel, size)
                    except _SENSELESS:
                        return self._begin(data, at, channel, size)
                    if delivered is not None:
                        self._wants_messages[channel](*delivered)
                    return end
                if method == ACK and size == _ACK_SIZE and channel in self._wants_confirms:
                    tag, multiple, mark = _CONFIRMED.unpack_from(data, at + _METHOD_FRAME.size)
                    if mark == FRAME_END_OCTET:
                        self._wants_confirms[channel](tag, bool(multiple & 1))
                        return at + _ACK_BYTES
                elif method == RETURN and channel in self._wants_returns:
                    return self._begin(data, at, channel, size)
                return NOT_OURS
        return self._go_on(data, at) if self._unfinished else NOT_OURS

    def _begin(self, data: bytes, at: int, channel: int, size: int) -> int:
        """Take a method that a message follows."""
        end = at + _PAYLOAD_AT + size + 1
        if len(data) < end:
            return NEEDS_MORE
        if data[end - 1] != FRAME_END_OCTET:
            return NOT_OURS
        self._unfinished[channel] = _Unfinished(data[at + _PAYLOAD_AT : end - 1])
        return end

    def _go_on(self, data: bytes, at: int) -> int:
        """Take the next frame of a message, if it is one."""
        if len(data) < at + _FRAME.size:
            return NOT_OURS
        kind, channel, size = _FRAME.unpack_from(data, at)
        message = self._unfinished.get(channel)
        if message is None or not message.wants(kind):
            return NOT_OURS
        end = at + int(size) + _PAYLOAD_AT + 1
        if len(data) < end:
            return NEEDS_MORE
        if data[end - 1] != FRAME_END_OCTET or not message.add(data[at + _PAYLOAD_AT : end - 1]):
            return NOT_OURS
        if not message.missing:
            del self._unfinished[channel]
            if message.is_return:
                self._wants_returns[channel](*message.returned())
            else:
                self._wants_messages[channel](*message.delivered())
        return end


class _Unfinished:
    """A message whose frames have not all come."""

    def __init__(self, method: bytes) -> None:
        """``method`` is the payload of the frame that announced it."""
        self._method = method
        self._header = b""
        self._pieces: list[bytes] = []
        self.missing = 0
        self.is_return = _LENGTH.unpack_from(method)[0] == RETURN

    def wants(self, kind: int) -> bool:
        """Whether a frame of this type is next."""
        return kind == (FRAME_BODY if self._header else FRAME_HEADER)

    def add(self, payload: bytes) -> bool:
        """Take the payload of the frame that is next; False for one that makes no sense."""
        if self._header:
            self._pieces.append(payload)
            self.missing -= len(payload)
            return self.missing >= 0
        if len(payload) < _CONTENT_HEADER.size:
            return False
        self._header = payload
        content, _, self.missing, _ = _CONTENT_HEADER.unpack_from(payload)
        return bool(content == BASIC)

    def delivered(self) -> _Delivered:
        """Return what `OnMessage` is called with."""
        tag_at = 5 + self._method[4]
        tag, redelivered = _DELIVERED.unpack_from(self._method, tag_at)
        exchange, routing_key = self._texts(tag_at + _DELIVERED.size)
        return self._message(), tag, bool(redelivered & 1), exchange, routing_key, self._header

    def returned(self) -> tuple[Message, str]:
        """Return what `OnReturn` is called with."""
        code = int.from_bytes(self._method[4:6], "big")
        return self._message(), f"{self._texts(6)[0]} ({code})"

    def _message(self) -> Message:
        return message_from(read_properties(self._header), b"".join(self._pieces))

    def _texts(self, at: int) -> list[str]:
        """Return the short strings from ``at`` on, for people to read."""
        texts = []
        while at < len(self._method):
            start, at = at + 1, at + 1 + self._method[at]
            texts.append(self._method[start:at].decode(errors="replace"))
        return texts


def message_from(properties: dict[str, object], body: bytes) -> Message:
    """Return a message with those properties that could be read; a malformed expiration counts as none."""
    expiration = properties.get("expiration")
    return Message(
        body=body,
        message_id=cast("str | None", properties.get("message_id")),
        timestamp_s=cast("int | None", properties.get("timestamp")),
        headers=cast("dict[str, HeaderValue]", properties.get("headers", {})),
        persistent=properties.get("delivery_mode") == _PERSISTENT,
        content_type=cast("str | None", properties.get("content_type")),
        expiration_ms=int(expiration) if isinstance(expiration, str) and expiration.isdecimal() else None,
    )


class _UnusualError(Exception):
    """The message is unusual, or makes no sense."""


_SENSELESS = (_UnusualError, struct.error, IndexError, ValueError)


def _delivery(data: bytes, at: int, channel: int, size: int) -> tuple[int, _Delivered | None]:
    """Return the position after a delivery, and the delivery; `NEEDS_MORE` and None while it is incomplete."""
    header_at = at + _PAYLOAD_AT + size + 1
    if len(data) < header_at + _HEADER_FRAME.size:
        return _wait(data, header_at), None
    kind, header_channel, header_size, content, _, body_size, flags = _HEADER_FRAME.unpack_from(data, header_at)
    if kind != FRAME_HEADER or header_channel != channel or content != BASIC:
        raise _UnusualError
    if body_size > _MOST_BODY_BYTES or flags & _UNUSUAL:
        raise _UnusualError
    end = body_at = header_at + _PAYLOAD_AT + header_size + 1
    if body_size:
        if len(data) < body_at + _FRAME.size:
            return _wait(data, header_at, body_at), None
        if _FRAME.unpack_from(data, body_at) != (FRAME_BODY, channel, body_size):
            raise _UnusualError  # it comes in several pieces
        end = body_at + _PAYLOAD_AT + body_size + 1
    if len(data) < end:
        return _wait(data, header_at, body_at), None
    if not data[header_at - 1] == data[body_at - 1] == data[end - 1] == FRAME_END_OCTET:
        raise _UnusualError
    position = at + _METHOD_FRAME.size
    position += 1 + data[position]  # the consumer's tag
    tag, redelivered = _DELIVERED.unpack_from(data, position)
    exchange, routing_key = _route(data[position + _DELIVERED.size : header_at - 1])
    message, position = _message(data, header_at + _HEADER_FRAME.size, flags, data[body_at + _PAYLOAD_AT : end - 1])
    if position != body_at - 1:
        raise _UnusualError
    header = data[header_at + _PAYLOAD_AT : body_at - 1]
    return end, (message, tag, bool(redelivered & 1), exchange, routing_key, header)


def _wait(data: bytes, *ends: int) -> int:
    """Return `NEEDS_MORE`, unless a frame is complete and does not end as it should: more bytes would not help then."""
    if any(end <= len(data) and data[end - 1] != FRAME_END_OCTET for end in ends):
        raise _UnusualError
    return NEEDS_MORE


def _message(data: bytes, at: int, flags: int, body: bytes) -> tuple[Message, int]:
    """Return the message and the position after its properties, which follow in the order of their flags."""
    content_type: str | None = None
    headers: dict[str, HeaderValue] = {}
    mode = 0
    expiration = ""
    message_id: str | None = None
    timestamp_s: int | None = None
    if flags & _CONTENT_TYPE:
        start, at = at + 1, at + 1 + data[at]
        content_type = data[start:at].decode()
    if flags & _HEADERS:
        headers, at = _table(data, at)
    if flags & _DELIVERY_MODE:
        mode = data[at]
        at += 1
    if flags & _EXPIRATION:
        start, at = at + 1, at + 1 + data[at]
        expiration = data[start:at].decode()
    if flags & _MESSAGE_ID:
        start, at = at + 1, at + 1 + data[at]
        message_id = data[start:at].decode()
    if flags & _TIMESTAMP:
        timestamp_s = _TIME.unpack_from(data, at)[0]
        at += _TIME.size
    expiration_ms = int(expiration) if expiration.isdecimal() else None
    return Message(body, message_id, timestamp_s, headers, mode == _PERSISTENT, content_type, expiration_ms), at


def _table(data: bytes, at: int) -> tuple[dict[str, HeaderValue], int]:
    table: dict[str, HeaderValue] = {}
    end = at + 4 + _LENGTH.unpack_from(data, at)[0]
    at += 4
    while at < end:
        name_end = at + 1 + data[at]
        kind = data[name_end]
        if kind == _TEXT_KIND:
            value_at = name_end + 5
            following = value_at + _LENGTH.unpack_from(data, name_end + 1)[0]
            if following - at <= _MOST_FIELD_BYTES:
                name, text = _text_field(data[at:following])
                table[name] = text
            else:
                table[_name(data[at + 1 : name_end])] = data[value_at:following].decode()
        elif kind in _LONG_KINDS:
            table[_name(data[at + 1 : name_end])] = _INTEGER.unpack_from(data, name_end + 1)[0]
            following = name_end + 9
        elif kind == _SHORT_KIND:
            table[_name(data[at + 1 : name_end])] = _SHORT_INTEGER.unpack_from(data, name_end + 1)[0]
            following = name_end + 5
        else:
            following = value_end(data, name_end, end)
            read = read_value(data, name_end, following)
            if read is not UNREADABLE:
                table[_name(data[at + 1 : name_end])] = cast("HeaderValue", read)
        at = following
    if at != end:
        raise _UnusualError
    return table, at


@lru_cache(maxsize=256)
def _name(raw: bytes) -> str:
    return raw.decode()


@lru_cache(maxsize=256)
def _text_field(raw: bytes) -> tuple[str, str]:
    """Return name and value of a field; producer id and host are the same in all messages of a producer."""
    name_end = 1 + raw[0]
    return raw[1:name_end].decode(), raw[name_end + 5 :].decode()


@lru_cache(maxsize=256)
def _route(raw: bytes) -> tuple[str, str]:
    """Return exchange and routing key; as a rule the same for many messages."""
    middle = 1 + raw[0]
    if len(raw) != middle + 1 + raw[middle]:
        raise _UnusualError
    return raw[1:middle].decode(), raw[middle + 1 :].decode()
