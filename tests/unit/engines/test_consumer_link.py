"""A consumer whose connection breaks: nothing is lost, nothing is settled twice, and other work continues."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from stage import DEAD, WORK, LateTransport, RecordingBroker, Records, consuming, ours, put, settings_of, until
from virtual_time import run_virtually

from backpressure.core.message import Delivery, Metadata
from backpressure.core.reports import ConsumerReport


def test_what_is_held_and_not_begun_comes_again_and_is_worked_on_once() -> None:
    async def story() -> tuple[ConsumerReport, Counter[int], int]:
        settings, broker, records = settings_of(consumer__prefetch=10), RecordingBroker(), Records()
        await put(broker, settings, *(ours(n) for n in range(100)))
        async with consuming(settings, broker, journal=records) as (engine, _):
            await asyncio.sleep(0.255)
            broker.disconnect()
            assert engine.held <= 1  # the one in work
            await until(lambda: engine.tally.settled == 100)
            report = engine.report()
        return report, Counter(record.sequence for record in records), len(broker.queues[WORK].ready)

    report, done, left = run_virtually(story())
    assert set(done) == set(range(100))
    assert left == 0
    assert report.processed == 101  # the one in work when the link broke was done, and delivered again
    assert report.duplicates == 1
    assert report.redelivered == 10


def test_an_acknowledgement_of_before_the_loss_settles_nothing_after_it() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(consumer__prefetch=1), RecordingBroker()
        await put(broker, settings, ours(0), ours(1))
        async with consuming(settings, broker) as (engine, _):
            await asyncio.sleep(0.005)
            broker.disconnect()
            await until(lambda: engine.tally.processed == 1)
            return broker.queues[WORK].unacked, len(broker.queues[WORK].ready)

    # Both are still there: the first, done on the old link, is held once more and its successor waits.
    assert run_virtually(story()) == (1, 1)


def test_a_failure_on_a_lost_link_is_left_to_the_delivery_that_comes_again() -> None:
    async def story() -> tuple[int, ConsumerReport, int]:
        settings, broker = settings_of(retry__max_attempts=3, retry__backoff_min_ms=50), RecordingBroker()
        attempts = 0

        async def work(_: Delivery, __: Metadata) -> None:
            nonlocal attempts
            attempts += 1
            await asyncio.sleep(0.1)
            raise ValueError("never works")

        await put(broker, settings, ours(0))
        async with consuming(settings, broker, handler=work) as (engine, _):
            await asyncio.sleep(0.05)
            broker.disconnect()
            await until(lambda: engine.tally.dead_lettered)
            await asyncio.sleep(5)
            return attempts, engine.report(), len(broker.queues[DEAD].ready)

    attempts, report, dead = run_virtually(story())
    assert attempts == 1 + 3
    assert (report.failed, report.retried, report.dead_lettered, report.duplicates) == (4, 2, 1, 0)
    assert dead == 1


def test_messages_that_wait_for_another_attempt_are_forgotten_with_their_link_and_come_again() -> None:
    async def story() -> tuple[list[float], int]:
        settings = settings_of(retry__max_attempts=2, retry__backoff_min_ms=1000, retry__jitter=0)
        broker, loop = RecordingBroker(), asyncio.get_running_loop()
        at: list[float] = []

        async def work(_: Delivery, __: Metadata) -> None:
            at.append(loop.time())
            if len(at) < 3:
                raise ValueError("not yet")

        await put(broker, settings, ours(0))
        async with consuming(settings, broker, handler=work) as (engine, _):
            await asyncio.sleep(0.5)
            broker.disconnect()
            await until(lambda: engine.tally.processed)
            return [time - at[0] for time in at], engine.tally.dead_lettered

    times, dead = run_virtually(story())
    assert times == pytest.approx([0, 0.5, 1.5], abs=0.01)
    assert dead == 0


def test_it_consumes_again_and_the_queues_are_there_again_after_the_broker_forgot_them() -> None:
    async def story() -> int:
        settings, broker = settings_of(), RecordingBroker()
        await put(broker, settings)
        async with consuming(settings, broker) as (engine, _):
            await asyncio.sleep(1)
            broker.queues.clear()
            broker.bindings.clear()
            broker.disconnect("broker restarted")
            await asyncio.sleep(2)
            assert DEAD in broker.queues
            broker.publish(ours(0), settings.queue.exchange, settings.queue.routing_key)
            await until(lambda: engine.tally.processed, within_s=5)
            return engine.tally.processed

    assert run_virtually(story()) == 1


def test_a_deleted_queue_is_created_again() -> None:
    async def story() -> int:
        settings, broker = settings_of(), RecordingBroker()
        await put(broker, settings)
        async with consuming(settings, broker) as (engine, _):
            broker.delete(WORK)
            await asyncio.sleep(2)
            broker.publish(ours(0), settings.queue.exchange, settings.queue.routing_key)
            await until(lambda: engine.tally.processed, within_s=5)
            return engine.tally.processed

    assert run_virtually(story()) == 1


def test_a_paused_consumer_stays_paused_when_its_link_comes_back() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(20)))
        async with consuming(settings, broker) as (engine, _):
            await engine.pause()
            await asyncio.sleep(0.1)
            before = engine.tally.processed
            broker.disconnect()
            await asyncio.sleep(5)
            during = engine.tally.processed - before
            await engine.resume()
            await until(lambda: engine.tally.settled == 20, within_s=5)
            return during, engine.tally.settled

    assert run_virtually(story()) == (0, 20)


def test_a_dead_letter_under_way_when_the_link_breaks_is_not_lost() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(retry__max_attempts=1), RecordingBroker()

        async def work(_: Delivery, __: Metadata) -> None:
            raise ValueError("never works")

        await put(broker, settings, ours(0))
        async with consuming(settings, broker, handler=work, transport=LateTransport(settings, broker, late_s=0.2)) as (
            engine,
            _,
        ):
            await until(lambda: engine.tally.failed)
            broker.disconnect()
            await until(lambda: engine.tally.dead_lettered, within_s=10)
        queue = broker.queues[WORK]
        return len(broker.queues[DEAD].ready), len(queue.ready) + queue.unacked

    dead, left = run_virtually(story())
    assert dead >= 1
    assert left == 0
