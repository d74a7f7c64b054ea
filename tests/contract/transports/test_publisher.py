"""What every publisher does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backpressure.core.message import Message
from backpressure.errors import NotConnectedError

Play = Callable[..., None]


def test_every_message_is_confirmed_under_its_tag_counted_from_one(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        tags = [bench.send(publisher, b"%d" % number) for number in range(50)]
        await bench.until(lambda: len(log.settled) == 50)
        assert tags == list(range(1, 51))
        assert log.confirmed == set(tags)
        assert log.events[0] == ("ready",)
        assert await bench.contents() == [b"%d" % number for number in range(50)]

    play(story)


def test_an_unroutable_message_is_returned_before_its_confirm(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        message = Message(b"lost", message_id="nobody-wants-me")
        publisher.publish(message, exchange=bench.queue.exchange, routing_key="no.such.key")
        await bench.until(lambda: log.settled == {1})
        assert log.events[1:] == [("returned", "nobody-wants-me", "NO_ROUTE (312)"), ("confirmed", 1)]

    play(story)


def test_a_full_queue_that_rejects_nacks_the_surplus_and_keeps_the_oldest(play: Play) -> None:
    async def story(bench: Any) -> None:
        log = await bench.publish(*(b"%d" % number for number in range(10)))
        assert (log.confirmed, log.nacked) == ({1, 2, 3}, set(range(4, 11)))
        assert await bench.contents() == [b"0", b"1", b"2"]
        assert await bench.contents(bench.queue.dead_letter) == []

    play(story, max_length=3, overflow="reject-publish")


def test_a_full_queue_that_drops_its_head_confirms_all_and_dead_letters_the_oldest(play: Play) -> None:
    async def story(bench: Any) -> None:
        log = await bench.publish(*(b"%d" % number for number in range(10)))
        assert log.confirmed == set(range(1, 11))
        assert await bench.contents() == [b"7", b"8", b"9"]
        dead = await bench.dead_letters(7)
        assert [delivery.message.body for delivery in dead] == [b"%d" % number for number in range(7)]
        death = dead[0].message.headers["x-death"][0]
        assert (death["reason"], death["queue"], death["count"]) == ("maxlen", bench.queue.work, 1)

    play(story, max_length=3, overflow="drop-head")


def test_reject_publish_dlx_nacks_the_surplus_and_dead_letters_it(play: Play) -> None:
    async def story(bench: Any) -> None:
        log = await bench.publish(b"0", b"1", b"2", b"3")
        assert (log.confirmed, log.nacked) == ({1, 2}, {3, 4})
        assert [delivery.message.body for delivery in await bench.dead_letters(2)] == [b"2", b"3"]

    play(story, max_length=2, overflow="reject-publish-dlx")


def test_a_queue_can_be_bounded_by_its_bytes(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*(bytes([number]) * 400 for number in range(5)))
        assert await bench.contents() == [bytes([number]) * 400 for number in (3, 4)]

    play(story, max_length=None, max_length_bytes=1000, overflow="drop-head")


def test_an_unbounded_queue_takes_everything(play: Play) -> None:
    async def story(bench: Any) -> None:
        log = await bench.publish(*[b"x"] * 500)
        assert len(log.confirmed) == 500

    play(story, max_length=None)


def test_body_and_metadata_arrive_as_they_were_sent(play: Play) -> None:
    sent = Message(
        b"\x00\xff" * 150_000,  # three frames
        message_id="0123",
        timestamp_s=1_700_000_000,
        headers={"sent_ns": 1_700_000_000_123_456_789, "host": "here", "flag": True, "nested": {"list": [1, "two"]}},
        persistent=True,
        content_type="application/octet-stream",
        expiration_ms=600_000,
    )

    async def story(bench: Any) -> None:
        await bench.publish(sent, Message(b"", persistent=False))
        first, second = [delivery async for delivery in bench.admin.drain(bench.queue.work)]
        assert first.message == sent
        assert second.message == Message(b"", persistent=False)
        # Kafka knows no exchanges: a record only tells its topic.
        way = ("", bench.queue.work) if bench.kind == "kafka" else (bench.queue.exchange, bench.queue.routing_key)
        assert (first.exchange, first.routing_key) == way

    play(story)


def test_what_outlives_the_queues_ttl_is_dead_lettered(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"old")
        await bench.quiet(await bench.started(bench.transport.probe()), ready=0)
        (dead,) = await bench.dead_letters(1)
        assert dead.message.headers["x-death"][0]["reason"] == "expired"

    play(story, message_ttl_ms=1)


def test_auditing_copies_every_message(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"a", b"b")
        assert await bench.contents() == [b"a", b"b"]
        assert await bench.contents(bench.queue.audit) == [b"a", b"b"]

    play(story, auditing=True)


def test_publishing_without_a_connection_is_an_error_and_uses_up_no_tag(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher = bench.transport.publisher()
        assert not publisher.ready
        with pytest.raises(NotConnectedError):
            bench.send(publisher, b"too early")
        publisher, log = await bench.publisher()
        assert publisher.ready
        assert bench.send(publisher, b"in time") == 1
        await bench.until(lambda: log.confirmed == {1})
        await publisher.stop()
        assert not publisher.ready
        with pytest.raises(NotConnectedError):
            bench.send(publisher, b"too late")

    play(story)


def test_stopping_flushes_what_was_handed_over(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, _log = await bench.publisher()
        for number in range(200):
            bench.send(publisher, b"%d" % number)
        await publisher.stop()
        assert publisher.write_buffer_bytes == 0
        assert len(await bench.contents()) == 200

    play(story)


def test_a_lost_connection_is_reported_once_and_comes_back_with_tags_from_one(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        bench.send(publisher, b"before")
        await bench.until(lambda: log.confirmed == {1})
        bench.cut()
        await bench.until(lambda: log.count("ready") == 2)
        assert [event[0] for event in log.events] == ["ready", "confirmed", "lost", "ready"]
        assert isinstance(log.events[2][1], NotConnectedError)
        assert bench.send(publisher, b"after") == 1
        await bench.until(lambda: log.confirmed == {1})
        assert await bench.contents() == [b"before", b"after"]

    play(story)


def test_what_was_in_flight_at_a_loss_is_never_settled_afterwards(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        in_flight = [bench.send(publisher, b"unknown fate") for _ in range(20)]
        bench.cut()
        await bench.until(lambda: log.count("ready") == 2)
        settled_before = [event for event in log.events if event[0] in {"confirmed", "nacked"}]
        assert len(settled_before) < len(in_flight)
        for number in range(20):  # what an engine does: publish again
            bench.send(publisher, b"%d" % number)
        await bench.until(lambda: len(log.confirmed) == 20)
        assert set(await bench.contents()) >= {b"%d" % number for number in range(20)}

    play(story, max_length=None)
