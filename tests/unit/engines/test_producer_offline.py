"""A finite job without a consumer: all of it is queued, and the law decides from the first consumer on."""

from __future__ import annotations

import asyncio
import logging

import pytest
from stage import RecordingBroker, consuming, producing, settings_of
from virtual_time import run_virtually

from backpressure.transports.memory import MemoryTransport


def test_a_finite_job_is_queued_whole_at_the_offered_rate_while_no_consumer_has_come() -> None:
    async def story() -> tuple[int, float]:
        broker, settings = RecordingBroker(), settings_of(producer__limit=2000)
        async with producing(settings, broker) as (_, running):
            await running
        return len(broker.arrivals), broker.arrivals[-1].at - broker.arrivals[0].at

    count, took_s = run_virtually(story())
    assert count == 2000
    assert took_s == pytest.approx(2.0, abs=0.1)


def test_an_endless_producer_waits_for_a_consumer_with_a_short_queue() -> None:
    async def story() -> int:
        broker = RecordingBroker()
        async with producing(settings_of(), broker):
            await asyncio.sleep(10)
        return len(broker.arrivals)

    assert run_virtually(story()) < 50


def test_the_law_decides_when_the_consumer_that_was_there_has_gone() -> None:
    async def story() -> tuple[int, int]:
        broker, settings = RecordingBroker(), settings_of(producer__limit=50_000, consumer__rate=100)
        async with producing(settings, broker):
            async with consuming(settings, broker):
                await asyncio.sleep(5)
            before = len(broker.arrivals)
            await asyncio.sleep(20)
            return before, len(broker.arrivals)

    before, after = run_virtually(story())
    assert after - before < 50


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "consum" in record.getMessage()]


def test_a_finite_job_that_is_queued_whole_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        broker, settings = RecordingBroker(), settings_of(producer__limit=5000)
        async with producing(settings, broker) as (_, running):
            await running

    caplog.set_level(logging.INFO)
    run_virtually(story())
    assert told(caplog) == [
        "work.queue has no consumer yet: all 5000 messages are queued now, as fast as they are offered"
    ]


def test_a_finite_job_for_the_queue_of_somebody_else_waits_for_a_consumer(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> int:
        broker, ours = RecordingBroker(), settings_of(producer__limit=5000)
        await MemoryTransport(ours, broker).admin().declare(ours.queue)
        async with producing(settings_of(producer__limit=5000, queue__predeclared=True), broker):
            await asyncio.sleep(20)
            return len(broker.arrivals)

    caplog.set_level(logging.INFO)
    assert 1 <= run_virtually(story()) <= 8  # those with which the law looks for consumers
    assert [line.partition(":")[0] for line in told(caplog)] == ["nobody consumes work.queue"]


def test_that_nobody_consumes_is_said_once_and_so_is_the_end_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        broker, settings = RecordingBroker(), settings_of(consumer__rate=100)
        async with producing(settings, broker):
            await asyncio.sleep(10)
            async with consuming(settings, broker):
                await asyncio.sleep(10)

    caplog.set_level(logging.INFO)
    run_virtually(story())
    first, second = told(caplog)
    assert first.startswith("nobody consumes work.queue: the law pace allows ")
    assert second == "work.queue is consumed"


def test_that_nobody_consumes_is_not_worth_a_line_where_the_law_is_not_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        broker, settings = RecordingBroker(), settings_of()
        async with producing(settings, broker) as (engine, _):
            engine._pacing._obeyed = lambda: False
            await asyncio.sleep(10)

    caplog.set_level(logging.INFO)
    run_virtually(story())
    assert told(caplog) == []
