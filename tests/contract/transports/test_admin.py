"""What the admin of every transport does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backpressure.errors import PreconditionFailedError, QueueNotFoundError

Play = Callable[..., None]


def test_the_broker_says_who_it_is(play: Play) -> None:
    async def story(bench: Any) -> None:
        identity = await bench.admin.identity()
        expected = {"memory": "memory", "embedded": "embedded", "rabbitmq": "RabbitMQ", "kafka": "Apache Kafka"}[
            bench.kind
        ]
        assert expected in identity.product
        assert identity.version[0].isdigit()
        assert "guest" not in identity.address

    play(story)


def test_declaring_twice_changes_nothing(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"kept")
        await bench.admin.declare(bench.queue)
        assert await bench.contents() == [b"kept"]

    play(story)


@pytest.mark.parametrize(
    ("change", "argument"), [({"durable": False}, "durable"), ({"message_ttl_ms": 5000}, "x-message-ttl")]
)
def test_other_arguments_are_refused_by_name_and_change_nothing(
    play: Play, change: dict[str, Any], argument: str
) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"kept")
        with pytest.raises(PreconditionFailedError) as caught:
            await bench.admin.declare(bench.queue.model_copy(update=change))
        assert caught.value.argument == argument
        assert caught.value.name in {bench.queue.work, bench.queue.dead_letter}
        assert await bench.contents() == [b"kept"]

    play(story)


def test_a_purge_says_how_many_it_dropped(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*[b"x"] * 12)
        assert await bench.admin.purge(bench.queue.work) == 12
        assert await bench.admin.purge(bench.queue.work) == 0
        with pytest.raises(QueueNotFoundError, match=r"no\.such\.queue"):
            await bench.admin.purge("no.such.queue")

    play(story)


def test_deleting_what_is_not_there_is_not_an_error(play: Play) -> None:
    async def story(bench: Any) -> None:
        for _ in range(2):
            await bench.admin.delete(bench.queue.work)
            await bench.admin.delete_exchange(bench.queue.exchange)
        with pytest.raises(QueueNotFoundError):
            await bench.admin.purge(bench.queue.work)

    play(story)


def test_draining_takes_everything_in_order(play: Play) -> None:
    async def story(bench: Any) -> None:
        bodies = [b"%d" % number for number in range(2500)]
        await bench.publish(*bodies)
        assert await bench.contents() == bodies
        assert await bench.contents() == []
        with pytest.raises(QueueNotFoundError):
            await bench.contents("no.such.queue")

    play(story)


def test_a_drain_left_early_leaves_the_rest_in_the_queue(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"0", b"1", b"2", b"3")
        drain = bench.admin.drain(bench.queue.work)
        assert (await anext(drain)).message.body == b"0"
        assert (await anext(drain)).message.body == b"1"
        assert (await anext(drain)).message.body == b"2"
        await drain.aclose()
        assert (await bench.contents())[-1:] == [b"3"]

    play(story)


def test_the_bound_of_a_live_queue_can_be_lowered_raised_and_removed(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()

        async def fill(count: int) -> int:
            before = len(log.confirmed)
            tags = [bench.send(publisher, b"x") for _ in range(count)]
            await bench.until(lambda: set(tags) <= log.settled)
            return len(log.confirmed) - before

        assert await fill(10) == 5
        await bench.admin.set_bound(bench.queue.work, max_length=8, overflow="reject-publish")
        assert await fill(10) == 3
        await bench.admin.set_bound(bench.queue.work, max_length=4, overflow="reject-publish")
        assert await fill(10) == 0
        await bench.admin.set_bound(bench.queue.work, max_length=None, overflow="reject-publish")
        assert await fill(10) == 10
        probe = await bench.started(bench.transport.probe())
        assert (await probe.read(bench.queue.work)).ready == 18  # lowering a bound that rejects drops nothing
        await bench.admin.set_bound(bench.queue.work, max_length=2, overflow="drop-head")
        assert await fill(10) == 10
        assert len(await bench.contents()) == 2

    play(story, max_length=5)


def test_the_last_declaration_decides_about_the_bound(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.admin.declare(bench.queue.model_copy(update={"max_length": 2}))
        log = await bench.publish(b"0", b"1", b"2")
        assert log.nacked == {3}

    play(story, max_length=5)


def test_changing_the_bound_of_a_missing_queue_names_it(play: Play) -> None:
    async def story(bench: Any) -> None:
        with pytest.raises(QueueNotFoundError, match=r"no\.such\.queue"):
            await bench.admin.set_bound("no.such.queue", max_length=1, overflow="drop-head")

    play(story)
