"""One consistent view of the loop, built from feedback reports, probe readings and the own producer's state.

Processes report totals. The board adds up their *differences*, so its own totals only grow, also when a process
restarts, vanishes or joins. What other producers have sent since their last reports is estimated from their pace, and
corrected by the next report. The board knows no transport and no clock: its owner passes in what arrived and when.

Reports of different processes are up to one reporting interval apart, so a sum of their latest counters mixes several
moments, and its difference over wall-clock time is noisy (±1 report a tick). The board therefore also adds up the
consumer-seconds in which the departures were observed, each by the clock of its reporter. ``Δdeparted / Δobserved`` is
exactly the rate of one consumer; times the number of working consumers it is the rate of all. Depth has no such remedy:
``unacked`` is up to one reporting interval older than ``ready``. The error is at most the flow in that time, and zero
while the consumers' prefetch is full.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from typing import NamedTuple

from backpressure.core.evidence import BacklogCounts, ConsumerTerms, LateCommits, OffsetReading, QueueStatistics
from backpressure.core.filters import Timeline
from backpressure.core.reporters import (
    FASTEST_PER_S,
    RATE_WINDOW_S,
    RECENTS_FROM_S,
    ReportingConsumer,
    ReportingProducer,
    ServiceTimes,
)
from backpressure.core.reports import ConsumerReport, ProducerReport, Report
from backpressure.core.sharing import Level, ShareTrim, fair_share, water_level
from backpressure.core.signals import FAR_S, Decision, SignalQuality, Signals
from backpressure.core.sums import SEATS, FleetRole, FleetSize, FleetSum, SumNews
from backpressure.core.unpaced import UnpacedArrivals

_FORGET_AFTER = 300  # timeouts; a process that returns after a longer silence counts as new
_HIDDEN_WEIGHT = 0.3
_ON_WAY_AT_MOST = 1.2  # counts and reports are of moments up to a report's interval apart
_BUSY = 0.9
_TICK_S = 0.1
_COMMITS_S = 30.0  # commits are not further apart
_DONE_WINDOW_S = 1.0
_OWN_HISTORY_S = 20.0
_ASK_EACH_TICK = 10  # producers that ask for everything in each tick; of more, each asks less often
_ASK_RARELY = 5  # ticks
_KNOWS_AFTER_S = 0.5  # all who report ten times a second were heard by then
_TURN = 1.5  # intervals, in which each process reports
_NEWS = 0.1  # an estimate that differs more from what was told is told at once


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnState:
    """The own producer at this moment: totals since it started, and what its limiter and schedule say.

    ``weight`` is its share against other producers, ``pace_per_s`` what its law has allowed until now; the other names
    mean what they mean in `Signals`.
    """

    confirmed: int = 0
    nacked: int = 0
    returned: int = 0
    in_flight: int = 0
    window: int = 0
    demand_per_s: float = inf
    application_limited: bool = False
    confirm_latency_s: float | None = None
    confirm_latency_min_s: float | None = None
    way_s: float | None = None
    blocked: bool = False
    weight: float = 1.0
    pace_per_s: float = inf


class _Totals(NamedTuple):
    """What the board adds up: departures with the consumer-seconds behind them, and what the others have sent."""

    departed: float = 0.0
    observed_s: float = 0.0
    busy_s: float = 0.0
    told_s: float = 0.0
    others_confirmed: float = 0.0

    def plus(self, more: _Totals) -> _Totals:
        """Return both together."""
        return _Totals._make(mine + theirs for mine, theirs in zip(self, more, strict=True))

    def after(self, start: _Totals, now: _Totals, then: _Totals) -> _Totals:
        """Return ``start`` and what has been added from ``then`` to ``now``.

        No total falls, but what others have sent: that was estimated.
        """
        added = _Totals._make(mine + new - old for mine, new, old in zip(start, now, then, strict=True))
        return _Totals._make(map(max, self, added))._replace(others_confirmed=added.others_confirmed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """What is known of all others at one moment, by their reports or by a sum of these.

    Attributes:
        consumers, working: how many consumers report, and how many of them work.
        held: what they hold.
        interval_s: how often each of them reports.
        age_s, newest_s: mean age of their counters, and age of the newest report.
        served: mean and squared coefficient of variation of service times.
        confirmed: messages confirmed to all producers.
        corrected: how much of that has corrected estimates of the time before.
        producers: how many, the own one included.
        share: the own one's part.
        comparable: whether what it has sent can be compared with what all have.
    """

    consumers: int
    working: int | None
    held: int
    interval_s: float
    age_s: float
    newest_s: float
    served: tuple[float | None, float | None]
    confirmed: int
    corrected: int
    producers: int
    share: float
    comparable: bool


def _differ(rate_per_s: float, told_per_s: float) -> bool:
    """Return whether an estimate differs so much from what was told that it is told at once."""
    return abs(rate_per_s - told_per_s) > _NEWS * max(rate_per_s, told_per_s)


class SignalBoard:
    """Collects reports and readings, and turns them into `Signals`; one board per law.

    Attributes:
        rarely_told: whether consumers report so rarely that what they hold is better asked of the broker.
        fleet: who hears all reports if processes are many.
    """

    def __init__(self, session: int, timeout_s: float = 2.0) -> None:
        """``session`` is the own producer's: its own reports only show that reports arrive.

        A process silent for ``timeout_s`` is gone; after a quarter of that it is no longer counted on: neither as a
        worker nor as a rival for the common rate.
        """
        self._session = session
        self._timeout_s = timeout_s
        self._fresh_s = timeout_s / 4
        self._producers: dict[int, ReportingProducer] = {}
        self._consumers: dict[tuple[str, int, str, str], ReportingConsumer] = {}
        self._totals = _Totals()
        self._led: FleetSum | None = None
        self._led_at = -inf
        self._marks: dict[int, tuple[_Totals, _Totals]] = {}  # of each who sums: its totals, and what ours were then
        self._group: _Group | None = None
        self._told_per_s = 0.0
        self._corrected = 0.0
        self._believed: tuple[FleetSum, float, float] | None = None  # the sum, when it came, what others had sent
        self._own = OwnState()
        self._statistics: QueueStatistics | None = None
        self._told_at = -inf
        self._hears_since, self._hears_at = inf, -inf  # reports, one by one
        self._fleet_told = 0, 0.0  # how many producers there are, and how often they report, by the last sum
        self.fleet = FleetRole(session)
        self._listens_since: float | None = None
        self._reporting = 0  # consumers, also those that are paused and so do not count for the broker
        self._served = ServiceTimes()
        self._flow: deque[tuple[float, int]] = deque()
        self._ready: int | None = None
        self._probed_unacked: int | None = None
        self._probed_consumers: int | None = None
        self._read_at = -inf
        self._heard_at = -inf
        self._trim = ShareTrim()
        self._strangers_since: float | None = None
        self._counts = BacklogCounts()
        self._hidden = 0.0
        self._way_s = self._on_way = 0.0
        self._departed_at = (-inf, 0.0)  # when statistics came last, and what had departed then
        self._commits = LateCommits()
        self._departures: Timeline | None = None  # of a topic's consumers
        self.rarely_told = False
        self._ready_told = Timeline(_OWN_HISTORY_S)
        self._own_confirmed = Timeline(_OWN_HISTORY_S)
        self._own_paced = Timeline(_OWN_HISTORY_S)  # as its law allowed: a count of whole messages is too coarse
        self._paced = (-inf, 0.0)
        self._missing = ""
        self._unpaced = UnpacedArrivals()
        self._coarse = False  # what others have sent since their last reports is no more than a guess
        self._entered: tuple[float, float] | None = None  # how many messages, by the broker, and when it was read

    def on_report(self, report: Report, now: float) -> None:
        """Take in a feedback report that arrived at ``now``; a report older than the last one is dropped."""
        if now - self._hears_at > _TURN * self._fleet_told[1]:
            self._hears_since = now
        self._heard_at = self._hears_at = now
        if isinstance(report, ConsumerReport):
            self._on_consumer(report, now)
            if self._departures is not None:
                self._departures.record(now, self._totals.departed)
        elif report.session != self._session:
            self._on_producer(report, now)

    def on_sum(self, told: FleetSum, now: float) -> SumNews:
        """Take in what another producer has summed, and arrived at ``now``; return what that means for this one."""
        if told.session == self._session:
            return SumNews.NONE
        self.fleet.on_sum(told, now)
        others = told.confirmed - self._own.confirmed
        theirs = _Totals(told.departed, told.observed_s, told.busy_s, told.told_s, others)
        leader = self.fleet.leader
        changed = self._led is not None and _differ(told.bottleneck_per_s, self._led.bottleneck_per_s)
        if leader is told:
            before, ours = self._marks.get(told.session, (theirs, self._totals))
            self._totals = self._totals.after(ours, theirs, before)
            self._led, self._led_at, self._heard_at = told, now, now
            if isfinite(told.counted_age_s):
                counted_s = now - told.counted_age_s
                ready, unacked = told.counted_ready, told.counted_unacked
                self._counts.on_statistics(
                    QueueStatistics(ready=ready, unacked=unacked, arrived_s=counted_s, fresh=True)
                )
        self._marks[told.session] = theirs, self._totals if leader is told else self._totals_now(told, now)
        if leader is not told:
            return SumNews.NONE
        return SumNews.CHANGE if changed else SumNews.USUAL

    def _totals_now(self, other: FleetSum, now: float) -> _Totals:
        """Return the totals as they would be if a sum of whom this producer goes by had come with the ``other``.

        Between two sums all is taken to go on as it was. A total that lacks this time would lack it for ever if the
        ``other`` sender took over.
        """
        led = self._led
        if led is None:
            return self._totals
        lag_s = max(0.0, now - self._led_at + led.departed_age_s - other.departed_age_s)
        per_s = min(led.flow_per_s, led.bottleneck_per_s)
        observed_s = led.working * lag_s
        busy_s = observed_s * per_s / led.bottleneck_per_s if led.bottleneck_per_s else 0.0
        others = self._others_since(led, self._led_at, self._own, now)
        return self._totals.plus(_Totals(per_s * lag_s, observed_s, busy_s, observed_s, others))

    def due_sum(self, queue: str, now: float, decision: Decision) -> FleetSum | None:
        """Return what to tell all producers, or None: it is not due, or others do; ask right after `signals`.

        ``decision`` is the law's last one.
        """
        group, rate_per_s = self._group, decision.bottleneck_per_s or 0.0
        next_s = self.fleet.next_sum_s(now, news=_differ(rate_per_s, self._told_per_s))
        if next_s is None or group is None:
            return None
        self._told_per_s = rate_per_s
        level = self._level(now)
        counted, totals = self._statistics, self._totals
        mean_s, cv2 = group.served
        first, second = self.fleet.seats[0], self.fleet.seats[-1]
        return FleetSum(
            queue=queue,
            session=self._session,
            first=first,
            second=second,
            at_ns=max(0, int(now * 1e9)),
            confirmed=max(0, group.confirmed),
            departed=totals.departed,
            observed_s=totals.observed_s,
            busy_s=totals.busy_s,
            told_s=totals.told_s,
            reporting=self._reporting,
            working=group.working or 0,
            held=group.held,
            producers=group.producers,
            counted_ready=counted.ready if counted else 0,
            counted_unacked=counted.unacked if counted else 0,
            counted_age_s=now - counted.arrived_s if counted else inf,
            departed_age_s=group.age_s,
            newest_s=group.newest_s,
            interval_s=group.interval_s,
            service_mean_s=mean_s or 0.0,
            service_cv2=cv2 or 0.0,
            flow_per_s=level.total_per_s,
            left_per_s=max(0.0, level.left_per_s),
            weights=level.weights,
            bottleneck_per_s=rate_per_s,
            extra=decision.extra,
            next_s=next_s,
            report_s=self.fleet.report_every_s or 0.0,
            guests=self.has_guests,
        )

    def tells_interval(self, now: float) -> bool:
        """Whether it is this producer's part to tell consumers how often to report, and it knows how many there are."""
        if not self.fleet.first or self._listens_since is None:
            return False
        intervals_s = [consumer.latest.interval_s for consumer in self._consumers.values()]
        intervals_s += [producer.latest.interval_s for producer in self._producers.values()]
        slowest_s = max(intervals_s, default=0.0)
        return now - self._listens_since >= max(_KNOWS_AFTER_S, 1.5 * slowest_s)

    @property
    def has_strangers(self) -> bool:
        """Whether some consumers do not report."""
        return self._strangers_since is not None

    @property
    def has_guests(self) -> bool:
        """Whether a consumer of another program reports: its client library may hold messages it does not know of."""
        if self._led is not None:
            return self._led.guests
        return any(not consumer.latest.rss_bytes for consumer in self._consumers.values())

    def wants_counts(self, reading: int, producers: int) -> bool:
        """Whether the reading of that number should also tell what consumers hold that do not say it themselves.

        It costs the broker more: many producers ask in turn, and where all consumers report it is less urgent. Those of
        a fleet report so rarely that the broker knows better.
        """
        if self._led is not None and not self.has_strangers:
            return False  # who sums tells it
        if self.fleet.adds_up:
            producers = SEATS
        urgent = self.has_strangers or self.rarely_told or self._way_s > FAR_S
        turns = ceil(producers / _ASK_EACH_TICK) * (1 if urgent else _ASK_RARELY)
        return (urgent or self.has_guests) and reading % turns == 0

    @property
    def wants_readings_between(self) -> bool:
        """Whether to read the queue once more between two ticks: its counts change about as often, at other moments.

        When a count was made is only known to within the time between two readings.
        """
        return self.has_strangers and self._counts.changing

    def on_reading(
        self,
        ready: int | None,
        unacked: int | None,
        consumers: int | None,
        now: float,
        *,
        missing: str | None = None,
        left: int | None = None,
    ) -> None:
        """Take in a reading of the queue; a count is None where the broker does not tell it.

        Args:
            ready: messages that no consumer has.
            unacked: messages that consumers have.
            consumers: how many there are.
            now: when it was read.
            missing: why it is not known what consumers hold, and what to do; None: this reading does not tell.
            left: how many had left the queue by the commits from which all this was computed, if it was. While
                consumers report more, commits have stalled, and such a reading is of no use.
        """
        if left is not None and self._commits.stalled(left, self._totals.departed, now):
            ready = None
        self._ready, self._probed_unacked, self._probed_consumers, self._read_at = ready, unacked, consumers, now
        self._missing = self._missing if missing is None else missing
        if ready is not None:
            self._ready_told.record(now, ready)
        self._counts.on_reading(ready, unacked, consumers, now)
        known = sum(not consumer.silent(now, self._timeout_s) for consumer in self._consumers.values())
        if self._led is not None:
            known = self._led.reporting
        if consumers is None or consumers <= known:
            self._strangers_since = None
        elif self._strangers_since is None:
            self._strangers_since = now

    def on_statistics(self, statistics: QueueStatistics) -> None:
        """Take in what the broker told of the queue at another moment than its reading.

        Where all consumers report and some are guests, it shows what waits in their client libraries. What is on its
        way to them and back does not wait: they are taken to be as far away as this producer. After an outage consumers
        are back before their reports: what they hold is not hidden then. What was told before counts once.
        """
        if statistics.arrived_s <= self._told_at:
            return
        self._told_at = statistics.arrived_s
        self._counts.on_statistics(statistics)
        self._statistics = statistics if statistics.fresh else None
        if statistics.fresh and not self.rarely_told and self.has_guests and not self.has_strangers:
            at, departed = self._departed_at
            self._departed_at = (statistics.arrived_s, self._totals.departed)
            per_s = max(0.0, self._totals.departed - departed) / max(_TICK_S, statistics.arrived_s - at)
            on_way = self._way_s * per_s
            self._on_way = max(on_way, self._on_way + _HIDDEN_WEIGHT * (on_way - self._on_way))
            held = sum(one.held() for one in self._present(statistics.arrived_s))
            hidden = max(0.0, statistics.unacked - held - _ON_WAY_AT_MOST * self._on_way)
            self._hidden += _HIDDEN_WEIGHT * (hidden - self._hidden)

    def on_terms(self, terms: ConsumerTerms, now: float) -> None:
        """Take in on what terms consumers get messages, as it was told at ``now``."""
        self._counts.on_terms(terms, now)

    @property
    def unpaced_per_s(self) -> float:
        """Messages a second that arrive from producers that nobody paces; 0: none, or too few to be certain of."""
        return self._unpaced.per_s

    def on_entered(self, entered: int, now: float) -> None:
        """Take in how many messages have entered the queue, as the broker's statistics tell it."""
        self._entered = entered, now

    def on_offsets(self, offsets: OffsetReading, consumers: int | None) -> None:
        """Take in the offsets of a topic; ``consumers`` is None where the broker does not tell."""
        self._counts.on_offsets(offsets)
        if self._departures is None:
            self._departures = Timeline(_COMMITS_S)
            self._departures.record(offsets.arrived_s, self._totals.departed)
        self.on_reading(self._ready_by_reports(offsets.arrived_s), None, consumers, offsets.arrived_s)

    def _ready_by_reports(self, now: float) -> int | None:
        """Return what waits in a topic whose consumers report and commit rarely; None: not known.

        It is what the last commit had left and what has come since, less what has been done since.
        """
        count, moment_s = self._counts.known(now)
        heard = self._present(now)
        if count is None or not heard or self._departures is None or not self._departed_known(now):
            return None
        done = self._departures.at(now)
        per_s = (done - self._departures.at(now - _DONE_WINDOW_S)) / _DONE_WINDOW_S
        done += per_s * sum(now - consumer.heard_at for consumer in heard) / len(heard)
        depth = count + self._counts.arrived_since(moment_s, now) - (done - self._departures.at(moment_s))
        return max(0, round(depth) - sum(consumer.held() for consumer in heard))

    def signals(self, own: OwnState, now: float) -> Signals:
        """Return the loop as it is known at ``now``."""
        self._record_own(own, now)
        self._forget(now)
        self._choose_source(now)
        self._group = group = self._by_reports(own, now) if self._led is None else self._by_sum(self._led, own, now)
        reporting = self._departed_known(now)
        counts, totals = self._counts, self._totals
        self.rarely_told = group.interval_s > RECENTS_FROM_S
        backlog, counted_at = (None, -inf) if counts.auto_ack else counts.known(now)
        departed_age_s = group.age_s if reporting else inf
        if reporting and not (self.rarely_told and now - counted_at < departed_age_s):
            backlog, counted_at = self._backlog_told(group, now) if self.rarely_told else (None, -inf)
        quality, missing = self._quality(now, reporting=reporting)
        alone = not group.comparable
        share = group.share * self._trim.update(group.share, own.confirmed, group.confirmed, now, comparable=not alone)
        signals = Signals(
            ready=self._ready,
            unacked=self._unacked(group, reporting=reporting),
            depth_age_s=now - self._read_at,
            backlog=backlog,
            backlog_age_s=now - counted_at,
            backlog_error=counts.error,
            backlog_doubt_s=counts.doubt_s,
            count_interval_s=counts.interval_s,
            next_count_in_s=max(0.0, counts.next_s - now) if counts.interval_s else 0.0,
            held_at_most=counts.held_at_most,
            quality=quality,
            missing=missing,
            confirmed_total=group.confirmed,
            corrected_total=group.corrected,
            departed_total=round(totals.departed) if reporting else None,
            observed_total_s=totals.observed_s if reporting else None,
            busy_total_s=totals.busy_s if reporting else None,
            told_total_s=totals.told_s if reporting else None,
            report_interval_s=group.interval_s,
            told_rate_per_s=(self._led.bottleneck_per_s or None) if self._led is not None else None,
            adds_up=self.fleet.adds_up,
            told_extra=self._led.extra if self._led is not None else None,
            departed_age_s=departed_age_s,
            feedback_age_s=group.newest_s,
            consumers=group.working,
            service_mean_s=group.served[0],
            service_cv2=group.served[1],
            demand_per_s=own.demand_per_s,
            application_limited=own.application_limited,
            in_flight=own.in_flight,
            window=own.window,
            nacked_total=own.nacked,
            returned_total=own.returned,
            confirm_latency_s=own.confirm_latency_s,
            confirm_latency_min_s=own.confirm_latency_min_s,
            way_s=own.way_s,
            blocked=own.blocked,
            producers=group.producers,
            share=min(1.0, share),
        )
        self._way_s = signals.there_and_back_s
        self._watch_unpaced(signals, now)
        return replace(signals, unpaced_per_s=self.unpaced_per_s) if self.unpaced_per_s else signals

    def _watch_unpaced(self, signals: Signals, now: float) -> None:
        """Compare what enters the queue with what known producers send, by the best count there is of what enters."""
        entered, late = self._counts.entered, self._coarse
        if entered is None and signals.departed_total is not None and not self.rarely_told:
            if signals.depth is not None and signals.depth_age_s <= _TICK_S:
                entered = signals.depth + signals.departed_total
        elif entered is None and self._entered is not None:
            entered, late = self._entered[0], True
        if entered is not None:
            self._unpaced.update(
                entered,
                now,
                confirmed=signals.confirmed_total,
                in_flight=signals.in_flight,
                producers=signals.producers,
                late=late,
            )

    def _backlog_told(self, group: _Group, now: float) -> tuple[int | None, float]:
        """Return what is queued or held by the reports of a fleet, and when it was: these are seconds old."""
        if not isfinite(group.age_s) or self._probed_unacked is not None or self._ready is None:
            return None, -inf
        moment = now - group.age_s
        return round(self._ready_told.at(moment)) + group.held, moment

    def _record_own(self, own: OwnState, now: float) -> None:
        self._own_confirmed.record(now, own.confirmed)
        at, paced = self._paced
        if own.pace_per_s > FASTEST_PER_S or own.application_limited or own.blocked:
            paced += own.confirmed - self._own.confirmed
        elif at > -inf:
            paced += own.pace_per_s * (now - at)
        self._own_paced.record(now, paced)
        self._own, self._paced = own, (now, paced)

    def _choose_source(self, now: float) -> None:
        """Go by reports or by sums of others from now on."""
        heard = [producer.latest for producer in self._rivals()]
        knowing = [report.session for report in heard if report.knows_sums]
        consumers = sum(not consumer.silent(now, self._timeout_s) for consumer in self._consumers.values())
        self._reporting = consumers
        listened = self.fleet.listens
        if self._listens_since is None:
            self._listens_since = now
        self.fleet.update(FleetSize(consumers, 1 + len(heard), len(heard) - len(knowing)), knowing, now)
        if self.fleet.listens and not listened:
            self._listens_since = now
            self._consumers, self._producers = {}, {}  # what they did meanwhile is in the sums
        leader = self.fleet.leader
        if leader is None:
            self._led = self._believed = None
            if not self.fleet.report_every_s:
                self._marks.clear()
        elif self._led is None:
            self._led, self._led_at = leader, now

    def _rivals(self) -> list[ReportingProducer]:
        # Compared with the newest report of all, its own included: if no report arrives, the others are not all gone.
        return [p for p in self._producers.values() if not p.silent(self._heard_at, self._fresh_s)]

    def _hidden_from(self, heard: list[ReportingConsumer]) -> float:
        """Return what waits in client libraries, by the last counts.

        A consumer without work has nothing there. One that lacks work at times hardly has: more is on its way, rather.
        """
        busy = sum(consumer.busy for consumer in heard) / max(1, len(heard))
        return 0.0 if busy <= 0 or (busy < _BUSY and self._hidden < self._on_way) else self._hidden

    def _by_reports(self, own: OwnState, now: float) -> _Group:
        rivals = self._rivals()
        confirmed = own.confirmed + round(self._totals.others_confirmed) + round(self._sent_since(rivals, own, now))
        share = fair_share(
            own.weight,
            self._flow_per_s(confirmed, now),
            [(rival.latest.weight, rival.need_per_s()) for rival in rivals],
        )
        alone = not rivals or own.application_limited or own.blocked
        rare = [rival.latest for rival in rivals if rival.latest.interval_s > RECENTS_FROM_S]
        every_s = self.fleet.report_every_s
        coarse = bool(rare) if every_s is None else every_s > RECENTS_FROM_S  # what rivals sent since is a guess then
        alone = alone or coarse
        self._coarse = coarse
        # Who joins a fleet has heard few of it yet, but any report tells how many there are.
        known = 1 + len(rivals)
        share *= known / max([known, self._last_told(now), *(report.producers for report in rare)])
        heard = self._present(now)
        hidden = 0 if self._counts.known(now)[0] is None else round(self._hidden_from(heard))
        return _Group(
            consumers=len(heard),
            working=self._working(heard, now),
            held=sum(consumer.held() for consumer in heard) + hidden,
            interval_s=sum(c.latest.interval_s for c in heard) / len(heard) if heard else 0.0,
            age_s=sum(now - c.heard_at for c in heard) / len(heard) if heard else inf,
            newest_s=min((now - consumer.heard_at for consumer in self._consumers.values()), default=inf),
            served=self._served.mean_and_cv2(),
            confirmed=confirmed,
            corrected=round(self._corrected),
            producers=known,
            share=share,
            comparable=not alone,
        )

    def _last_told(self, now: float) -> int:
        """Return how many producers the last sum told of, until all have had their turn since this one hears reports.

        When those who send sums are gone, or the broker was, all others listen at once, and have heard of nobody yet.
        """
        producers, report_s = self._fleet_told
        turn_s = _TURN * report_s
        return producers if now - self._hears_since < turn_s or now - self._hears_at > turn_s else 0

    def _by_sum(self, told: FleetSum, own: OwnState, now: float) -> _Group:
        """What is not told of the time since the sum is as it was, and others send as this producer does."""
        self._coarse = True
        self._fleet_told = told.producers, told.report_s
        age_s = now - self._led_at
        share = self._share_told(told, own, now)
        limited = own.application_limited or own.blocked
        others = self._totals.others_confirmed + self._others_since(told, self._led_at, own, now)
        if self._believed is not None and self._believed[0] is not told:
            before, before_at, others_before = self._believed
            self._corrected += others - others_before - self._others_since(before, before_at, own, now)
        self._believed = told, self._led_at, self._totals.others_confirmed
        probed = self._probed_consumers
        working = told.working
        if probed is not None:
            working = min(probed, working + max(0, probed - told.reporting))
        return _Group(
            consumers=told.reporting,
            working=working,
            held=told.held,
            interval_s=told.interval_s,
            age_s=told.departed_age_s + age_s,
            newest_s=told.newest_s + max(0.0, age_s - told.next_s),
            served=(told.service_mean_s or None, told.service_cv2 if told.service_mean_s else None),
            confirmed=own.confirmed + round(others),
            corrected=round(self._corrected),
            producers=told.producers,
            share=share,
            comparable=not limited and told.report_s <= RECENTS_FROM_S,
        )

    def _share_told(self, told: FleetSum, own: OwnState, now: float) -> float:
        return Level(told.flow_per_s, told.left_per_s, told.weights).share(own.weight, self._need_per_s(own, now))

    def _others_since(self, told: FleetSum, told_at: float, own: OwnState, now: float) -> float:
        """Estimate what others have sent since a sum that came then."""
        age_s = now - told_at
        if own.application_limited or own.blocked:
            return told.flow_per_s * (1 - self._share_told(told, own, now)) * age_s
        others_weigh = max(0.0, told.weights / own.weight - 1)
        return self._paced_since(told_at, now) * others_weigh + (told.flow_per_s - told.left_per_s) * age_s

    def _paced_since(self, moment: float, now: float) -> float:
        """Return what the own producer was allowed to send since; before what is remembered, as much as after."""
        sent, begins_at = self._paced[1] - self._own_paced.at(moment), self._own_paced.begins_at
        return sent if moment >= begins_at or now <= begins_at else sent * (now - moment) / (now - begins_at)

    def _need_per_s(self, own: OwnState, now: float) -> float:
        """Return what the own producer can use."""
        if not own.application_limited and not own.blocked:
            return own.demand_per_s
        sent = own.confirmed - self._own_confirmed.at(now - RATE_WINDOW_S)
        return min(own.demand_per_s, sent / RATE_WINDOW_S)

    def _level(self, now: float) -> Level:
        """Return how the common rate is divided among all producers."""
        members = [(rival.latest.weight, rival.need_per_s()) for rival in self._rivals()]
        members.append((self._own.weight, self._need_per_s(self._own, now)))
        (start, first), (end, last) = self._flow[0], self._flow[-1]
        flow_per_s = (last - first) / (end - start) if end > start else 0.0
        return water_level(max(0.0, flow_per_s), members)  # an estimate that is corrected may fall

    def _sent_since(self, rivals: list[ReportingProducer], own: OwnState, now: float) -> float:
        """Estimate how many messages others have sent since their last reports.

        In a fleet these are seconds old. Then what the own producer has sent since tells more: the others' laws see the
        same queue.
        """
        sent, fleet = 0.0, self.fleet.report_every_s is not None
        for rival in rivals:
            often = rival.latest.interval_s <= RECENTS_FROM_S and not fleet
            if often or own.application_limited or not rival.limited_by_law():
                sent += rival.sent_since(now)
            else:
                since = self._paced_since(rival.heard_at, now)
                sent += since * rival.latest.weight / own.weight
        return sent

    def _on_producer(self, report: ProducerReport, now: float) -> None:
        known = self._producers.get(report.session)
        if known is None:
            known = self._producers[report.session] = ReportingProducer(report, now)
        else:
            before = known.take(report, now, self._timeout_s)
            if before is None:
                return
            self._add(others_confirmed=report.confirmed - before.confirmed)
        known.remember()

    def _on_consumer(self, report: ConsumerReport, now: float) -> None:
        key = (report.host, report.pid, report.id, report.queue)
        known = self._consumers.get(key)
        if known is None:
            known = self._consumers[key] = ReportingConsumer(report, now, most_prefetch=report.prefetch)
            told = known.first_told()
            if told is not None:
                self._add(*told)
            return
        before = known.take(report, now, self._timeout_s)
        if before is None:
            return
        known.most_prefetch = max(known.most_prefetch, report.prefetch)
        self._add(*known.told_since(before))
        self._served.add(before, report, now)

    def _add(
        self,
        departed: float = 0.0,
        observed_s: float = 0.0,
        busy_s: float = 0.0,
        told_s: float = 0.0,
        others_confirmed: float = 0.0,
    ) -> None:
        """Add what a report tells, unless it is in a sum of others as well."""
        if self._led is None:
            self._totals = self._totals.plus(_Totals(departed, observed_s, busy_s, told_s, others_confirmed))

    def _forget(self, now: float) -> None:
        self._producers = {
            key: rival for key, rival in self._producers.items() if not rival.silent(now, self._timeout_s)
        }
        horizon = now - _FORGET_AFTER * self._timeout_s
        self._consumers = {key: known for key, known in self._consumers.items() if known.heard_at > horizon}

    def _departed_known(self, now: float) -> bool:
        """Whether reports cover everything that leaves the queue; unknown consumers get time to report first."""
        settled = self._strangers_since is not None and now - self._strangers_since > self._timeout_s / 2
        heard = bool(self._consumers) if self._led is None else self._led.reporting > 0
        return heard and not settled

    def _quality(self, now: float, *, reporting: bool) -> tuple[SignalQuality, str]:
        if reporting or not self._probed_consumers or not self.has_strangers:
            return SignalQuality.REPORTED, ""
        assert self._strangers_since is not None
        return self._counts.quality(now, self._missing, now - self._strangers_since)

    def _present(self, now: float) -> list[ReportingConsumer]:
        """Return the consumers that reported lately, at most as many as the broker counts."""
        heard = [consumer for consumer in self._consumers.values() if not consumer.silent(now, self._timeout_s)]
        if self._probed_consumers is not None and self._probed_consumers < len(heard):
            heard.sort(key=lambda consumer: consumer.heard_at)
            heard = heard[len(heard) - self._probed_consumers :]
        return heard

    def _unacked(self, group: _Group, *, reporting: bool) -> int | None:
        if self._probed_unacked is not None:
            return self._probed_unacked
        return group.held if reporting and group.consumers else None

    def _working(self, heard: list[ReportingConsumer], now: float) -> int | None:
        """Return how many consumers can work: not paused, reported lately, at most as many as the broker counts."""
        probed = self._probed_consumers
        if not heard:
            return probed
        working = sum(not c.latest.paused and not c.silent(now, self._fresh_s) for c in heard)
        if probed is None:
            return working
        strangers = max(0, probed - len(heard))
        return min(probed, working + strangers)

    def _flow_per_s(self, confirmed: int, now: float) -> float:
        """Return the messages a second that were confirmed to all producers in the last second."""
        self._flow.append((now, confirmed))
        while len(self._flow) > 2 and now - self._flow[1][0] >= RATE_WINDOW_S:
            self._flow.popleft()
        start, first = self._flow[0]
        return (confirmed - first) / (now - start) if now > start else 0.0
