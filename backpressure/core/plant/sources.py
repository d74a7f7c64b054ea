"""The producers of the plant, and the way of their messages to the broker, where that takes time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf, isfinite

from backpressure.core.board import OwnState, SignalBoard
from backpressure.core.limiters import TokenBucket
from backpressure.core.plant.bounded_queue import WorkQueue
from backpressure.core.plant.network import Line, Network
from backpressure.core.reports import ConsumerReport, DecisionWindow, ProducerReport, Report, decision_window
from backpressure.core.schedule import ArrivalSchedule
from backpressure.core.signals import Decision, Law
from backpressure.core.sums import FleetSum, SumNews
from backpressure.core.unpaced import with_unpaced

_APART = 0.618  # of a message: producers have not all sent their first one at the same moment


class PlantProducer:
    """One producer, and what it has done so far.

    Attributes:
        demand_per_s: what its schedule offers; may be changed at any time.
        reports: whether it tells the others of itself.
        limit: it stops after this many messages; 0: never.
        decision: the law's last one.
        heard: reports and sums that came to it.
        signal_age_s: how old its view of the consumers was then; None: it had none.
        arrived, nacked, rejected: messages the queue took, refused, and that were given up after a refusal.
        in_flight: messages on their way, or whose confirm is; confirm_window: the most that may be.
        line: its connection, as far as the broker.
    """

    def __init__(
        self,
        law: Law,
        demand_per_s: float,
        *,
        session: int,
        weight: float,
        retry: bool,
        burst_s: float,
        timeout_s: float,
        own_limit_per_s: float = inf,
        reports: bool = True,
    ) -> None:
        """See `Plant.add_producer`."""
        self.law = law
        self.reports = reports
        self.demand_per_s = demand_per_s
        self.limit = 0
        self.confirm_window = inf
        self.line = Line()
        self.decision = Decision(0.0, "not asked yet")
        self.signal_age_s: float | None = None
        self.arrived = 0
        self.nacked = 0
        self.rejected = 0
        self.in_flight = 0
        self.board = SignalBoard(session, timeout_s)
        self.board.fleet.possible = True
        self.heard = 0
        self.next_tick_s = 0.0
        self.next_report_s = 0.0
        self._window = DecisionWindow(0.0, 0.0, 0.0)
        self.next_reading_s = 0.0
        self.readings = session
        self._session = session
        self._weight = weight
        self._retry = retry
        self._burst_s = burst_s
        self._own_limit_per_s = own_limit_per_s
        self._bucket: TokenBucket | None = None
        self._offered = 0.0
        self._waiting = 0.0
        self._schedule: ArrivalSchedule | None = None
        self._arrived_at_random = 0
        self._limited = True
        self._held_back = False
        self._latencies_s = 0.0
        self._settled = 0

    @property
    def random(self) -> bool:
        """Whether its arrivals come at random."""
        return self._schedule is not None

    def arrive_by(self, gap: Callable[[], float] | None, now: float) -> None:
        """Let messages arrive with these gaps, random numbers with mean 1, from ``now`` on; None: evenly."""
        if self._schedule is not None:
            self._arrived_at_random += self._schedule.offered
        self._schedule = None if gap is None else ArrivalSchedule(self.demand_per_s, self._burst_s, now, gap)

    def arrivals_offered(self, now: float) -> int:
        """Return how many messages have arrived at random until ``now``."""
        if self._schedule is None:
            return self._arrived_at_random
        self._schedule.pending(now)
        return self._arrived_at_random + self._schedule.offered

    def shrink(self, share: float) -> None:
        """Reduce the producers that it models to this share."""
        self.demand_per_s *= share
        self._weight *= share
        self._own_limit_per_s *= share
        self.confirm_window *= share
        self.line.width *= share

    def change(self, *, weight: float, retry: bool, burst_s: float, now: float) -> None:
        """Continue with another weight, another answer to a refusal, another burst; see `Plant.add_producer`."""
        self._weight, self._retry, self._burst_s = weight, retry, burst_s
        if self._bucket is not None:
            self._bucket.set_burst(burst_s, now)

    def come_back(self, now: float) -> None:
        """Continue after a lost connection: without a burst, and without reports meanwhile."""
        if self._bucket is not None:
            self._bucket.drain(now)
        self.next_report_s = max(self.next_report_s, now)

    def hear(self, report: Report | FleetSum, now: float) -> None:
        """Take in a report or a sum; after a consumer's report near the end of a tick the law decides at once."""
        fleet = self.board.fleet
        heard = fleet.hears_sums if isinstance(report, FleetSum) else fleet.listens
        self.heard += heard
        if not heard:
            return
        if isinstance(report, FleetSum):
            news = self.board.on_sum(report, now)
        else:
            self.board.on_report(report, now)
            news = SumNews.USUAL if isinstance(report, ConsumerReport) else SumNews.NONE
        if news is SumNews.CHANGE:
            self.next_tick_s = min(self.next_tick_s, max(now, self._window.news_at))
        elif news and now >= self._window.report_at:
            self.next_tick_s = now

    def decide(self, now: float, tick_s: float, network: Network, *, blocked: bool) -> None:
        """Ask the law, apply its decision from now on, and compute when to ask again."""
        own = OwnState(
            confirmed=self.arrived,
            nacked=self.nacked,
            in_flight=self.in_flight,
            demand_per_s=self.demand_per_s,
            application_limited=self._limited or self._held_back,
            confirm_latency_s=self._latencies_s / self._settled if self._settled else None,
            confirm_latency_min_s=network.confirmed_after_s,
            way_s=2 * network.way_s or None,
            blocked=blocked,
            weight=self._weight,
            pace_per_s=self.decision.rate_per_s,
        )
        signals = self.board.signals(own, now)
        self.signal_age_s = signals.age_s if isfinite(signals.age_s) else None
        self.decision = with_unpaced(self.law.update(signals, now), signals.unpaced_per_s)
        self._window = decision_window(now, tick_s, signals.feedback_age_s)
        self.next_tick_s = self._window.latest_at
        if self._bucket is None:
            self._bucket = TokenBucket(self.decision.rate_per_s, self._burst_s, now)
            self._bucket.take(_APART * (self._session - 1) % 1.0, now)
        self._bucket.set_rate(self.decision.rate_per_s, now)
        self._limited, self._held_back = True, False
        self._latencies_s, self._settled = 0.0, 0

    def told(self, now: float) -> FleetSum | None:
        """Return what it has to tell all producers of a large fleet; see `SignalBoard.due_sum`."""
        return self.board.due_sum("plant", now, self.decision)

    def emit(self, start_s: float, end_s: float) -> list[float]:
        """Return when messages go out between ``start_s`` and ``end_s``."""
        if self._schedule is not None:
            return self._emit_scheduled(self._schedule, start_s, end_s)
        due = self.demand_per_s * (end_s - start_s)
        self._offered += due
        if self._bucket is None:
            return []
        self._waiting = min(self._waiting + due, max(1.0, due, self.demand_per_s * self._burst_s))
        tokens = self._bucket.available(end_s)
        count = self._allowed(int(min(self._waiting, tokens)))
        self._limited = self._limited and self._waiting < tokens
        if self._bucket.rate_per_s == inf:
            times = [start_s + (end_s - start_s) * (number + 1) / count for number in range(count)]
        else:
            times = [max(start_s, self._bucket.accrued_at(number, end_s)) for number in range(count)]
        self._take(self._bucket, count, end_s)
        self._waiting -= count
        return times

    def _emit_scheduled(self, schedule: ArrivalSchedule, start_s: float, end_s: float) -> list[float]:
        """Send what was refused again, then what has arrived, none before it has."""
        if schedule.rate_per_s != self.demand_per_s:
            schedule.set_rate(self.demand_per_s, start_s)
        pending = schedule.pending(end_s)
        if self._bucket is None:
            schedule.restart(end_s)
            return []
        tokens = self._bucket.available(end_s)
        again = int(self._waiting)
        count = self._allowed(int(min(again + pending, tokens)))
        self._limited = self._limited and again + pending < tokens
        times: list[float] = []
        earliest_s = start_s
        for number in range(count):
            if number >= again:
                earliest_s = max(earliest_s, schedule.take())
            allowed_s = start_s if self._bucket.rate_per_s == inf else self._bucket.accrued_at(number, end_s)
            times.append(max(earliest_s, allowed_s))
        self._take(self._bucket, count, end_s)
        self._waiting -= min(again, count)
        return times

    def _allowed(self, count: int) -> int:
        """Return how many of ``count`` messages the limit and the windows leave."""
        if self.limit:
            count = min(count, self.limit - self.arrived - self.rejected - self.in_flight)
        return int(min(count, self._space))

    @property
    def _space(self) -> float:
        return max(0.0, min(self.confirm_window, self.decision.window or inf) - self.in_flight)

    def _take(self, bucket: TokenBucket, count: int, now: float) -> None:
        bucket.take(count, now)
        if (
            count >= self._space
        ):  # as in `Sender`: no sign of a slow law, and what the law holds back is not made up for
            self._held_back = True
            if (self.decision.window or inf) < self.confirm_window:
                bucket.drain(now)

    def settle(self, *, taken: bool, after_s: float) -> None:
        """Record that the queue took or refused a message, ``after_s`` seconds after it was sent."""
        self._latencies_s += after_s
        self._settled += 1
        if taken:
            self.arrived += 1
            return
        self.nacked += 1
        if self._retry:
            self._waiting += 1
        else:
            self.rejected += 1

    def report(self, now: float, *, blocked: bool) -> ProducerReport:
        """Return the counters now."""
        return ProducerReport(
            id=f"producer-{self._session}",
            session=self._session,
            pid=self._session,
            host="plant",
            at_ns=int(now * 1e9),
            queue="plant",
            offered=int(self._offered) + self.arrivals_offered(now),
            published=self.arrived + self.rejected,
            confirmed=self.arrived,
            nacked=self.nacked,
            rejected=self.rejected,
            returned=0,
            republished=0,
            in_flight=self.in_flight,
            window=0,
            target_rate_per_s=self.demand_per_s,
            usable_rate_per_s=min(self.demand_per_s, self._own_limit_per_s),
            pacing_rate_per_s=self.decision.rate_per_s,
            weight=self._weight,
            application_limited=self._limited,
            blocked=blocked,
            blocked_events=0,
            strategy="",
            reason=self.decision.reason,
            bottleneck_per_s=self.decision.bottleneck_per_s,
            signal_age_s=self.signal_age_s,
            knows_sums=True,
            rss_bytes=0,
            cpu_s=0.0,
        )


class Way:
    """Messages and confirms on their way; on one producer's connection none overtakes another.

    ``took_s`` is how long the confirm of each message took, by the time at which the message was sent.
    """

    def __init__(self) -> None:
        self.took_s: dict[float, float] = {}
        self._messages: list[tuple[float, int, float, PlantProducer]] = []
        self._confirms: deque[tuple[float, float, PlantProducer, bool]] = deque()
        self._count = 0

    @property
    def busy(self) -> bool:
        """Whether something is on its way."""
        return bool(self._messages or self._confirms)

    def travel(
        self,
        sent: Iterable[tuple[float, PlantProducer]],
        queue: WorkQueue,
        start_s: float,
        now: float,
        network: Network,
    ) -> None:
        """Send ``sent`` on its way, and deliver to the queue what arrives between ``start_s`` and ``now``.

        A stalled queue takes nothing: messages wait in front of it, in order.
        """
        for sent_s, producer in sent:
            producer.in_flight += 1
            self._count += 1
            heappush(self._messages, (producer.line.carry(sent_s, network), self._count, sent_s, producer))
        while not queue.stands_still and self._messages and self._messages[0][0] <= now:
            due_s, _, sent_s, producer = heappop(self._messages)
            at_s = max(start_s, due_s)
            self._confirms.append(
                (at_s + network.way_s + network.confirm_latency_s, sent_s, producer, queue.arrive(at_s, sent_s))
            )
        while self._confirms and self._confirms[0][0] <= now:
            settled_s, sent_s, producer, taken = self._confirms.popleft()
            producer.in_flight -= 1
            self.took_s[sent_s] = settled_s - sent_s
            producer.settle(taken=taken, after_s=settled_s - sent_s)
