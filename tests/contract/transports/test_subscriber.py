"""What every subscriber does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backpressure.errors import QueueNotFoundError

Play = Callable[..., None]

NUMBERS = [b"%d" % number for number in range(10)]


def test_prefetch_bounds_what_is_unsettled_and_each_ack_makes_room(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        subscriber, log = await bench.subscriber(prefetch=3)
        probe = await bench.started(bench.transport.probe())
        await bench.delivered(log, 3)
        await bench.quiet(probe, ready=7)
        assert log.bodies == NUMBERS[:3]
        assert subscriber.ack(log.deliveries[0])
        await bench.delivered(log, 4)
        await bench.quiet(probe, ready=6)
        assert log.bodies == NUMBERS[:4]

    play(story)


def test_one_ack_can_settle_everything_before_it(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        subscriber, log = await bench.subscriber(prefetch=5)
        await bench.delivered(log, 5)
        assert subscriber.ack(log.deliveries[2], multiple=True)
        await bench.delivered(log, 8)
        await subscriber.stop()
        assert await bench.contents() == NUMBERS[3:]

    play(story)


def test_a_requeued_message_returns_to_its_place_marked_as_redelivered(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS[:4])
        subscriber, log = await bench.subscriber(prefetch=1)
        await bench.delivered(log, 1)
        assert not log.deliveries[0].redelivered
        assert subscriber.nack(log.deliveries[0], requeue=True)
        await bench.delivered(log, 2)
        if log.bodies[1] == b"1":  # a busy RabbitMQ puts "there is room" before "requeue this" (amqqueue_process)
            assert subscriber.ack(log.deliveries[1])
            await bench.delivered(log, 3)
        assert log.bodies[-1] == b"0"
        assert log.deliveries[-1].redelivered

    play(story)


def test_a_refused_message_goes_to_the_dead_letters(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"poison", b"good")
        subscriber, log = await bench.subscriber()
        await bench.delivered(log, 2)
        assert subscriber.nack(log.deliveries[0], requeue=False)
        assert subscriber.ack(log.deliveries[1])
        await subscriber.stop()
        (dead,) = await bench.dead_letters(1)
        assert dead.message.body == b"poison"
        assert dead.message.headers["x-death"][0]["reason"] == "rejected"
        assert await bench.contents() == []

    play(story)


def test_prefetch_can_grow_and_shrink_while_consuming(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        subscriber, log = await bench.subscriber(prefetch=1)
        probe = await bench.started(bench.transport.probe())
        subscriber.set_prefetch(4)
        await bench.delivered(log, 4)
        await bench.quiet(probe, ready=6)
        assert log.bodies == NUMBERS[:4]
        subscriber.set_prefetch(2)
        for delivery in log.deliveries[:2]:
            subscriber.ack(delivery)
        await probe.read(bench.queue.work)
        assert len(log.deliveries) == 4  # two are still unsettled: no room
        subscriber.ack(log.deliveries[2])
        await bench.delivered(log, 5)
        await bench.quiet(probe, ready=5)
        assert log.bodies == NUMBERS[:5]

    play(story)


def test_a_pause_stops_deliveries_and_leaves_what_is_here_to_be_settled(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        subscriber, log = await bench.subscriber(prefetch=3)
        probe = await bench.started(bench.transport.probe())
        await bench.delivered(log, 3)
        await bench.quiet(probe, ready=7)
        await subscriber.pause()
        assert [subscriber.ack(delivery) for delivery in log.deliveries] == [True] * 3
        await bench.quiet(probe, ready=7)
        assert len(log.deliveries) == 3
        await subscriber.resume()
        await bench.delivered(log, 6)
        await bench.quiet(probe, ready=4)
        assert log.bodies == NUMBERS[:6]
        assert not any(delivery.redelivered for delivery in log.deliveries)
        assert log.ready == 1

    play(story)


def test_stopping_sends_the_acks_and_returns_the_rest_to_the_queue_in_order(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS[:5])
        subscriber, log = await bench.subscriber()
        await bench.delivered(log, 5)
        subscriber.ack(log.deliveries[1])
        subscriber.ack(log.deliveries[3])
        await subscriber.stop()
        assert not subscriber.ack(log.deliveries[0])
        back = [delivery async for delivery in bench.admin.drain(bench.queue.work)]
        assert [delivery.message.body for delivery in back] == [b"0", b"2", b"4"]
        assert all(delivery.redelivered for delivery in back)

    play(story)


def test_a_delivery_of_a_lost_connection_settles_nothing_and_comes_again(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS[:3])
        subscriber, log = await bench.subscriber()
        await bench.delivered(log, 3)
        bench.cut()
        await bench.delivered(log, 6)
        assert (log.ready, len(log.losses)) == (2, 1)
        stale, fresh = log.deliveries[:3], log.deliveries[3:]
        assert stale[0].epoch < fresh[0].epoch
        assert [subscriber.ack(delivery) for delivery in stale] == [False] * 3
        assert not subscriber.nack(stale[0], requeue=True)
        assert log.bodies[3:] == NUMBERS[:3]
        assert all(delivery.redelivered for delivery in fresh)
        assert [subscriber.ack(delivery) for delivery in fresh] == [True] * 3
        await subscriber.stop()
        assert await bench.contents() == []

    play(story)


def test_a_pause_outlives_a_lost_connection(play: Play) -> None:
    async def story(bench: Any) -> None:
        subscriber, log = await bench.subscriber()
        await subscriber.pause()
        bench.cut()
        await bench.until(lambda: log.ready == 2)
        await bench.publish(b"later")
        probe = await bench.started(bench.transport.probe())
        assert (await probe.read(bench.queue.work)).ready == 1
        await subscriber.resume()
        await bench.until(lambda: log.bodies == [b"later"])

    play(story)


def test_a_missing_queue_is_named_at_the_start(play: Play) -> None:
    async def story(bench: Any) -> None:
        with pytest.raises(QueueNotFoundError) as caught:
            await bench.subscriber(queue="no.such.queue")
        assert caught.value.queue == "no.such.queue"

    play(story)


def test_a_deleted_queue_is_reported_and_consumed_again_when_it_is_back(play: Play) -> None:
    async def story(bench: Any) -> None:
        _subscriber, log = await bench.subscriber()
        await bench.admin.delete(bench.queue.work)
        await bench.until(lambda: len(log.losses) == 1)
        assert isinstance(log.losses[0], QueueNotFoundError)
        await bench.admin.declare(bench.queue)
        await bench.until(lambda: log.ready == 2)
        await bench.publish(b"again")
        await bench.until(lambda: log.bodies == [b"again"])

    play(story)


def test_two_consumers_share_a_queue_without_sharing_messages(play: Play) -> None:
    async def story(bench: Any) -> None:
        _first, first_log = await bench.subscriber()
        _second, second_log = await bench.subscriber()
        await bench.publish(*NUMBERS)
        await bench.until(lambda: len(first_log.deliveries) + len(second_log.deliveries) == 10)
        assert len(first_log.deliveries) == len(second_log.deliveries) == 5
        assert {*first_log.bodies, *second_log.bodies} == {*NUMBERS}

    play(story)
