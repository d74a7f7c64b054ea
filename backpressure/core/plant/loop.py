"""The whole loop in virtual time: the model against which every law is tested and simulated.

The parts that decide are the real ones (`SignalBoard`, `TokenBucket`, laws, reports); the parts that take time are
modelled: a broker with a bound, consumers with prefetch and random service, reports and readings that come late or
never, producers that tick at different moments. Nothing here reads a clock or draws random numbers: `Plant.run` moves
time, and the caller passes in a source of uniform numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from math import inf
from statistics import fmean

from backpressure.core.board import SignalBoard
from backpressure.core.evidence import ConsumerTerms, OffsetReading, QueueStatistics
from backpressure.core.plant.bounded_queue import QueueBound, WorkQueue
from backpressure.core.plant.network import Network
from backpressure.core.plant.sources import PlantProducer, Way
from backpressure.core.plant.stations import Workers
from backpressure.core.reports import Report, report_interval_s, sooner_s, ticks_per_report, uneven_s
from backpressure.core.signals import Law
from backpressure.core.sums import FleetSum

STEP_S = 0.005
"""How often producers act, unless the plant is told otherwise."""
_SPREAD_FROM_S = 0.35  # a shorter interval spreads reports enough


class LateCounts:
    """Ready and unacked messages as a broker's statistics tell them: counted once an interval, like RabbitMQ's.

    A quorum queue's counts can be read as soon as they are there. What the management API shows is a copy, made once an
    interval too, but at a moment of its own: between none and two intervals old.
    """

    def __init__(self, interval_s: float, counted_s: float, copied_s: float | None, queue: WorkQueue) -> None:
        """The next count is due at ``counted_s``, the next copy at ``copied_s``; None: the counts can be read.

        Until then there are those of before.
        """
        self.interval_s = interval_s
        self.collected = copied_s is not None
        self._counted_s = counted_s
        self._copied_s = copied_s
        self._counts = self._shown = len(queue.ready), queue.unacked

    def advance(self, queue: WorkQueue, now: float) -> None:
        """Count and copy what is due."""
        if now >= self._counted_s:
            self._counted_s += self.interval_s
            self._counts = len(queue.ready), queue.unacked
        if self._copied_s is None:
            self._shown = self._counts
        elif now >= self._copied_s:
            self._copied_s += self.interval_s
            self._shown = self._counts

    def told(self, arrived_s: float) -> QueueStatistics:
        """Return what a reader gets."""
        ready, unacked = self._shown
        return QueueStatistics(ready=ready, unacked=unacked, arrived_s=arrived_s, collected=self.collected)


def terms_of(workers: Workers) -> ConsumerTerms:
    """Return on what terms ``workers`` consume."""
    strangers = workers.strangers
    count = 0 if workers.state == "paused" else workers.count  # paused ones have cancelled
    alien = 0 if strangers is None else min(count, strangers.count)
    own = (count - alien) * workers.prefetch
    if strangers is None or not alien:
        return ConsumerTerms(count=count, prefetch=own)
    auto = alien if strangers.acks == "auto" else 0
    limited = strangers.prefetch > 0 and not auto
    return ConsumerTerms(count=count, prefetch=own + alien * strangers.prefetch if limited else None, auto_ack=auto)


def offsets_of(queue: WorkQueue, arrived_s: float) -> OffsetReading:
    """Return how far producers and consumers of a log of one partition are."""
    end = queue.arrived
    return OffsetReading(ends=(end,), committed=(end - queue.dropped - queue.uncommitted,), arrived_s=arrived_s)


@dataclass(frozen=True, slots=True)
class PlantSample:
    """The plant at one moment; counts are totals since the start, rates those the laws decided.

    ``offered`` is what the schedules asked for, ``nacked`` each refusal, ``rejected`` what was given up after one.
    ``signal_age_s`` is the mean age of the signals they decided on; None: there were none yet.
    """

    at_s: float
    depth: int
    ready: int
    capacity_per_s: float
    demand_per_s: float
    arrived: int
    processed: int
    rejected: int
    dropped: int
    offered: float
    nacked: int
    rates_per_s: tuple[float, ...]
    signal_age_s: float | None


class Plant:
    """One queue, its consumers, its producers, and the signals between them.

    Every setting may be changed between two calls of `run`: `set_workers`, `add_producer`, `remove_producer`, a
    producer's ``demand_per_s``, `set_queue`, and ``network``.

    Attributes:
        now: virtual seconds since the start.
        queue: the `WorkQueue`, with every message's wait.
        network: the delays and losses.
        producers: those that are there.
        samples: one `PlantSample` every tick.
        capacity: messages that could have been processed so far, had there always been one to work on.
    """

    def __init__(
        self,
        uniform: Callable[[], float],
        *,
        service: Callable[[], float] | None = None,
        workers: Workers | None = None,
        queue: QueueBound | None = None,
        network: Network | None = None,
        tick_s: float = 0.1,
        step_s: float = STEP_S,
    ) -> None:
        """Begin at time 0 without producers.

        Args:
            uniform: returns numbers in [0, 1), like ``random.Random(1).random``: losses, phases and service times.
            service: another source for service times alone, so that they are the same whatever else is drawn.
            workers: the consumers at the start.
            queue: the bound.
            network: delays and losses.
            tick_s: how often every law is asked.
            step_s: how often producers act; every other delay is rounded up to it.
        """
        self.now = 0.0
        self.network = network or Network()
        self.queue = WorkQueue(service or uniform, queue or QueueBound())
        self.producers: list[PlantProducer] = []
        self.samples: list[PlantSample] = []
        self.capacity = 0.0
        self._uniform = uniform
        self._tick_s = tick_s
        self._step_s = step_s
        self._steps = 0
        self._sessions = 0
        self._reports: list[tuple[float, int, Report | FleetSum]] = []
        self._answers: list[tuple[float, int, Callable[[], None]]] = []
        self._counts: LateCounts | None = None
        self._next_poll_s = 0.0
        self._posted = 0
        self._reported: set[object] = set()  # who has reported at all
        self._rejected = 0
        self._nacked = 0
        self._offered = 0.0
        self._sampled_s = 0.0
        self._way = Way()
        self._online = True
        self._back_s = inf
        self._next_sample_s = 0.0
        self.set_workers(workers or Workers())

    def add_producer(
        self,
        law: Law,
        demand_per_s: float,
        *,
        weight: float = 1.0,
        retry: bool = True,
        burst_s: float = 0.1,
        own_limit_per_s: float = inf,
        gap: Callable[[], float] | None = None,
        reports: bool = True,
    ) -> PlantProducer:
        """Start a producer now.

        Args:
            law: decides its rate, once a tick.
            demand_per_s: what its schedule offers.
            weight: its share against the others. Many equal producers may be modelled as one of their added weight.
            retry: a refused message is kept and sent again, or else given up and counted as rejected.
            burst_s: depth of its token bucket, and how much of its schedule may wait.
            own_limit_per_s: the most that its law may decide (a ceiling, a fixed rate).
            gap: returns the gaps between its arrivals, random numbers with mean 1; None: they are even.
            reports: whether it tells the others of itself.
        """
        self._sessions += 1
        producer = PlantProducer(
            law,
            demand_per_s,
            session=self._sessions,
            weight=weight,
            retry=retry,
            burst_s=burst_s,
            timeout_s=self.network.timeout_s,
            own_limit_per_s=own_limit_per_s,
            reports=reports,
        )
        producer.arrive_by(gap, self.now)
        producer.next_tick_s = self.now + self._tick_s * self._uniform()
        producer.next_report_s = self.now + self.network.report_interval_s * self._uniform()
        producer.next_reading_s = producer.next_tick_s - self.network.probe_delay_s  # it begins with a probe
        self.producers.append(producer)
        return producer

    def confirmed_after_s(self, sent_s: float) -> float:
        """Return how long the confirm took of a message that was sent then."""
        return self._way.took_s.get(sent_s, self.network.confirm_latency_s)

    def remove_producer(self, producer: PlantProducer, *, silently: bool = False) -> None:
        """Stop ``producer``; unless ``silently``, its last report says that it offers nothing any more."""
        self.producers.remove(producer)
        self._offered += producer.arrivals_offered(self.now)
        if producer.reports and not silently:
            last = producer.report(self.now, blocked=self.queue.bound.blocked)
            self._post(replace(last, target_rate_per_s=0.0, usable_rate_per_s=0.0, application_limited=True))
        self._rejected += producer.rejected
        self._nacked += producer.nacked

    def set_workers(self, workers: Workers) -> None:
        """Change the consumers from now on."""
        self.queue.set_workers(workers, self.now, self._uniform, self.network.report_interval_s)

    def set_queue(self, queue: QueueBound) -> None:
        """Change the bound, or block the producers, from now on."""
        self.queue.bound = queue
        self.queue.accept_dead_letters(accepting=not queue.blocked)

    def cut(self, *, noticed: bool = True) -> None:
        """End every connection: nothing is sent, reported, probed or delivered; what was unacked is in the queue again.

        Consumers that have not ``noticed`` continue with what they hold.
        """
        self._online, self._back_s = False, inf
        self._reports.clear()
        self._answers.clear()
        self.queue.disconnect(noticed=noticed)

    def connect(self, after_s: float) -> None:
        """Connect all producers and consumers again in ``after_s`` seconds."""
        self._back_s = self.now + after_s

    def stand_still(self) -> None:
        """Let the broker stall: it stays connected, but takes, confirms, delivers and answers nothing until `go_on`."""
        self.queue.stand_still()

    def go_on(self) -> None:
        """Let the broker continue with everything that has reached it meanwhile."""
        self.queue.go_on_delivering(self.now)

    def run(self, duration_s: float) -> None:
        """Let ``duration_s`` of virtual time pass."""
        self.run_until(self.now + duration_s)

    def has_come_to(self, at_s: float) -> bool:
        """Return whether it is ``at_s`` or later, to within a step: time moves by whole steps."""
        return at_s / self._step_s <= self._steps + 0.5

    def run_until(self, at_s: float) -> None:
        """Let virtual time pass until it `has_come_to` ``at_s``."""
        while not self.has_come_to(at_s):
            self._steps += 1
            start_s, self.now = self.now, self._steps * self._step_s
            self.capacity += self.queue.workers.capacity_per_s * self._step_s
            if self.now >= self._back_s:
                self._come_back()
            self.queue.network = self.network
            if self._online and not self.queue.bound.blocked:
                self._send(start_s)
            self.queue.advance(self.now)
            if self._online:
                self._report()
                self._probe()
            self._decide()
            if self.now >= self._next_sample_s:
                self._next_sample_s += self._tick_s
                self._sample()

    def _send(self, start_s: float) -> None:
        arrivals = [(at_s, producer) for producer in self.producers for at_s in producer.emit(start_s, self.now)]
        if len(self.producers) > 1:
            arrivals.sort(key=_when)
        if self.network.delays or self._way.busy or self.queue.stands_still:
            self._way.travel(arrivals, self.queue, start_s, self.now, self.network)
            return
        for at_s, producer in arrivals:
            producer.settle(taken=self.queue.arrive(at_s), after_s=self.network.confirmed_after_s)

    def _come_back(self) -> None:
        self._online, self._back_s = True, inf
        self.queue.reconnect(self.now)
        for producer in self.producers:
            producer.come_back(self.now)

    def _report(self) -> None:
        usual_s = self.network.report_interval_s
        reporting = sum(consumer.stranger is None for consumer in self.queue.consumers)
        fleet_s = report_interval_s(reporting, len(self.producers), usual_s)
        if self.producers:  # consumers go by the producer whose message came last
            told_s = self.producers[self._steps % len(self.producers)].board.fleet.report_every_s
            fleet_s = min(fleet_s, told_s or fleet_s)
        between = ticks_per_report(len(self.producers), self._tick_s, self.network.timeout_s)
        for producer in self.producers:
            every_s = producer.board.fleet.report_every_s
            if every_s is not None:  # it may have become shorter since the last report
                producer.next_report_s = self._sooner(producer.next_report_s, every_s)
            if self.now >= producer.next_report_s:
                every_s = producer.board.fleet.report_every_s or max(between * usual_s, fleet_s)
                interval_s = self._spread(every_s, first=producer not in self._reported)
                self._reported.add(producer)
                producer.next_report_s += interval_s
                made = producer.report(self.now, blocked=self.queue.bound.blocked)
                if producer.reports:
                    self._post(replace(made, interval_s=interval_s, producers=len(self.producers)))
        if self.queue.workers.state != "frozen":
            self._report_consumers(fleet_s)
        while not self.queue.stands_still and self._reports and self._reports[0][0] <= self.now:
            _, _, report = heappop(self._reports)
            for producer in self.producers:
                producer.hear(report, self.now)

    def _report_consumers(self, fleet_s: float) -> None:
        """Let each consumer look whether it is to report; each does so at moments of its own."""
        usual_s, prefetch = self.network.report_interval_s, self.queue.workers.prefetch
        paused = self.queue.workers.state == "paused"
        for consumer in self.queue.consumers:
            if consumer.hung or consumer.stranger is not None or self.now < consumer.next_look_s:
                continue
            consumer.next_look_s = self.now + usual_s - min(self.now - consumer.next_look_s, self._step_s)
            told = consumer.report(self.now, prefetch, paused=paused, every_s=fleet_s if fleet_s > usual_s else None)
            if told is not None:
                self._post(told)

    def _sooner(self, due_at: float, interval_s: float) -> float:
        """Return when to report if the interval may have become shorter since the last report."""
        due_s = due_at - self.now
        return due_at if due_s <= interval_s else self.now + sooner_s(due_s, interval_s, self._uniform())

    def _spread(self, interval_s: float, *, first: bool) -> float:
        """Return the time to the next report."""
        if interval_s <= _SPREAD_FROM_S:
            return interval_s
        return uneven_s(interval_s, self._uniform(), first=first)

    def _post(self, report: Report | FleetSum) -> None:
        if self.network.report_loss == 0 or self._uniform() >= self.network.report_loss:
            self._posted += 1
            due_s = self.now + self.network.report_delay_s + 2 * self.network.way_s
            heappush(self._reports, (due_s, self._posted, report))

    def _probe(self) -> None:
        if self.queue.workers.commits:
            self.queue.commit(self.now)
        if self.queue.stands_still:
            return  # what was asked is answered by the queue as it is when it moves again
        self._look_at_statistics()
        for producer in self.producers:
            if self.network.probe and self.now >= producer.next_reading_s:
                interval_s = self.network.probe_interval_s / (2 if producer.board.wants_readings_between else 1)
                producer.next_reading_s = max(producer.next_reading_s, self.now - interval_s)
                producer.next_reading_s += max(interval_s, 2 * self.network.way_s)
                producer.readings += 1
                self._answer(self._reading(producer.board))
                board = producer.board
                if (
                    self.network.counted
                    and board.rarely_told
                    and board.wants_counts(producer.readings, len(self.producers))
                ):
                    self._answer(self._counting(board))
        while self._answers and self._answers[0][0] <= self.now:
            heappop(self._answers)[2]()

    def _reading(self, board: SignalBoard) -> Callable[[], None]:
        """Return what tells ``board`` of the queue as it is now."""
        queue, now = self.queue, self.now
        consumers = 0 if queue.workers.state == "paused" else len(queue.consumers)  # they cancel: none is counted
        if queue.workers.commits:
            return partial(board.on_offsets, offsets_of(queue, now), consumers)
        unacked = queue.unacked if self.network.totals else None
        return partial(board.on_reading, len(queue.ready), unacked, consumers, now)

    def _counting(self, board: SignalBoard) -> Callable[[], None]:
        """Return what tells ``board`` what the queue and its consumers hold now."""
        ready, unacked = len(self.queue.ready), self.queue.unacked
        statistics = QueueStatistics(ready=ready, unacked=unacked, arrived_s=self.now, fresh=True)
        return partial(board.on_statistics, statistics)

    def _look_at_statistics(self) -> None:
        """Let the broker count for its statistics, and every producer read them and the list of consumers when due."""
        interval_s, collected = self.network.statistics_interval_s, self.network.collected
        counts = self._counts
        if interval_s and (counts is None or (counts.interval_s, counts.collected) != (interval_s, collected)):
            counted_s, copied_s = (self.now + interval_s * self._uniform() for _ in range(2))
            counts = LateCounts(interval_s, counted_s, copied_s if collected else None, self.queue)
        self._counts = counts = counts if interval_s else None
        if counts is not None:
            counts.advance(self.queue, self.now)
        if self.now < self._next_poll_s or not (interval_s or self.network.consumer_list):
            return
        self._next_poll_s = self.now + self.network.statistics_poll_s
        told = None if counts is None else counts.told(self.now)
        for producer in self.producers:
            if told is not None:
                self._answer(partial(producer.board.on_statistics, told))
                self._answer(partial(producer.board.on_entered, self.queue.arrived, self.now))
            if self.network.consumer_list:
                self._answer(partial(producer.board.on_terms, terms_of(self.queue.workers), self.now))

    def _answer(self, tell: Callable[[], None]) -> None:
        self._posted += 1
        due_s = self.now + self.network.probe_delay_s + self.network.way_s
        heappush(self._answers, (due_s, self._posted, tell))

    def _decide(self) -> None:
        for producer in self.producers:
            if self.now >= producer.next_tick_s:
                producer.decide(self.now, self._tick_s, self.network, blocked=self.queue.bound.blocked)
                if (told := producer.told(self.now)) is not None:
                    self._post(told)

    def _sample(self) -> None:
        self._offered += sum(p.demand_per_s for p in self.producers if not p.random) * (self.now - self._sampled_s)
        self._sampled_s = self.now
        ages_s = [producer.signal_age_s for producer in self.producers if producer.signal_age_s is not None]
        self.samples.append(
            PlantSample(
                at_s=self.now,
                depth=self.queue.depth,
                ready=len(self.queue.ready),
                capacity_per_s=self.queue.workers.capacity_per_s,
                demand_per_s=sum(producer.demand_per_s for producer in self.producers),
                arrived=self.queue.arrived,
                processed=self.queue.processed,
                rejected=self._rejected + sum(producer.rejected for producer in self.producers),
                dropped=self.queue.dropped,
                offered=self._offered + sum(producer.arrivals_offered(self.now) for producer in self.producers),
                nacked=self._nacked + sum(producer.nacked for producer in self.producers),
                rates_per_s=tuple(producer.decision.rate_per_s for producer in self.producers),
                signal_age_s=fmean(ages_s) if ages_s else None,
            )
        )


def _when(arrival: tuple[float, PlantProducer]) -> float:
    return arrival[0]
