"""Deliveries and confirms decoded from bytes: the same result as with pika, however the bytes arrive."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.channel import ContentFrameAssembler
from pika.exceptions import InvalidFrameError

from backpressure.amqp.incoming import Incoming, message_from
from backpressure.amqp.properties import Properties
from backpressure.core.message import Message
from backpressure.transports.rabbitmq.wire import WireConnection
from tests.unit.amqp.test_outgoing import MESSAGES, TEXTS, properties_of

OURS, THEIRS = 7, 8  # channels: one whose messages are wanted from the bytes, and one that pika has to itself

Event = tuple[object, ...]


class FedConnection(WireConnection):
    """A connection without a socket: what would go to pika's callbacks is put together from its frames."""

    def __init__(self, *, short_way: bool) -> None:
        # pika's own constructor would dial
        self._frame_buffer = b""
        self.bytes_received = 0
        self.incoming = Incoming()
        self.events: list[Event] = []
        self.frames = 0
        self.headers: list[object] = []
        self._assemblers: dict[int, ContentFrameAssembler] = {}
        if short_way:
            self.incoming.deliver_to(OURS, self._delivered)
            self.incoming.return_to(OURS, lambda *returned: self.events.append((OURS, "returned", *returned)))
            self.incoming.confirm_to(OURS, lambda *confirmed: self.events.append((OURS, "ack", *confirmed)))

    def _delivered(self, message: Message, *rest: object) -> None:
        *how, header = rest
        self.headers.append(header)
        self.events.append((OURS, message, *how))

    def _process_frame(self, frame_value: Any) -> None:
        self.frames += 1
        channel = frame_value.channel_number
        method = getattr(frame_value, "method", None)
        if isinstance(method, spec.Basic.Ack):
            self.events.append((channel, "ack", method.delivery_tag, method.multiple))
        elif isinstance(frame_value, frame.Heartbeat) or isinstance(method, spec.Basic.Nack):
            self.events.append((channel, type(method).__name__))
        else:
            whole = self._assemblers.setdefault(channel, ContentFrameAssembler()).process(frame_value)
            if whole is not None:
                deliver, header, body = whole
                what: Any = deliver.method
                known = {name: value for name, value in vars(header.properties).items() if value is not None}
                message = message_from(known, body)
                names = (what.exchange, what.routing_key)
                self.events.append((channel, message, what.delivery_tag, what.redelivered, *names))


def feed(stream: bytes, sizes: list[int], *, short_way: bool = True) -> FedConnection:
    connection = FedConnection(short_way=short_way)
    at = 0
    for size in [*sizes, len(stream)]:
        if at < len(stream):
            connection._on_data_available(stream[at : at + size])
            at += size
    return connection


def delivery(
    channel: int,
    message: Message,
    *,
    tag: int = 1,
    redelivered: bool = False,
    exchange: str = "",
    key: str = "work",
    body_max: int = 100_000,
    consumer: str = "someone-1",
    **properties: Any,
) -> bytes:
    basics = properties_of(message)
    for name, value in properties.items():
        setattr(basics, name, value)
    body = message.body
    frames = [
        frame.Method(channel, spec.Basic.Deliver(consumer, tag, redelivered, exchange, key)),
        frame.Header(channel, len(body), basics),
        *(frame.Body(channel, body[start : start + body_max]) for start in range(0, len(body), body_max)),
    ]
    return b"".join(each.marshal() for each in frames)


def method(channel: int, what: spec.Basic.Ack | spec.Basic.Nack) -> bytes:
    marshalled: bytes = frame.Method(channel, what).marshal()
    return marshalled


CHANNELS = st.sampled_from([OURS, THEIRS])
TAGS = st.integers(1, (1 << 63) - 1)
DELIVERIES = st.builds(
    delivery,
    CHANNELS,
    MESSAGES,
    tag=TAGS,
    redelivered=st.booleans(),
    exchange=TEXTS,
    key=TEXTS,
    body_max=st.integers(20, 100),
    consumer=TEXTS,
    priority=st.none() | st.integers(0, 255),
    reply_to=st.none() | TEXTS,
)
STREAMS = st.lists(
    DELIVERIES
    | st.builds(method, CHANNELS, st.builds(spec.Basic.Ack, TAGS, st.booleans()))
    | st.builds(method, CHANNELS, st.builds(spec.Basic.Nack, TAGS))
    | st.just(frame.Heartbeat().marshal()),
    max_size=6,
)


@given(STREAMS, st.lists(st.integers(1, 200), max_size=30))
def test_what_is_understood_is_what_pika_understands(pieces: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(pieces)
    connection = feed(stream, sizes)
    assert connection.events == feed(stream, [], short_way=False).events
    assert connection.bytes_received == len(stream)


ACK = method(OURS, spec.Basic.Ack(1))
DELIVERED = spec.Basic.Deliver("someone-1", 1, False, "", "work")
MESSAGE = Message(b"body", "an-id", 1_700_000_000, {"producer_id": "p1", "sequence": 5, "sent_ns": 1 << 60})


def test_what_is_wanted_never_becomes_a_frame_of_pikas() -> None:
    stream = delivery(OURS, MESSAGE, tag=9, redelivered=True) + method(OURS, spec.Basic.Ack(3, multiple=True))
    connection = feed(stream, [1] * len(stream))
    assert connection.events == [(OURS, MESSAGE, 9, True, "", "work"), (OURS, "ack", 3, True)]
    assert connection.frames == 0


@given(st.lists(st.integers(1, 200), max_size=30))
def test_a_message_of_several_frames_is_put_together(sizes: list[int]) -> None:
    connection = feed(delivery(OURS, MESSAGE, body_max=3) + delivery(OURS, MESSAGE, tag=2), sizes)
    assert connection.events == [(OURS, MESSAGE, 1, False, "", "work"), (OURS, MESSAGE, 2, False, "", "work")]
    assert connection.frames == 0


def test_a_message_comes_with_its_content_header_as_it_was() -> None:
    plain, unusual = delivery(OURS, MESSAGE), delivery(OURS, MESSAGE, priority=3, app_id="them")
    connection = feed(plain + unusual, [])
    first, second = connection.headers
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert first in plain
    assert second in unusual
    assert Properties.parse(second).text("app_id") == "them"


@given(st.lists(st.integers(1, 200), max_size=30))
def test_a_returned_message_is_read_whatever_its_properties(sizes: list[int]) -> None:
    method_frame = frame.Method(OURS, spec.Basic.Return(312, "NO_ROUTE", "", "nowhere")).marshal()
    _, _, content = delivery(OURS, MESSAGE).partition(frame.Method(OURS, DELIVERED).marshal())
    connection = feed(method_frame + content.replace(b"an-id", b"\xffn-id") + ACK, sizes)
    [(_, kind, message, reason), ack] = connection.events
    assert (kind, message.message_id, message.body, reason) == ("returned", None, b"body", "NO_ROUTE (312)")
    assert ack == (OURS, "ack", 1, False)


def test_a_message_without_body_or_properties_is_one_too() -> None:
    bare = delivery(OURS, Message(b""), delivery_mode=None)
    connection = feed(bare, [])
    assert connection.events == [(OURS, Message(b"", persistent=False), 1, False, "", "work")]
    assert connection.frames == 0


def test_a_handler_that_fails_is_called_once() -> None:
    connection = FedConnection(short_way=False)
    calls: list[int] = []

    def failing(*_: object) -> None:
        calls.append(1)
        raise IndexError

    connection.incoming.deliver_to(OURS, failing)
    with pytest.raises(IndexError):
        connection._on_data_available(delivery(OURS, MESSAGE))
    assert len(calls) == 1
    assert connection.frames == 0


def damaged(stream: bytes, at: int, value: int) -> bytes:
    return stream[:at] + bytes([value]) + stream[at + 1 :]


WHOLE = delivery(OURS, replace(MESSAGE, content_type="text/plain", expiration_ms=5), tag=2, priority=1, reply_to="r")
METHOD_SIZE = len(frame.Method(OURS, spec.Basic.Deliver("someone-1", 2, False, "", "work")).marshal())
PROPERTIES = range(METHOD_SIZE + 7 + 12, len(WHOLE) - len(frame.Body(OURS, MESSAGE.body).marshal()) - 1)
BOUNDARIES = [range(7), range(METHOD_SIZE - 1, METHOD_SIZE + 7), range(PROPERTIES.stop, PROPERTIES.stop + 8)]
FRAMES = [len(WHOLE) - 1, *chain.from_iterable(BOUNDARIES)]


@given(st.sampled_from(PROPERTIES), st.integers(0, 255), st.lists(st.integers(1, 200), max_size=9))
def test_no_properties_keep_a_message_from_being_delivered(at: int, value: int, sizes: list[int]) -> None:
    connection = feed(damaged(WHOLE, at, value) + ACK, sizes)
    [(_, message, tag, *_), ack] = connection.events
    assert (message.body, tag, ack) == (b"body", 2, (OURS, "ack", 1, False))
    assert connection.frames == 0


@given(st.sampled_from(FRAMES), st.integers(0, 255))
def test_damaged_frames_end_as_they_do_with_pika(at: int, value: int) -> None:
    stream = damaged(WHOLE, at, value) + ACK
    outcomes = []
    for short_way in (True, False):
        connection = FedConnection(short_way=short_way)
        try:
            connection._on_data_available(stream)
        except Exception as error:  # noqa: BLE001 -- whatever pika makes of it
            outcomes.append((connection.events, repr(error)))
        else:
            outcomes.append((connection.events, "waits or is done"))
    assert outcomes[0] == outcomes[1]


def test_a_frame_without_its_end_is_an_error() -> None:
    stream = bytearray(delivery(OURS, MESSAGE))
    stream[-1] = 0
    with pytest.raises(InvalidFrameError):
        feed(bytes(stream), [])
