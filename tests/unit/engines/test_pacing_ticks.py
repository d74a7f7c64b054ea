"""When the producer decides, in virtual time: right after a consumer's report, and often enough without one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from stage import WORK, RecordingBroker, consuming, producing, settings_of
from virtual_time import run_virtually, stall

from backpressure.core.evidence import OffsetReading
from backpressure.core.reports import ProducerReport, decode
from backpressure.core.signals import SignalQuality
from backpressure.errors import NotConnectedError
from backpressure.transports.base import QueueReading
from backpressure.transports.memory import MemoryTransport


def ticks(*, consumers: int, seconds: float = 20.0, far: bool = False) -> list[ProducerReport]:
    """Return what a producer reports at each tick, with this many consumers that began at other moments."""

    async def story() -> list[ProducerReport]:
        settings, broker = settings_of(), RecordingBroker()
        heard: list[ProducerReport] = []

        def listen(payload: bytes) -> None:
            if isinstance(report := decode(payload), ProducerReport):
                heard.append(report)

        feedback = MemoryTransport(settings, broker).feedback()
        await feedback.start(listen)
        async with AsyncExitStack() as stack:
            transport = FarTransport(settings, broker) if far else None
            await stack.enter_async_context(producing(settings, broker, transport=transport))
            for _ in range(consumers):
                await asyncio.sleep(0.037)
                await stack.enter_async_context(consuming(settings, broker))
            await asyncio.sleep(seconds)
        await feedback.stop()
        return heard

    return run_virtually(story())


class FarTransport(MemoryTransport):
    """A transport whose probe takes longer to answer than the law takes to decide."""

    def probe(self) -> Any:
        near = super().probe()
        read = near.read

        async def far(queue: str, *, exactly: bool = False) -> QueueReading:
            await asyncio.sleep(0.12)
            return await read(queue)

        near.read = far  # type: ignore[method-assign]
        return near


def test_a_probe_that_answers_late_is_still_heard() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(), RecordingBroker()
        strangers = settings_of(feedback__exchange="elsewhere", consumer__prefetch=1)
        async with (
            producing(settings, broker, transport=FarTransport(settings, broker)),
            consuming(strangers, broker) as (consumer, _),
        ):
            await asyncio.sleep(10)
            before = consumer.tally.processed
            await asyncio.sleep(20)
            return consumer.tally.processed - before, len(broker.queues[WORK].ready)

    processed, ready = run_virtually(story())
    assert processed >= 0.95 * 2000
    assert ready <= 60


def test_the_way_to_the_broker_is_known_before_anything_is_sent() -> None:
    async def story() -> float | None:
        settings, broker = settings_of(producer__rate=0.01), RecordingBroker()
        async with producing(settings, broker, transport=FarTransport(settings, broker)) as (engine, _):
            await asyncio.sleep(2)
            return engine._pacing.signals.way_s

    assert run_virtually(story()) == pytest.approx(0.12)


@pytest.mark.parametrize("far", [False, True])
def test_with_one_consumer_each_decision_follows_its_report_at_once(far: bool) -> None:
    ages_s = [report.signal_age_s for report in ticks(consumers=1, far=far)[20:-1]]
    assert max(age_s for age_s in ages_s if age_s is not None) < 0.01
    assert None not in ages_s


@pytest.mark.parametrize("consumers", [2, 3, 8])
def test_with_several_consumers_the_mean_age_is_no_more_than_half_a_report_interval(consumers: int) -> None:
    ages_s = [report.signal_age_s or 0.0 for report in ticks(consumers=consumers)[20:-1]]
    assert sum(ages_s) / len(ages_s) <= 0.055


@pytest.mark.parametrize("consumers", [0, 1, 3, 8])
def test_there_are_ten_decisions_a_second_with_any_reports(consumers: int) -> None:
    assert len(ticks(consumers=consumers)) == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("consumers", [0, 1, 3])
def test_a_loop_that_runs_when_it_is_due_is_not_late(consumers: int) -> None:
    lateness = [report for report in ticks(consumers=consumers) if not report.brief][-1].tick_lateness
    assert sum(lateness.counts.values()) > 150
    assert lateness.sum_s == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("consumers", [0, 1])
def test_a_tick_for_which_the_process_had_no_time_is_late_by_as_much(consumers: int) -> None:
    async def story() -> tuple[float | None, float, float]:
        settings, broker = settings_of(), RecordingBroker()
        async with AsyncExitStack() as stack:
            engine, _ = await stack.enter_async_context(producing(settings, broker))
            for _ in range(consumers):
                await stack.enter_async_context(consuming(settings, broker))
            await asyncio.sleep(5)
            stall(2.0)
            late_s = None
            for _ in range(20):
                await asyncio.sleep(0.01)
                late_s = max(late_s or 0.0, engine.report().tick_lateness_s or 0.0)
            await asyncio.sleep(1)
            return late_s, engine.report().tick_lateness.sum_s, engine.report().tick_lateness_s or 0.0

    late_s, sum_s, last_s = run_virtually(story())
    assert late_s == pytest.approx(1.95, abs=0.06)
    assert sum_s == pytest.approx(late_s, abs=1e-6)
    assert last_s == pytest.approx(0, abs=1e-6)


def test_a_producer_with_less_to_send_than_it_may_says_so_in_its_reports() -> None:
    async def story() -> list[bool]:
        settings, broker = settings_of(producer__rate=20), RecordingBroker()
        said: list[bool] = []

        def listen(payload: bytes) -> None:
            if isinstance(report := decode(payload), ProducerReport):
                said.append(report.application_limited)

        feedback = MemoryTransport(settings, broker).feedback()
        await feedback.start(listen)
        async with producing(settings, broker), consuming(settings, broker):
            await asyncio.sleep(10)
        await feedback.stop()
        return said

    assert all(run_virtually(story())[20:])


def test_a_producer_that_cannot_reach_the_broker_takes_no_empty_queue_for_fast_consumers() -> None:
    async def story() -> tuple[bool, float]:
        settings, broker = settings_of(), RecordingBroker()
        async with producing(settings, broker) as (engine, _), consuming(settings, broker):
            await asyncio.sleep(10)
            engine._sender.on_lost(NotConnectedError("the publisher's line alone is cut"))
            await asyncio.sleep(10)
            return engine.report().application_limited, engine.decision.rate_per_s

    limited, rate_per_s = run_virtually(story())
    assert limited
    assert rate_per_s < 300  # the consumer's 100 and what an empty queue asks for


class CommittingTransport(MemoryTransport):
    """A transport whose probe tells offsets, which a group of others commits every ``commit_s``."""

    def __init__(self, *parts: Any, commit_s: float) -> None:
        super().__init__(*parts)
        self.commit_s = commit_s
        self.asked_at: list[float] = []

    def probe(self) -> Any:
        near = super().probe()

        async def committed(queue: str, *, exactly: bool = False) -> QueueReading:
            assert queue == WORK
            now = asyncio.get_running_loop().time()
            self.asked_at.append(now)
            done = int(now / self.commit_s)
            offsets = OffsetReading(ends=(done + 5,), committed=(done,), arrived_s=now)
            return QueueReading(ready=5, unacked=None, consumers=1, offsets=offsets, round_trip_s=0.2)

        near.read = committed  # type: ignore[method-assign]
        return near


@pytest.mark.parametrize(("commit_s", "readings"), [(0.1, 200), (5.0, 100)])
def test_offsets_that_change_about_as_often_as_it_decides_are_read_twice_as_often(
    commit_s: float, readings: int
) -> None:
    async def story() -> int:
        settings, broker = settings_of(), RecordingBroker()
        transport = CommittingTransport(settings, broker, commit_s=commit_s)
        async with producing(settings, broker, transport=transport):
            await asyncio.sleep(20)
        return sum(at_s > transport.asked_at[-1] - 10 for at_s in transport.asked_at)

    assert run_virtually(story()) == pytest.approx(readings, rel=0.1)


def test_the_way_to_the_broker_of_a_silent_group_is_known_by_what_the_probe_tells() -> None:
    async def story() -> float | None:
        settings, broker = settings_of(), RecordingBroker()
        transport = CommittingTransport(settings, broker, commit_s=5.0)
        async with producing(settings, broker, transport=transport) as (producer, _):
            await asyncio.sleep(1)
            return producer._pacing.signals.way_s

    assert run_virtually(story()) == 0.2


class BusyTransport(MemoryTransport):
    """A transport whose probe looks at once and answers later than a message is confirmed."""

    def probe(self) -> Any:
        quick = super().probe()
        read = quick.read

        async def slow(queue: str, *, exactly: bool = False) -> QueueReading:
            reading = await read(queue)
            await asyncio.sleep(0.15)
            return reading

        quick.read = slow  # type: ignore[method-assign]
        return quick


def test_the_last_reading_was_asked_for_after_the_last_message() -> None:
    async def story() -> tuple[int, QueueReading | None]:
        broker = RecordingBroker()
        settings = settings_of(producer__limit=1000, producer__rate=10_000)
        async with producing(settings, broker, transport=BusyTransport(settings, broker)) as (engine, running):
            await running
            return len(broker.queues[WORK].ready), engine.queue_reading

    queued, reading = run_virtually(story())
    assert queued == 1000
    assert reading is not None
    assert reading.ready == 1000


class BlindTransport(MemoryTransport):
    """A transport whose probe knows only what is ready, and one consumer that holds everything."""

    def probe(self) -> Any:
        knowing = super().probe()

        async def little(queue: str, *, exactly: bool = False) -> QueueReading:
            return QueueReading(ready=0, unacked=None, consumers=1, missing="no management API is known")

        knowing.read = little  # type: ignore[method-assign]
        return knowing


def test_what_cannot_be_seen_is_told_once_and_bounds_what_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> tuple[ProducerReport, int]:
        broker = RecordingBroker()
        settings = settings_of(producer__rate=5000)
        async with producing(settings, broker, transport=BlindTransport(settings, broker)) as (engine, _):
            await asyncio.sleep(60)
            return engine.report(), len(broker.queues[WORK].ready)

    report, queued = run_virtually(story())
    assert report.signal_quality == SignalQuality.BLIND
    assert report.reason.startswith(
        "blind: no more is sent unseen; what consumers hold is not known: no management API"
    )
    assert 1000 <= queued <= 1600
    told = [record.getMessage() for record in caplog.records if "the pace is limited" in record.getMessage()]
    assert told == ["the pace is limited: what consumers hold is not known: no management API is known"]


def test_a_job_that_is_done_before_it_is_told_what_cannot_be_seen_is_told_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        broker = RecordingBroker()
        settings = settings_of(producer__limit=30, producer__rate=1000)
        async with producing(settings, broker, transport=BlindTransport(settings, broker)) as (_, running):
            await running
            assert not caplog.records

    run_virtually(story())
    assert [record.getMessage() for record in caplog.records if "the pace is limited" in record.getMessage()]
