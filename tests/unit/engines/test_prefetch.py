"""The prefetch `auto`: from a guess to what the measured round trip requires, up at once and down again."""

from __future__ import annotations

import asyncio
import heapq
import random
from types import SimpleNamespace

import pytest
from stage import WORK, LateTransport, RecordingBroker, consuming, ours, producing, put, settings_of
from virtual_time import run_virtually

from backpressure.core.message import Delivery
from backpressure.engines.prefetch import PrefetchControl
from backpressure.settings import Settings

DEEP = {"queue__max_length": None, "consumer__progress_every": 0}


class Seat:
    """A subscriber that only remembers the prefetch it was given."""

    round_trip_s: float | None = None

    def __init__(self) -> None:
        self.given: list[int] = []

    def set_prefetch(self, count: int) -> None:
        self.given.append(count)

    async def start(self, listener: object, *, queue: str, prefetch: int) -> None: ...

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        return True

    def nack(self, delivery: Delivery, *, requeue: bool) -> bool:
        return True

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def stop(self) -> None: ...


def consumer(prefetch: int | str = "auto", rate: float = 100.0) -> Settings:
    return settings_of(consumer__prefetch=prefetch, consumer__rate=rate)


def test_with_a_long_way_to_the_broker_it_grows_until_the_consumer_never_runs_dry() -> None:
    async def story() -> tuple[list[int], float]:
        settings, broker = settings_of(**DEEP), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(3000)))
        late = LateTransport(settings, broker, late_s=0.2)
        sizes: list[int] = []
        async with consuming(settings, broker, transport=late) as (engine, _):
            for _ in range(10):
                sizes.append(engine.report().prefetch)
                await asyncio.sleep(1)
            before = engine.tally.processed
            await asyncio.sleep(10)
            return sizes, (engine.tally.processed - before) / 10

    sizes, rate = run_virtually(story())
    assert sizes[0] < 20 <= sizes[-1] <= 32  # 100/s × 0.2 s, and a few
    assert rate == pytest.approx(100, abs=1)


def test_when_the_way_gets_long_in_the_middle_of_the_work_it_grows_too() -> None:
    async def story() -> tuple[int, float]:
        settings, broker = settings_of(**DEEP), RecordingBroker()
        await put(broker, settings, *(ours(n, sent_ns=1) for n in range(6000)))
        late = LateTransport(settings, broker, late_s=0.001)
        async with consuming(settings, broker, transport=late) as (engine, _):
            await asyncio.sleep(20)
            late.late_s = 0.2
            await asyncio.sleep(15)  # the shorter way is forgotten after ten
            before = engine.tally.processed
            await asyncio.sleep(10)
            return engine.report().prefetch, (engine.tally.processed - before) / 10

    size, rate = run_virtually(story())
    assert 20 <= size <= 32
    assert rate == pytest.approx(100, abs=1)


def test_waiting_for_work_is_not_taken_for_a_long_round_trip() -> None:
    async def story() -> int:
        settings, broker = settings_of(**DEEP, producer__strategy="unbounded", producer__rate=30), RecordingBroker()
        late = LateTransport(settings, broker, late_s=0.001)
        async with producing(settings, broker), consuming(settings, broker, transport=late) as (engine, _):
            await asyncio.sleep(60)
            return engine.report().prefetch

    assert run_virtually(story()) <= 6


def test_when_the_way_gets_short_it_shrinks_again() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(**DEEP), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(6000)))
        late = LateTransport(settings, broker, late_s=0.2)
        async with consuming(settings, broker, transport=late) as (engine, _):
            await asyncio.sleep(10)
            far = engine.report().prefetch
            late.late_s = 0.001
            await asyncio.sleep(30)
            return far, engine.report().prefetch

    far, near = run_virtually(story())
    assert far >= 20
    assert near <= 6


def test_a_slower_consumer_holds_fewer() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(**DEEP), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(6000)))
        late = LateTransport(settings, broker, late_s=0.1)
        async with consuming(settings, broker, transport=late) as (engine, _):
            await asyncio.sleep(10)
            fast = engine.report().prefetch
            engine.slow_down(10)
            await asyncio.sleep(60)
            return fast, engine.report().prefetch

    fast, slow = run_virtually(story())
    assert fast >= 12
    assert slow <= 5


def test_a_fixed_prefetch_stays_what_it_is() -> None:
    async def story() -> tuple[set[int], int]:
        settings, broker = settings_of(**DEEP, consumer__prefetch=4), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(3000)))
        late = LateTransport(settings, broker, late_s=0.2)
        most = 0
        sizes = set()
        async with consuming(settings, broker, transport=late) as (engine, _):
            for _ in range(100):
                await asyncio.sleep(0.1)
                sizes.add(engine.report().prefetch)
                most = max(most, broker.queues[WORK].unacked)
        return sizes, most

    assert run_virtually(story()) == ({4}, 4)


def test_another_prefetch_takes_effect_at_once_and_the_same_one_not_at_all() -> None:
    seat = Seat()
    control = PrefetchControl(consumer(5).consumer, seat)
    control.reconfigure(consumer(5, rate=50).consumer)
    assert seat.given == []
    control.reconfigure(consumer(12).consumer)
    assert seat.given == [12]
    control.reconfigure(consumer("auto").consumer)
    assert seat.given[-1] == control.count < 12


def test_room_for_failed_messages_comes_in_steps_and_never_beyond_what_the_protocol_allows() -> None:
    seat = Seat()
    control = PrefetchControl(consumer(5).consumer, seat)
    for waiting in range(40):
        control.set_aside(waiting)
        assert control.count >= 5 + waiting
    assert len(seat.given) <= 3
    control.set_aside(0)
    assert (control.count, seat.given[-1]) == (5, 5)
    most = PrefetchControl(consumer(65_535).consumer, seat)
    most.set_aside(10**6)
    assert most.count == 65_535


def test_far_from_the_broker_it_is_large_enough_before_the_first_message() -> None:
    """It takes two round trips until one shows in the deliveries: a second, and the law takes the consumer for slow."""
    seat = Seat()
    control = PrefetchControl(consumer(rate=200).consumer, seat)
    near = control.count
    control.connected(0.02)  # on a machine with other work to do
    assert seat.given == []
    control.connected(0.2)
    assert seat.given == [control.count]
    assert 44 <= control.count <= 48
    control.reconfigure(consumer(rate=400).consumer)
    assert control.count >= 84
    fixed = PrefetchControl(consumer(5).consumer, seat)
    fixed.connected(0.2)
    assert (near < 10, fixed.count) == (True, 5)


@pytest.mark.parametrize("rate", [1.0, 100.0, 5000.0])
def test_before_anything_is_measured_it_is_a_few_and_grows_with_the_rate(rate: float) -> None:
    count = PrefetchControl(consumer(rate=rate).consumer, Seat()).count
    assert 2 <= count <= 3 + rate * 0.03


class FarBroker:
    """Delivers ``way_s`` after it may, as much as the prefetch lets it; the consumer works at random speed."""

    def __init__(self, seed: int, way_s: float) -> None:
        self.way_s = way_s
        self.random = random.Random(seed)
        self.now = 0.0
        self.seat = Seat()
        self.control = PrefetchControl(consumer("auto", rate=200).consumer, self.seat)
        self.events: list[tuple[float, int, str]] = []
        self.credit = self.control.count
        self.limit = self.credit
        self.held = self.processed = self.order = 0
        self.sum_s = self.sum_s2 = 0.0
        self.working = False

    def later(self, after_s: float, what: str) -> None:
        self.order += 1
        heapq.heappush(self.events, (self.now + after_s, self.order, what))

    def offer(self) -> None:
        while self.credit > 0:
            self.credit -= 1
            self.later(self.way_s, "delivery")

    def work(self, rate_per_s: float) -> None:
        if not self.working and self.held:
            self.working = True
            took_s = self.random.expovariate(rate_per_s)
            self.sum_s, self.sum_s2 = self.sum_s + took_s, self.sum_s2 + took_s**2
            self.later(took_s, "done")

    def run(self, seconds: float, rate_per_s: float) -> None:
        end = self.now + seconds
        self.later(0.0, "tick")
        while self.events[0][0] <= end:
            self.now, _, what = heapq.heappop(self.events)
            if what == "delivery":
                self.control.delivered(self.now)
                self.held += 1
            elif what == "done":
                self.control.settling(self.held, self.now)
                self.working, self.held, self.processed = False, self.held - 1, self.processed + 1
                self.later(self.way_s, "acked")
            elif what == "acked":
                self.credit += 1
            else:
                counters = {"processed": self.processed, "service_sum_s": self.sum_s, "service_sum_s2": self.sum_s2}
                self.control.tick(SimpleNamespace(**counters), self.now)  # type: ignore[arg-type]  # what it reads
                for given in self.seat.given:
                    self.credit, self.limit = self.credit + given - self.limit, given
                self.seat.given.clear()
                self.later(0.1, "tick")
            self.offer()
            self.work(rate_per_s)
        self.events = [event for event in self.events if event[2] != "tick"]


@pytest.mark.parametrize("seed", range(5))
def test_what_an_earlier_prefetch_let_through_does_not_look_like_a_short_way(seed: int) -> None:
    broker = FarBroker(seed, way_s=0.1)
    broker.run(1.5, 200)
    assert broker.control.count >= 40  # as soon as the way is known, not a second later
    broker.run(20, 200)
    sizes = []
    for _ in range(60):
        broker.run(1, 60)
        sizes.append(broker.control.count)
    assert sizes[-1] < 40
    assert min(sizes) >= 0.2 * 60
