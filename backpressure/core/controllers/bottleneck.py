"""What `pace` knows about the consumers: how fast and how regular they are, and whether they have enough to do.

It turns `Signals` of any completeness (full reports, the probe alone, nothing fresh) into one estimate, and knows
nothing of setpoints and gains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, inf, log, sqrt

from backpressure.core.controllers.depth import DepthObserver
from backpressure.core.filters import RateEstimator
from backpressure.core.signals import FAR_S, SignalQuality, Signals

_MEMORY_S = 1.5
_MEMORY_EVENTS = 20.0
_ALARM = 5.0
_LOAD_MEMORY_S = 2.0
_LOAD_MARGIN = 1.05
_BUSY = 0.9
_RARE_S = 0.5
_IDLE_MEMORY_S = 5.0  # of one consumer
_LEAST_IDLE_S = 1.0
_SETTLED_S = 1.0
_MOST_LATE_S = 1.0  # reports of a fleet tell what was done in half an interval before, or a second
_SERVICE_SAMPLES = 20
_SERVICE_SAMPLES_EACH = 5  # in a fleet
_LATE_S = 0.6
_LEAST_LATE_S = 1.0  # before rare counts, less would decide too much
_LEAST_LATE_APART_S = 0.25
_LEAST_BURST_S = 0.15
_LEAST_BURST = 0.1  # of the time between two counts: their moments are known no better than to a tenth of a second
_LEFT_OF_BURST = 0.1  # less is no sign that consumers were busy all the time
_MEMORY_COUNTS = 6.0
_SPARE_MEMORY_S = 0.4
_SPARE_EVENTS = 3.0
_LEAST_SIGHT_S = 0.05  # in less, one departure more or less says too much
_LONGEST_SIGHT_S = 0.12
_ANSWER_WAYS = 1.5
_SHOWN = 50  # as many are filled up at the start
_BY_CHANCE = 3  # messages wait now and then before irregular consumers that could do a third more
_NOTHING = 0.01  # of what is done from one late count to the next: its moment is not known better


@dataclass(frozen=True, slots=True)
class _Count:
    """Cumulative counters of one source at one moment; ``clock_s``, ``busy_s``, ``told_s`` in consumer-seconds."""

    source: str
    departed: float
    clock_s: float
    busy_s: float
    told_s: float


class Bottleneck:
    """Estimates the bottleneck from departures, each weighed by the time in which the consumers could have worked.

    The rate of one consumer is events ÷ exposure; times the number of working consumers it is μ̂. Exposure is:

    - *saturated* (messages were waiting at both ends of the interval): all of the consumer-seconds observed. A stop
      shows at once, as exposure without events.
    - *starved*, with busy times reported: busy seconds ÷ load at saturation. What a consumer does per second of work
      does not depend on how often it has work, so capacity is known without queueing, also right after a step up.
    - *starved*, without: departures are a lower bound, and count only when they raise the estimate.

    Silent consumers are counted by what has left: sent minus the backlog, at the moment of each exact count. Counts may
    be seconds apart; then the estimate remembers longer, and a fall within an interval is taken to have been at any
    moment of it.

    Attributes:
        queue: the observer of the depth.
        age_s, departed_age_s: smoothed age of the readings, and of what is known about departures.
        way_s: how long a message takes to the broker and a report from there, at least.
        fresh: whether any signal is recent enough to use.
        rare: whether it is a fleet, whose consumers report rarely.
        measured: whether capacity is visible even while starved.
        empty_since: when the queue was first found empty in a row, or None.
        counted: whether the last evidence was an exact count of everything in the system.
        spare: part of the consumers that were idle at the last counts, each of them seen; 0 unless ``counted``.
        changed_at: when counts last showed that the rate is another.
        late: whether exact counts are seconds apart.
        hides: whether silent consumers may hold so much that a long queue does not show between two counts.
        dated: whether they are less apart, but made at moments that have to be inferred.
        idle_counts: late counts in a row that found consumers idle.
        idle: smoothed part of the consumers' time without work although more was queued than they had in work; 0 where
        unknown, and while less is offered than may be sent: the producer cannot keep them busy then.
    """

    def __init__(self, stale_s: float, report_interval_s: float) -> None:
        """Signals older than ``stale_s`` are not used; consumers report every ``report_interval_s``."""
        self._stale_s = stale_s
        self._estimator = RateEstimator(memory_s=_MEMORY_S, memory_events=_MEMORY_EVENTS, alarm=_ALARM)
        self._workers = 1
        self._before: _Count | None = None
        self._low_ready = 0
        self._low_depth = 0.0
        self._load = 1.0
        self._seen_load = 0.0
        self.changed_at = -inf
        self._stalled = False
        self.rare = False
        self.queue = DepthObserver(report_interval_s)
        self.age_s = 0.0
        self.departed_age_s = 0.0
        self.way_s = 0.0
        self.fresh = False
        self.measured = False
        self.empty_since: float | None = None
        self.idle = 0.0
        self.counted = False
        self.spare = 0.0
        self.idle_counts = 0
        self.late = False
        self.dated = False
        self.hides = False
        self._low_path = inf
        self._counted_at = -inf
        self._confirmed_after_s = 0.0
        self._raised_by = 1.0
        self._began_at = inf
        self._updated_at = self._paced_at = -inf
        self._told = False
        self._service_mean_s: float | None = None

    @property
    def rate_per_s(self) -> float | None:
        """μ̂ of all working consumers together, or None before any evidence.

        Far from the broker it falls with the first reports that may tell of a slower consumer: each tick in which
        messages go out at the old rate is one more beside those that are on their way.
        """
        if self._estimator.rate is None:
            return None
        far = self.way_s > FAR_S and (self.queue.far or not self.counted)
        return (self._estimator.feared_rate if far else self._estimator.cautious_rate) * self._workers

    @property
    def dispersion(self) -> float:
        """Variance ÷ mean of departure counts."""
        return self._estimator.dispersion

    @property
    def servers(self) -> float:
        """Messages that are in work, not waiting, when every consumer is busy."""
        return max(1.0, self._workers * max(1.0, self._load))

    @property
    def service_s(self) -> float:
        """How long a message is in work."""
        rate = self.rate_per_s
        return self._service_mean_s or (self.servers / rate if rate else 0.0)

    @property
    def hardly_any(self) -> float:
        """How many messages besides those in work a rare count would take for none if it were made now."""
        return self._hardly_any(self.departed_age_s)

    @property
    def starting(self) -> bool:
        """Whether the consumers have had enough to do at no count so far."""
        return self._estimator.rate is None or self._estimator.bounded

    @property
    def may_be_faster(self) -> bool:
        """Whether an empty queue is a reason to doubt the rate: not when the consumers are seen to be idle.

        What another producer tells is for that one to doubt.
        """
        return not self._told and (not self.measured or self._seen_load >= _BUSY * self._load)

    def raise_rate(self, factor: float, *, until_counted: bool = False) -> None:
        """Multiply the estimate by ``factor``: the queue stays empty at the present one.

        ``until_counted``: the next count is to tell the rate without this.
        """
        self._estimator.scale(factor)
        self._paced_at = self._updated_at
        self._raised_by = factor if until_counted else 1.0
        self.spare = 0.0
        if self.measured:
            self._load *= factor

    def variance(self, age_s: float) -> float:
        """Variance of what leaves in ``age_s``: of the departures, and of what is known of their rate."""
        return self.dispersion * (self.rate_per_s or 0.0) * age_s * (1 + self.doubt(age_s))

    def doubt(self, age_s: float) -> float:
        """How much more the variance of what leaves in ``age_s`` is because the rate is learned: as a part of it."""
        return (self.rate_per_s or 0.0) * age_s / max(1.0, self._estimator.events)

    def update(self, signals: Signals, now: float, *, stalled: bool) -> None:
        """Take in the signals at ``now``, and whether the broker ``stalled`` lately.

        Consumers without work in such a stall are not slower: what they do per second of work counts.
        """
        self._stalled = stalled
        self._updated_at = now
        self._workers = 1 if signals.consumers is None else signals.consumers
        self._service_mean_s = signals.service_mean_s
        self.rare = rare = signals.report_interval_s > _RARE_S  # readings are fresher then than counters
        # An answer is half a way old when it comes, and far from the broker the next question waits for it.
        stale_s = self._stale_s + _ANSWER_WAYS * (signals.way_s or 0.0)
        self.fresh = min(signals.depth_age_s, signals.feedback_age_s) <= stale_s
        self.way_s = signals.there_and_back_s
        if self._began_at == inf and signals.confirmed_total + signals.in_flight > 0:
            self._began_at = now
        self._confirmed_after_s = max(
            self._confirmed_after_s,
            (signals.confirm_latency_s or 0.0) - (self.way_s if self.queue.far else 0.0),
        )
        new = self.queue.read(signals, now)
        interrupted = signals.blocked or signals.consumers == 0
        if interrupted:
            self._before = None  # an interrupted loop says nothing about the rate: continue from the next count
        self.counted = signals.departed_total is None and signals.backlog is not None
        self.dated = self.counted and 0 < signals.count_interval_s <= _LATE_S
        self.hides = signals.held_at_most is None or signals.held_at_most > _SHOWN
        if new:
            self._note_reading(signals)
        reporting = signals.departed_total is not None and signals.feedback_age_s <= self._stale_s
        if not interrupted:
            self._count(signals, now, reporting=reporting, new=new)
            if self.counted and not signals.ready:
                self._learn_from_an_empty_queue(signals, now)
        self._told = signals.told_rate_per_s is not None
        if signals.told_rate_per_s and self._workers:
            self._estimator.adopt(signals.told_rate_per_s / self._workers, _MEMORY_S * self._workers)
        rate_per_s = self.rate_per_s or 0.0
        if reporting and not rare:
            self.queue.count(signals, rate_per_s, now, busy=self.servers, stalled=stalled)
        else:
            self.queue.predict(rate_per_s, now, (signals.way_s or 0.0) if self.counted else 0.0)
        if self.counted:
            self.departed_age_s = now - self.queue.read_at
            self.queue.bound(signals, rate_per_s, now)
            self._low_path = min(self._low_path, self.queue.depth or 0.0)
        else:
            age_s = signals.departed_age_s if reporting and not rare else now - self.queue.read_at
            if rare and signals.backlog is not None:
                self.queue.bound(signals, rate_per_s, now)
            self.departed_age_s += 0.1 * (min(age_s, self._stale_s) - self.departed_age_s)
        self.measured = reporting and signals.busy_total_s is not None

    def _count(self, signals: Signals, now: float, *, reporting: bool, new: bool) -> None:
        """Learn from the departures since the last call, from the best source available."""
        if reporting:
            departed, observed_s = signals.departed_total or 0, signals.observed_total_s or 0.0
            told_s = observed_s if signals.told_total_s is None else signals.told_total_s
            self._learn(_Count("reports", departed, observed_s, signals.busy_total_s or 0.0, told_s), signals, now)
        elif new:
            at, backlog = self.queue.read_at, self.queue.reading
            if signals.quality is SignalQuality.BLIND and not signals.missing:
                return  # counts will come: what left the queue until then may be held
            source = "counts" if self.counted else "probe"
            before = self._before
            if self.queue.before is not None and before is not None:
                self._counted_at, backlog_before = self.queue.before  # its moment is known better now
                before = self._before = replace(before, departed=self.queue.left_by(self._counted_at, backlog_before))
            span_s = at - self._counted_at if before is not None and before.source == source else 0.0
            self._counted_at = at
            clock_s = (before.clock_s if before is not None and before.source == source else 0.0) + span_s * max(
                1, self._workers
            )
            count = _Count(source, self.queue.left_by(at, backlog), clock_s, 0.0, clock_s)
            if self.counted:
                self._learn_from_count(count, signals, now)
            else:
                self._learn(count, signals, now)

    def _note_reading(self, signals: Signals) -> None:
        counted = self.counted or (self.rare and signals.backlog is not None)
        depth, ready = signals.backlog if counted else signals.depth, signals.ready or 0
        depth = depth or 0
        self._low_ready = min(self._low_ready, ready)
        self._low_depth = min(self._low_depth, depth)
        age_s = signals.backlog_age_s if self.counted else signals.depth_age_s
        self.age_s += 0.1 * (min(age_s, self._stale_s) - self.age_s)
        if depth > 0:
            self.empty_since = None
        elif self.empty_since is None:
            self.empty_since = self.queue.read_at

    def _learn(self, count: _Count, signals: Signals, now: float) -> None:
        before = self._before
        if before is None or before.source != count.source:
            self._before = count
            return
        events, span_s = max(0.0, count.departed - before.departed), count.clock_s - before.clock_s
        worked_s = count.busy_s - before.busy_s
        if span_s <= 0 or worked_s < 0:
            return  # nothing new; or the timer of the work in progress ran ahead: the next sample covers both
        self._before = count
        queued = self._low_depth > self.servers and not signals.application_limited
        saturated = self._low_ready > 0 or (self._workers == 1 and self._load <= 1.0 and self._low_depth > 1)
        self._low_ready, self._low_depth = signals.ready or 0, signals.depth or 0
        if self._estimator.rate is None:
            self.changed_at = now
        samples = _SERVICE_SAMPLES_EACH * self._workers if self.rare else _SERVICE_SAMPLES
        few = count.departed < samples or (self._estimator.rate or 0.0) * span_s < 1
        if few and signals.service_cv2 is not None:
            # At the start, and where few messages depart, counts say nothing about their variance; service times do.
            self._estimator.expect(signals.service_cv2, min(count.departed, samples))
        if count.source == "probe":
            changed = (self._estimator.add if saturated else self._add_lower_bound)(events, span_s)
        else:
            if not self._stalled:
                self._watch_load(worked_s / span_s, span_s / max(1, self._workers), saturated=saturated and events > 0)
            saturated = saturated and not self._stalled
            told = (count.told_s - before.told_s) / span_s
            self._estimator.memory_s = _MEMORY_S * (max(1, self._workers) * told if self.rare else 1.0)
            exposure_s = span_s if saturated else min(span_s, worked_s / self._load)
            changed = self._estimator.add(told * events, told * exposure_s)
        if changed:
            self.changed_at = now
            self.idle *= self.rare  # how unevenly a fleet is served does not depend on its pace
        elif (
            count.source == "reports"
            and not self._stalled
            and now - self.changed_at
            > _SETTLED_S + (min(_MOST_LATE_S, signals.report_interval_s / 2) if self.rare else 0)
        ):
            idle = max(0.0, 1 - worked_s / (span_s * self._load)) if queued else 0.0
            memory_s = max(_LEAST_IDLE_S, _IDLE_MEMORY_S / sqrt(max(1, self._workers))) if self.rare else _IDLE_MEMORY_S
            self.idle += (1 - exp(-span_s / max(1, self._workers) / memory_s)) * (idle - self.idle)

    def _learn_from_count(self, count: _Count, signals: Signals, now: float) -> None:
        """Learn from what has left between two exact counts of the backlog."""
        before, self._before = self._before, count
        self._estimator.scale(1 / self._raised_by)
        self._raised_by = 1.0
        backlog = self.queue.there
        low = self.queue.lowest if self.queue.far else min(self._low_depth, self._low_path)
        self._low_depth = self._low_path = backlog
        workers, late = max(1, self._workers), signals.count_interval_s > _LATE_S
        doubt = signals.backlog_error if late else 0.0
        rate, was_idle = self._estimator.rate, self.idle_counts > 0
        if before is None or before.source != count.source or count.clock_s <= before.clock_s:
            self._watch_idle(backlog - doubt, workers, 0.0, late=late)
            since_s = self.queue.read_at - self._began_at
            if self._estimator.rate is None and since_s >= (_LEAST_LATE_S if late else 0):
                # The first count of all: of what was sent since the start, so much has left, whatever was there before.
                self._add_lower_bound(max(0.0, count.departed), since_s * workers)
            return
        events, exposure_s = max(0.0, count.departed - before.departed), count.clock_s - before.clock_s
        span_s = exposure_s / workers
        if late and rate is None and not signals.ready and span_s < _LEAST_LATE_APART_S:
            self._before = before  # the next count tells of both
            return
        self._watch_idle(backlog - doubt, workers, span_s, late=late)
        self._estimator.few_samples = span_s > _LATE_S
        self._estimator.memory_s = max(_MEMORY_S, _MEMORY_COUNTS * span_s * workers)
        # Where the moment of a count is not known, nor is how much of a burst had come by then.
        if late and was_idle and not signals.backlog_doubt_s and signals.next_count_in_s > 0:
            least_s = max(_LEAST_BURST_S, _LEAST_BURST * span_s)
            burst, burst_s = self.queue.busiest(self.queue.read_at - span_s, least_s)
            if self._estimator.restart(burst, burst_s * workers):
                all_done = self.idle_counts > 0 or backlog < _LEFT_OF_BURST * burst
                self._estimator.bounded = all_done
                self.changed_at = now
                return
        if low > workers + doubt or (signals.ready or 0) > 0:
            # A bound that rests on what was sent a way ago is no mean that a first whole sample is averaged with.
            changed = self.queue.far and self._estimator.bounded and self._add_lower_bound(events, exposure_s)
            self._estimator.bounded &= not changed
            changed = changed or self._estimator.add(events, exposure_s)
        else:
            changed = self._add_lower_bound(events, exposure_s)
        if changed and late and rate and self._estimator.rate and 0 < self._estimator.rate < rate:
            part = self._estimator.rate / rate
            self._estimator.scale(max(0.05, 1 - (1 - part) / part * log(1 / (1 - part))) / part)
        if changed or rate is None:
            self.changed_at = self._paced_at = now

    def _learn_from_an_empty_queue(self, signals: Signals, now: float) -> None:
        """Where no message waits, consumers hold no more than they may: all others that came since the count have left.

        If that is far more than the estimate allows for, the estimate is wrong: it may rest on a few messages that took
        long, and the next count of what they hold may be seconds away.
        """
        before, most, read_at = self._before, signals.held_at_most, now - signals.depth_age_s
        if signals.ready is None or most is None or before is None or before.source != "counts":
            return
        span_s = read_at - self._counted_at
        if span_s < _LEAST_SIGHT_S or self.starting or self._estimator.events > _SERVICE_SAMPLES:
            return
        left = self.queue.left_by(read_at, most) - before.departed
        if self._estimator.restart(left, span_s * max(1, self._workers)):
            self.changed_at = now

    def _add_lower_bound(self, events: float, exposure_s: float) -> bool:
        """What was confirmed late may have arrived, and left, as much earlier."""
        workers = max(1, self._workers)
        earlier_s, self._confirmed_after_s = 2 * self._confirmed_after_s, 0.0  # twice the mean
        return self._estimator.add_lower_bound(events, max(exposure_s, _LEAST_SIGHT_S * workers) + earlier_s * workers)

    def _watch_idle(self, backlog: float, workers: int, span_s: float, *, late: bool) -> None:
        """Note how many of the consumers a count found at work; each message is with one of them, if they are few."""
        self.late = late
        if late:
            few = workers + self._hardly_any(span_s)
            if self.starting and self.hides:
                few = max(few, workers + _BY_CHANCE)
            self.idle_counts = self.idle_counts + 1 if backlog <= few else 0
            self.spare = 0.0
        else:
            self.idle_counts = 0
            if self.queue.far and self.queue.done_at - self.way_s < self._paced_at:
                self.spare = 0.0  # what the consumers had then was sent at another rate
                return
            memory_s = max(_SPARE_MEMORY_S, _SPARE_EVENTS / max(self.rate_per_s or 0.0, 0.1))
            idle = 1 - max(0.0, min(1.0, backlog / workers))
            self.spare += (1 - exp(-min(span_s, _LONGEST_SIGHT_S) / memory_s)) * (idle - self.spare)

    def _hardly_any(self, span_s: float) -> float:
        return _NOTHING * (self.rate_per_s or 0.0) * span_s

    def _watch_load(self, load: float, span_s: float, *, saturated: bool) -> None:
        """Learn how much a consumer works per second when it has enough to do: <1 with overhead, >1 when concurrent."""
        part = 1 - exp(-span_s / _LOAD_MEMORY_S)
        self._seen_load += part * (load - self._seen_load)
        if saturated:
            self._load += part * (max(0.05, load) - self._load)
        elif self._seen_load > self._load * _LOAD_MARGIN:
            self._load = self._seen_load
