"""Messages of other programs are delivered, processed and dead-lettered unchanged, whatever their metadata says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from backpressure.amqp.field_tables import short_string
from backpressure.amqp.properties import Properties, read_properties
from backpressure.core.message import Delivery, Message, Metadata
from backpressure.engines.confirming import DeadLetters
from backpressure.errors import TransportError, UncarriableError

Play = Callable[..., None]

pytestmark = pytest.mark.parametrize("kind", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])


def table(fields: dict[bytes, bytes]) -> bytes:
    content = b"".join(bytes((len(name),)) + name + value for name, value in fields.items())
    return struct.pack(">I", len(content)) + content


def nested(depth: int) -> bytes:
    return table({b"n": b"F" + nested(depth - 1)}) if depth else table({})


LATIN_1 = b"\x04caf\xe9"
NO_NUMBER, INFINITY = "no number", "infinity"
TEXTS = ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type", "app_id")
METADATA: dict[str, dict[str, bytes]] = {
    "a time in milliseconds": {"headers": table({b"at": b"T" + struct.pack(">Q", 1_772_000_000_000)})},
    "the last time there is": {"headers": table({b"at": b"T" + b"\xff" * 8}), "timestamp": b"\xff" * 8},
    "a time within a list": {"headers": table({b"at": b"A\0\0\0\x09T" + b"\xff" * 8})},
    "texts that are not UTF-8": dict.fromkeys(TEXTS, LATIN_1),
    "a header's name that is not UTF-8": {"headers": table({b"caf\xe9": b"t\x01"})},
    "a header's text that is not UTF-8": {"headers": table({b"host": b"S\0\0\0" + LATIN_1})},
    NO_NUMBER: {"headers": table({b"sent_ns": b"d" + struct.pack(">d", float("nan"))})},
    INFINITY: {"headers": table({b"sent_ns": b"f" + struct.pack(">f", float("inf"))})},
    "decimals": {"headers": table({b"a": b"D\xff\x7f\xff\xff\xff", b"b": b"D\0\x80\0\0\0"})},
    "deep tables": {"headers": nested(50)},
    "an empty table": {"headers": table({})},
    "many headers": {"headers": table({b"%d" % number: b"V" for number in range(5000)})},
    "an expiration that is far away": {"expiration": short_string("4294967295")},
    "a processing time of 31 years": {"headers": table({b"processing_time": b"S" + struct.pack(">I", 3) + b"1e9"})},
}
ALL: dict[str, bytes] = {
    "content_type": short_string("text/plain"),
    "content_encoding": short_string("gzip"),
    "headers": table({b"float": b"d" + struct.pack(">d", 0.1), b"caf\xe9": b"s\x00\x07", b"at": b"T" + b"\xff" * 8}),
    "delivery_mode": b"\x02",
    "priority": b"\x07",
    "correlation_id": LATIN_1,
    "reply_to": short_string("answers"),
    "expiration": short_string("3600000"),
    "message_id": LATIN_1,
    "timestamp": b"\xff" * 8,
    "type": short_string("order"),
    "app_id": short_string("shop"),
}


@pytest.fixture
def what(request: pytest.FixtureRequest, kind: str) -> str:
    """Return the name of what is odd; RabbitMQ disconnects a client that sends NaN or infinity."""
    if kind == "rabbitmq" and request.param in {NO_NUMBER, INFINITY}:
        pytest.skip("RabbitMQ takes no such message")
    return str(request.param)


def foreign(properties: dict[str, bytes], body: bytes = b"foreign") -> Message:
    return Message(body, native=Properties(len(body), dict(properties)).payload())


@pytest.mark.parametrize("what", METADATA, indirect=True)
def test_a_message_is_delivered_whatever_its_metadata_says(play: Play, what: str) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(foreign(METADATA[what]), b"plain")
        _, log = await bench.subscriber()
        await bench.delivered(log, 2)
        assert log.bodies == [b"foreign", b"plain"]
        assert (log.ready, log.losses) == (1, [])
        assert Metadata.read(log.deliveries[0].message) == Metadata(host=HOSTS.get(what))
        assert [each.message.body async for each in bench.admin.drain(bench.queue.dead_letter)] == []

    play(story)


HOSTS = {"a header's text that is not UTF-8": "caf\N{REPLACEMENT CHARACTER}"}


def test_after_a_report_with_such_metadata_the_others_are_still_received(play: Play, kind: str) -> None:
    odd = [name for name in METADATA if kind == "embedded" or name not in {NO_NUMBER, INFINITY}]

    async def story(bench: Any) -> None:
        heard: list[bytes] = []
        bus = await bench.started(bench.transport.feedback(), heard.append)
        publisher, _ = await bench.publisher()
        for name in odd:
            publisher.publish(foreign(METADATA[name]), exchange=bench.settings.feedback.exchange, routing_key="")
        await bench.until(lambda: len(heard) == len(odd))
        assert bus.send(b"report")
        await bench.until(lambda: b"report" in heard)

    play(story)


async def given_up(bench: Any, message: Message) -> tuple[Delivery, Delivery]:
    """Hand ``message`` on as a consumer does; return it as it came, and as a dead letter."""
    await bench.publish(message)
    subscriber, log = await bench.subscriber()
    await bench.delivered(log, 1)
    [delivery] = log.deliveries
    dead_letters = DeadLetters(bench.transport, bench.queue)
    await dead_letters.send(delivery, "ValueError: no", 3)
    assert subscriber.ack(delivery)
    await dead_letters.stop()
    (dead,) = await bench.dead_letters(1)
    return delivery, dead


def test_a_dead_letter_keeps_everything_but_its_expiration(play: Play) -> None:
    async def story(bench: Any) -> None:
        before, dead = [Properties.parse(each.native) for each in await given_up(bench, foreign(ALL))]
        headers = dead.headers()
        assert {name: headers[name] for name in before.headers()} == before.headers()
        assert {name: value for name, value in dead.raw.items() if name != "headers"} == {
            name: value for name, value in ALL.items() if name not in {"headers", "expiration"}
        }
        known: Any = read_properties(dead.payload())["headers"]
        assert (known["x-pace-reason"], known["x-pace-attempts"]) == ("ValueError: no", 3)
        [death] = known["x-death"]
        assert (death["reason"], death["queue"], death["count"]) == ("rejected", bench.queue.work, 1)
        assert (death["exchange"], death["routing-keys"]) == (bench.queue.exchange, [bench.queue.routing_key])
        assert death["original-expiration"] == "3600000"

    play(story)


@pytest.mark.parametrize("what", METADATA, indirect=True)
def test_what_cannot_be_read_can_be_dead_lettered(play: Play, what: str) -> None:
    async def story(bench: Any) -> None:
        before, dead = await given_up(bench, foreign(METADATA[what]))
        assert dead.message.body == b"foreign"
        was, now = Properties.parse(before.native), Properties.parse(dead.native)
        assert was.headers().items() <= now.headers().items()
        assert {**was.raw, "headers": b""} == {**now.raw, **dict(was.raw.items() & EXPIRING), "headers": b""}

    play(story)


EXPIRING = METADATA["an expiration that is far away"].items()


def test_without_a_dead_letter_queue_the_connection_stays_and_the_error_says_so(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(foreign(ALL))
        _, log = await bench.subscriber()
        await bench.delivered(log, 1)
        await bench.admin.delete(bench.queue.dead_letter)
        dead_letters = DeadLetters(bench.transport, bench.queue)
        with pytest.raises(TransportError, match="there is no dead-letter queue"):
            await dead_letters.send(log.deliveries[0], "why", 1)
        await bench.admin.declare(bench.queue)
        await dead_letters.send(log.deliveries[0], "why", 1)
        await dead_letters.stop()

    play(story)


def test_headers_that_fill_a_frame_leave_no_room_for_the_reason_and_the_broker_dead_letters(play: Play) -> None:
    async def story(bench: Any) -> None:
        full = 131_072 - 8 - 14 - 4 - 2 - 5
        headers = table({b"x": b"S" + struct.pack(">I", full) + b"x" * full})
        await bench.publish(foreign({"headers": headers}))
        subscriber, log = await bench.subscriber()
        await bench.delivered(log, 1)
        dead_letters = DeadLetters(bench.transport, bench.queue)
        with pytest.raises(UncarriableError, match="do not fit in one frame"):
            await dead_letters.send(log.deliveries[0], "why", 1)
        await dead_letters.stop()
        assert subscriber.nack(log.deliveries[0], requeue=False)
        probe = await bench.started(bench.transport.probe())
        await bench.quiet(probe, ready=1, queue=bench.queue.dead_letter)

    play(story)
