"""Fleets of `Reporter` and `Limiter` in virtual time: what their reports cost, and whether pace is kept and shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_time import run_virtually

from backpressure.core.evidence import QueueStatistics
from backpressure.core.reports import MOST_DELIVERIES_PER_S
from backpressure.core.sums import SUMS_SUFFIX
from backpressure.integrations.limiter import Limiter
from backpressure.integrations.watcher import QueueWatcher
from backpressure.transports.base import QueueReading
from backpressure.transports.memory.endpoints import MemoryFeedback
from backpressure.transports.memory.memory_broker import MemoryBroker
from backpressure.transports.rabbitmq.reporter import Reporter

SERVICE_S = 0.25
LARGE = 500  # consumers, who take longer then, so that the test does not
EXCHANGE = "pace.feedback"


class Bus(MemoryFeedback):
    """A feedback bus that counts deliveries; a monitor hears all reports."""

    def __init__(self, fleet: Fleet, *, sums: bool) -> None:
        super().__init__(fleet.broker, EXCHANGE)
        self._fleet = fleet
        self._sums = sums

    @property
    def carries_sums(self) -> bool:
        return self._sums

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> bool:
        told = len(self._of_sums) if is_sum else len(self._listeners) + 1
        self._fleet.deliveries += told
        if not is_sum:
            self._fleet.reports += 1
            self._fleet.octets += len(payload)
        return super().send(payload, is_sum=is_sum, asks=asks)

    def _ask(self, payload: bytes) -> None:
        before = self._on_answer
        self._fleet.deliveries += sum(answer(payload) is not None for answer in self._answers) if before else 0
        super()._ask(payload)


@dataclass
class Probe:
    fleet: Fleet

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def read(self, _queue: str, *, exactly: bool = False) -> QueueReading:
        await asyncio.sleep(0.001)
        fleet, now = self.fleet, asyncio.get_running_loop().time()
        ready, unacked = fleet.queue.qsize(), fleet.unacked
        told = QueueStatistics(ready=ready, unacked=unacked, arrived_s=now, fresh=True) if exactly else None
        counted = 0 if fleet.paused else len(fleet.reporters)
        return QueueReading(ready, None, counted, round_trip_s=0.001, statistics=told)


@dataclass
class Fleet:
    """Consumers behind `Reporter`, producers behind `Limiter`, one queue."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    queue: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    service_s: float = SERVICE_S
    paused: bool = False
    unacked: int = 0
    deliveries: int = 0
    reports: int = 0
    octets: int = 0
    done: int = 0
    sent: dict[Limiter, int] = field(default_factory=dict)
    reporters: list[Reporter] = field(default_factory=list)
    tasks: dict[object, list[asyncio.Task[Any]]] = field(default_factory=dict)

    def watch(self, member: Limiter | Reporter, *, sums: bool) -> QueueWatcher:
        """Begin to watch as a process of its own does."""
        transport = SimpleNamespace(
            address="there", obstacle="", probe=lambda: Probe(self), feedback=lambda: Bus(self, sums=sums)
        )
        watcher = QueueWatcher((), transport, listens=isinstance(member, Limiter))  # type: ignore[arg-type]  # as much as it takes
        watcher._members.append(member)
        return watcher

    def add_consumer(self, clock: Callable[[], float]) -> None:
        reporter = Reporter("orders", prefetch=1, name=f"consumer-{len(self.reporters)}", clock=clock)
        self.reporters.append(reporter)
        self._start(reporter, self._consume(reporter))

    def add_producer(self, clock: Callable[[], float], *, sums: bool) -> None:
        limiter = Limiter("orders", "amqp://localhost/", clock=clock)
        self.sent[limiter] = 0
        self._start(limiter, self._produce(limiter), sums=sums)

    def remove(self, member: Limiter | Reporter) -> None:
        for task in self.tasks.pop(member):
            task.cancel()
        if isinstance(member, Limiter):
            del self.sent[member]
        else:
            self.reporters.remove(member)

    def _start(self, member: Limiter | Reporter, work: Any, *, sums: bool = True) -> None:
        watching = self.watch(member, sums=sums)._watch()
        self.tasks[member] = [asyncio.create_task(watching), asyncio.create_task(work)]

    async def _consume(self, reporter: Reporter) -> None:
        while True:
            await self.queue.get()
            self.unacked += 1
            try:
                with reporter.work():
                    await asyncio.sleep(self.service_s)
            finally:
                self.unacked -= 1
            self.done += 1

    async def _produce(self, limiter: Limiter) -> None:
        while True:
            async with limiter.sending_async():
                self.queue.put_nowait(1)
            self.sent[limiter] += 1

    async def measured(self, seconds: float) -> tuple[float, float, float]:
        """Return deliveries a second, utilisation and Jain's index of the time from now on."""
        deliveries, done, sent = self.deliveries, self.done, dict(self.sent)
        await asyncio.sleep(seconds)
        shares = [count - sent[limiter] for limiter, count in self.sent.items()]
        jain = sum(shares) ** 2 / len(shares) / max(1, sum(share * share for share in shares))
        used = (self.done - done) * self.service_s / seconds / len(self.reporters)
        return (self.deliveries - deliveries) / seconds, used, jain


def played(
    monkeypatch: pytest.MonkeyPatch, consumers: int, producers: int, story: Callable[[Fleet], Any], *, sums: bool = True
) -> Any:
    """Return what comes of ``story`` in a fleet that begins within half a second."""

    async def whole() -> Any:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("backpressure.integrations.watcher.time", SimpleNamespace(monotonic=loop.time))
        fleet = Fleet(service_s=4 * SERVICE_S if consumers > LARGE else SERVICE_S)
        for number in range(max(consumers, producers)):
            if number < consumers:
                fleet.add_consumer(loop.time)
            if number < producers:
                fleet.add_producer(loop.time, sums=sums)
            await asyncio.sleep(0.5 / max(consumers, producers))
        try:
            return await story(fleet)
        finally:
            tasks = [task for member in fleet.tasks.values() for task in member]
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)

    return run_virtually(whole())


@pytest.mark.parametrize(
    ("consumers", "producers"), [(10, 10), (60, 20), (200, 50), pytest.param(1000, 100, marks=pytest.mark.slow)]
)
def test_reports_cost_two_thousand_deliveries_a_second_and_the_pace_is_kept_and_shared(
    monkeypatch: pytest.MonkeyPatch, consumers: int, producers: int
) -> None:
    """After a start in which consumers report ten times a second until they are told, for two or three seconds."""

    async def story(fleet: Fleet) -> Any:
        await asyncio.sleep(16.0 if consumers > LARGE else 8.0)
        return *(await fleet.measured(8.0)), fleet.octets / fleet.reports

    deliveries, used, jain, octets = played(monkeypatch, consumers, producers, story)
    assert deliveries <= MOST_DELIVERIES_PER_S
    assert octets <= 200  # on average: one report of ten has distributions and texts
    assert used >= 0.95
    assert jain >= 0.98


def test_two_producers_of_a_large_fleet_hear_all_reports_and_the_others_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(fleet: Fleet) -> Any:
        await asyncio.sleep(8.0)
        heard = fleet.broker.listeners
        return len(heard[EXCHANGE]), len(heard[EXCHANGE + SUMS_SUFFIX])

    assert played(monkeypatch, 60, 20, story) == (2, 20)


def test_a_fleet_whose_consumers_are_paused_goes_on_by_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """They report, but the broker counts none of them: they have cancelled."""

    async def story(fleet: Fleet) -> Any:
        await asyncio.sleep(6.0)
        fleet.paused = True
        heard, most = fleet.broker.listeners[EXCHANGE], 0
        for _ in range(100):
            await asyncio.sleep(0.1)
            most = max(most, len(heard))
        return most

    assert played(monkeypatch, 60, 20, story) == 2


def test_a_producer_without_a_way_for_sums_hears_all_and_all_report_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(fleet: Fleet) -> Any:
        await asyncio.sleep(6.0)
        before_s = fleet.reporters[0].report_every_s
        for _ in range(4):
            fleet.add_producer(asyncio.get_running_loop().time, sums=False)
        await asyncio.sleep(12.0)
        (deliveries, _, jain), heard = await fleet.measured(10.0), len(fleet.broker.listeners[EXCHANGE])
        return before_s, fleet.reporters[0].report_every_s, deliveries, jain, heard

    before_s, after_s, deliveries, jain, heard = played(monkeypatch, 60, 20, story)
    assert heard == 2 + 4
    assert after_s > 1.8 * before_s
    assert deliveries <= 1.05 * MOST_DELIVERIES_PER_S
    assert jain >= 0.95


def test_where_nobody_can_send_sums_consumers_are_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(fleet: Fleet) -> Any:
        await asyncio.sleep(6.0)
        return await fleet.measured(10.0), fleet.reporters[0].report_every_s

    (deliveries, _, _), every_s = played(monkeypatch, 40, 20, story, sums=False)
    assert every_s == pytest.approx((60 * 21 + 40 / 10) / 2000, rel=0.01)
    assert deliveries <= 1.05 * MOST_DELIVERIES_PER_S


def test_a_fleet_that_shrinks_reports_ten_times_a_second_again_within_half_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(fleet: Fleet) -> Any:
        await asyncio.sleep(6.0)
        large = {reporter.report_every_s for reporter in fleet.reporters}
        for limiter in list(fleet.sent)[2:]:
            fleet.remove(limiter)
        for reporter in fleet.reporters[5:]:
            fleet.remove(reporter)
        await asyncio.sleep(30.0)
        small = {reporter.report_every_s for reporter in fleet.reporters}
        for limiter in list(fleet.sent):
            fleet.remove(limiter)
        await asyncio.sleep(70.0)
        return large, small, {reporter.report_every_s for reporter in fleet.reporters}

    large, small, alone = played(monkeypatch, 60, 20, story)
    assert min(large) > 0.1
    assert small == {0.1}
    assert alone == {0.1}


def test_the_first_producer_is_not_missed_by_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(fleet: Fleet) -> Any:
        await asyncio.sleep(6.0)
        for _ in range(2):
            fleet.remove(min(fleet.sent, key=lambda limiter: limiter._pacer._session))
        await asyncio.sleep(65.0)
        return min(reporter.report_every_s for reporter in fleet.reporters)

    assert played(monkeypatch, 60, 20, story) > 0.1
