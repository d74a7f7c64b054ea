"""A queue, its consumers and its producers in virtual time: the model every law is tested against and simulated with.

The parts that decide are the real ones (`SignalBoard`, `TokenBucket`, laws, reports); the parts that take time are
modelled: a broker with a bound, consumers with prefetch and random service, reports and readings that come late or
never, producers that tick at different moments. Nothing here reads a clock or makes randomness: `Plant.run` moves time,
and the caller hands in a source of uniform numbers.

Producers act once in a ``step_s``; between, everything is exact: service begins when a message arrives or when its
consumer is done with the one before, whichever is later (Lindley's recursion). That costs a few microseconds a message.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from math import inf, log
from typing import Literal

from backpressure.core.board import OwnState, SignalBoard
from backpressure.core.reports import ConsumerReport, ProducerReport, Report
from backpressure.core.signals import Decision, Law
from backpressure.core.token_bucket import TokenBucket

__all__ = ["Network", "Plant", "PlantProducer", "Queue", "Sample", "Workers"]

Distribution = Literal["fixed", "exponential", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The consumers, all alike.

    ``spread`` is half the width of the uniform distribution relative to its mean. ``state``: *paused* consumers say so;
    *frozen* ones fall silent and keep what they hold; *foreign* ones work and never report.
    """

    count: int = 1
    rate_per_s: float = 100.0
    distribution: Distribution = "fixed"
    spread: float = 0.5
    prefetch: int = 3
    state: Literal["working", "paused", "frozen", "foreign"] = "working"

    @property
    def capacity_per_s(self) -> float:
        """What they do together while they have work."""
        return 0.0 if self.state in {"paused", "frozen"} else self.count * self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The broker's side: a bound on ready messages, what happens beyond it, and whether it blocks its producers."""

    max_length: int | None = None
    overflow: Literal["reject-publish", "drop-head"] = "reject-publish"
    blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How old, how rare and how unreliable what the producers hear is."""

    report_interval_s: float = 0.1
    report_delay_s: float = 0.005
    report_loss: float = 0.0
    probe_interval_s: float = 0.1
    probe_delay_s: float = 0.005
    probe: bool = True
    confirm_latency_s: float = 0.002
    timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The plant at one moment; counts are totals since the start."""

    at_s: float
    depth: int
    ready: int
    capacity_per_s: float
    demand_per_s: float
    arrived: int
    processed: int
    rejected: int
    dropped: int
    rates_per_s: tuple[float, ...]


class PlantProducer:
    """One producer: its schedule, token bucket, law and board, and what it has done so far (totals)."""

    def __init__(
        self, law: Law, demand_per_s: float, *, session: int, weight: float, retry: bool, tick_s: float, burst_s: float
    ) -> None:
        """See `Plant.add_producer`."""
        self.law = law
        self.demand_per_s = demand_per_s
        self.session = session
        self.weight = weight
        self.retry = retry
        self.tick_s = tick_s
        self.bucket: TokenBucket | None = None
        self.board: SignalBoard | None = None
        self.decision = Decision(0.0, "not asked yet")
        self.offered = 0.0
        self.waiting = 0.0
        self.arrived = 0
        self.nacked = 0
        self.rejected = 0
        self.next_tick_s = 0.0
        self.next_report_s = 0.0
        self.next_reading_s = 0.0
        self.limited = True
        self._burst_s = burst_s

    def decide(self, board: SignalBoard, own: OwnState, now: float) -> None:
        """Ask the law, and pace by its answer from now on."""
        self.decision = self.law.update(board.signals(own, now), now)
        if self.bucket is None:
            self.bucket = TokenBucket(self.decision.rate_per_s, self._burst_s, now)
        self.bucket.set_rate(self.decision.rate_per_s, now)
        self.limited = True

    def emit(self, start_s: float, end_s: float) -> list[float]:
        """Return when messages go out between ``start_s`` and ``end_s``."""
        due = self.demand_per_s * (end_s - start_s)
        self.offered += due
        if self.bucket is None:
            return []
        self.waiting = min(self.waiting + due, max(1.0, due, self.demand_per_s * self._burst_s))
        tokens = self.bucket.available(end_s)
        count = int(min(self.waiting, tokens))
        self.limited = self.limited and self.waiting < tokens
        if self.bucket.rate_per_s == inf:
            times = [start_s + (end_s - start_s) * (number + 1) / count for number in range(count)]
        else:
            times = [max(start_s, self.bucket.accrued_at(number, end_s)) for number in range(count)]
        self.bucket.take(count, end_s)
        self.waiting -= count
        return times


@dataclass(slots=True)
class _Consumer:
    number: int
    next_report_s: float
    held: deque[float] = field(default_factory=deque)  # arrival times; the first is in work while `busy`
    busy: bool = False
    done_s: float = 0.0
    service_s: float = 0.0
    processed: int = 0
    busy_s: float = 0.0
    service_sum_s2: float = 0.0
    gone: bool = False


class Plant:
    """The whole loop in virtual time.

    Attributes:
        now: virtual seconds since the start.
        samples: one `Sample` every ``tick_s``.
        starts_s, waits_s: of every message, in order of service: when its work began, and how long it had waited.
        capacity: messages that could have been processed so far, had there always been one to work on.
        busy_s: consumer-seconds of work begun so far.
    """

    def __init__(
        self,
        uniform: Callable[[], float],
        *,
        workers: Workers | None = None,
        queue: Queue | None = None,
        network: Network | None = None,
        tick_s: float = 0.1,
        step_s: float = 0.005,
    ) -> None:
        """``uniform`` returns numbers in [0, 1), like ``random.Random(1).random``: service times, losses, phases."""
        self.now = 0.0
        self.queue = queue or Queue()
        self.network = network or Network()
        self.workers = replace(workers or Workers(), count=0)
        self.producers: list[PlantProducer] = []
        self.samples: list[Sample] = []
        self.starts_s = array("d")
        self.waits_s = array("d")
        self.capacity = 0.0
        self.busy_s = 0.0
        self.arrived = 0
        self.processed = 0
        self.dropped = 0
        self._uniform = uniform
        self._tick_s = tick_s
        self._step_s = step_s
        self._steps = 0
        self._ready: deque[float] = deque()
        self._consumers: list[_Consumer] = []
        self._credit: deque[_Consumer] = deque()
        self._completions: list[tuple[float, int, _Consumer]] = []
        self._mail: list[tuple[float, int, Report]] = []
        self._readings: list[tuple[float, int, PlantProducer, int, int | None]] = []
        self._numbers = 0
        self._next_sample_s = 0.0
        self.set_workers(workers or Workers())

    @property
    def depth(self) -> int:
        """Ready plus unacked."""
        return len(self._ready) + sum(len(consumer.held) for consumer in self._consumers)

    def add_producer(
        self, law: Law, demand_per_s: float, *, weight: float = 1.0, retry: bool = True, burst_s: float = 0.1
    ) -> PlantProducer:
        """Start a producer now.

        Args:
            law: decides its rate, once a tick.
            demand_per_s: what its schedule offers.
            weight: its share against the others. Many equal producers may be modelled as one of their added weight.
            retry: a refused message is kept and sent again, or else given up and counted as rejected.
            burst_s: depth of its token bucket, and how much of its schedule may wait.
        """
        self._numbers += 1
        producer = PlantProducer(
            law, demand_per_s, session=self._numbers, weight=weight, retry=retry, tick_s=self._tick_s, burst_s=burst_s
        )
        producer.board = SignalBoard(producer.session, self.network.timeout_s)
        producer.next_tick_s = self.now + self._tick_s * self._uniform()
        producer.next_report_s = self.now + self.network.report_interval_s * self._uniform()
        producer.next_reading_s = producer.next_tick_s - self.network.probe_delay_s  # it probes, then decides
        self.producers.append(producer)
        return producer

    def remove_producer(self, producer: PlantProducer) -> None:
        """Stop ``producer`` without a word."""
        self.producers.remove(producer)

    def set_workers(self, workers: Workers) -> None:
        """Change the consumers from now on; work that has begun ends as it would have, unless its consumer goes."""
        self.workers = workers
        while len(self._consumers) > workers.count:
            self._leave(self._consumers.pop())
        while len(self._consumers) < workers.count:
            self._numbers += 1
            self._consumers.append(
                _Consumer(self._numbers, self.now + self.network.report_interval_s * self._uniform())
            )
        self._credit = deque(consumer for consumer in self._consumers if len(consumer.held) < workers.prefetch)
        for consumer in self._consumers:
            self._work(consumer, self.now)
        while self._ready and self._credit:
            self._deliver(self._ready.popleft(), self.now)

    def run(self, duration_s: float) -> None:
        """Let ``duration_s`` of virtual time pass."""
        end = self._steps + round(duration_s / self._step_s)
        while self._steps < end:
            self._steps += 1
            start_s, self.now = self.now, self._steps * self._step_s
            self.capacity += self.workers.capacity_per_s * self._step_s
            self._flow(start_s)
            self._report()
            self._probe()
            self._control()
            if self.now >= self._next_sample_s:
                self._next_sample_s += self._tick_s
                self._sample()

    # --- messages -----------------------------------------------------------------------------------------------------

    def _flow(self, start_s: float) -> None:
        if not self.queue.blocked:
            arrivals = [(at_s, producer) for producer in self.producers for at_s in producer.emit(start_s, self.now)]
            if len(self.producers) > 1:
                arrivals.sort(key=_when)
            for at_s, producer in arrivals:
                self._complete(at_s)
                self._arrive(at_s, producer)
        self._complete(self.now)

    def _arrive(self, at_s: float, producer: PlantProducer) -> None:
        bound = self.queue.max_length
        if bound is not None and len(self._ready) >= bound and not self._credit:
            if self.queue.overflow == "reject-publish":
                producer.nacked += 1
                if producer.retry:
                    producer.waiting += 1
                else:
                    producer.rejected += 1
                return
            self._ready.popleft()
            self.dropped += 1
        producer.arrived += 1
        self.arrived += 1
        if self._credit:
            self._deliver(at_s, at_s)
        else:
            self._ready.append(at_s)

    def _deliver(self, arrival_s: float, now: float) -> None:
        """Hand a message to the next consumer with credit, in turn, as a broker does."""
        consumer = self._credit.popleft()
        consumer.held.append(arrival_s)
        if len(consumer.held) < self.workers.prefetch:
            self._credit.append(consumer)
        self._work(consumer, now)

    def _work(self, consumer: _Consumer, now: float) -> None:
        if consumer.busy or not consumer.held or self.workers.state in {"paused", "frozen"}:
            return
        consumer.busy = True
        consumer.service_s = self._service_s()
        consumer.done_s = now + consumer.service_s
        self.busy_s += consumer.service_s
        self.starts_s.append(now)
        self.waits_s.append(now - consumer.held[0])
        heappush(self._completions, (consumer.done_s, consumer.number, consumer))

    def _complete(self, until_s: float) -> None:
        while self._completions and self._completions[0][0] <= until_s:
            done_s, _, consumer = heappop(self._completions)
            if consumer.gone:
                continue
            consumer.held.popleft()
            consumer.busy = False
            consumer.processed += 1
            consumer.busy_s += consumer.service_s
            consumer.service_sum_s2 += consumer.service_s**2
            self.processed += 1
            self._work(consumer, done_s)
            if len(consumer.held) == self.workers.prefetch - 1:
                self._credit.append(consumer)
                if self._ready:
                    self._deliver(self._ready.popleft(), done_s)

    def _leave(self, consumer: _Consumer) -> None:
        consumer.gone = True
        self._ready.extendleft(reversed(consumer.held))
        consumer.held.clear()

    def _service_s(self) -> float:
        mean_s = 1 / self.workers.rate_per_s
        if self.workers.distribution == "fixed":
            return mean_s
        if self.workers.distribution == "exponential":
            return -mean_s * log(1.0 - self._uniform())
        return mean_s * (1 + self.workers.spread * (2 * self._uniform() - 1))

    # --- signals ------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        for producer in self.producers:
            if self.now >= producer.next_report_s:
                producer.next_report_s += self.network.report_interval_s
                self._send(self._producer_report(producer))
        if self.workers.state in {"working", "paused"}:
            for consumer in self._consumers:
                if self.now >= consumer.next_report_s:
                    consumer.next_report_s = max(consumer.next_report_s, self.now - self.network.report_interval_s)
                    consumer.next_report_s += self.network.report_interval_s
                    self._send(self._consumer_report(consumer))
        while self._mail and self._mail[0][0] <= self.now:
            _, _, report = heappop(self._mail)
            for producer in self.producers:
                if producer.board is not None:
                    producer.board.on_report(report, self.now)

    def _send(self, report: Report) -> None:
        if self.network.report_loss == 0 or self._uniform() >= self.network.report_loss:
            self._numbers += 1
            heappush(self._mail, (self.now + self.network.report_delay_s, self._numbers, report))

    def _probe(self) -> None:
        if not self.network.probe:
            return
        for producer in self.producers:
            if self.now >= producer.next_reading_s:
                producer.next_reading_s += self.network.probe_interval_s
                self._numbers += 1
                reading = (self.now, self._numbers, producer, len(self._ready), len(self._consumers))
                heappush(self._readings, reading)
        while self._readings and self._readings[0][0] + self.network.probe_delay_s <= self.now:
            read_s, _, producer, ready, consumers = heappop(self._readings)
            if producer.board is not None:
                producer.board.on_reading(ready, None, consumers, read_s)

    def _control(self) -> None:
        for producer in self.producers:
            if self.now >= producer.next_tick_s and producer.board is not None:
                producer.next_tick_s += self._tick_s
                producer.decide(producer.board, self._own_state(producer), self.now)

    def _own_state(self, producer: PlantProducer) -> OwnState:
        latency_s = self.network.confirm_latency_s
        return OwnState(
            confirmed=producer.arrived,
            nacked=producer.nacked,
            demand_per_s=producer.demand_per_s,
            application_limited=producer.limited,
            confirm_latency_s=latency_s,
            confirm_latency_min_s=latency_s,
            blocked=self.queue.blocked,
            weight=producer.weight,
        )

    def _producer_report(self, producer: PlantProducer) -> ProducerReport:
        return ProducerReport(
            id=f"producer-{producer.session}",
            session=producer.session,
            pid=producer.session,
            host="plant",
            at_ns=int(self.now * 1e9),
            queue="plant",
            offered=int(producer.offered),
            published=producer.arrived + producer.rejected,
            confirmed=producer.arrived,
            nacked=producer.nacked,
            rejected=producer.rejected,
            returned=0,
            republished=0,
            in_flight=0,
            window=0,
            target_rate_per_s=producer.demand_per_s,
            pacing_rate_per_s=producer.decision.rate_per_s,
            weight=producer.weight,
            application_limited=producer.limited,
            blocked=self.queue.blocked,
            blocked_events=0,
            strategy="",
            reason=producer.decision.reason,
            rss_bytes=0,
            cpu_s=0.0,
        )

    def _consumer_report(self, consumer: _Consumer) -> ConsumerReport:
        working_s = self.now - (consumer.done_s - consumer.service_s) if consumer.busy else 0.0
        return ConsumerReport(
            id=f"consumer-{consumer.number}",
            pid=consumer.number,
            host="plant",
            at_ns=int(self.now * 1e9),
            queue="plant",
            delivered=consumer.processed + len(consumer.held),
            processed=consumer.processed,
            failed=0,
            retried=0,
            dead_lettered=0,
            redelivered=0,
            duplicates=0,
            out_of_order=0,
            held=len(consumer.held),
            prefetch=self.workers.prefetch,
            paused=self.workers.state == "paused",
            capacity_per_s=None,
            busy_s=consumer.busy_s + working_s,
            service_sum_s=consumer.busy_s,
            service_sum_s2=consumer.service_sum_s2,
            rss_bytes=0,
            cpu_s=0.0,
        )

    def _sample(self) -> None:
        self.samples.append(
            Sample(
                at_s=self.now,
                depth=self.depth,
                ready=len(self._ready),
                capacity_per_s=self.workers.capacity_per_s,
                demand_per_s=sum(producer.demand_per_s for producer in self.producers),
                arrived=self.arrived,
                processed=self.processed,
                rejected=sum(producer.rejected for producer in self.producers),
                dropped=self.dropped,
                rates_per_s=tuple(producer.decision.rate_per_s for producer in self.producers),
            )
        )


def _when(arrival: tuple[float, PlantProducer]) -> float:
    return arrival[0]
