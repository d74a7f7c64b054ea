"""What `pace` believes about the queue and its consumers: the bottleneck rate, its noise, and the depth right now.

It turns `Signals` of any completeness (full reports, the probe alone, nothing fresh) into one picture, and knows
nothing of setpoints and gains.
"""

from __future__ import annotations

from math import exp, inf

from backpressure.core.filters import RateEstimator, Timeline
from backpressure.core.signals import Signals

__all__ = ["Bottleneck"]

_MEMORY_S = 1.5
_MEMORY_EVENTS = 20.0
_ALARM = 5.0
_LOAD_MEMORY_S = 2.0
_START_EVENTS = 0.5


class Bottleneck:
    """Estimates the bottleneck from departures, each weighed by the time in which the consumers could have worked.

    The rate of one consumer is events ÷ exposure; times the number of working consumers it is μ̂. Exposure is:

    - *saturated* (messages were waiting at both ends of the interval): all of the consumer-seconds observed. A stop
      shows at once, as exposure without events.
    - *starved*, with busy times reported: busy seconds ÷ load at saturation. What a consumer does per second of work
      does not depend on how often it has work, so capacity is known without queueing, also right after a step up.
    - *starved*, without: departures are a lower bound, and count only when they raise the estimate.

    Attributes:
        rate_per_s: μ̂, or None before any evidence.
        dispersion: variance ÷ mean of departure counts (see `RateEstimator`).
        servers: messages that are in work, not waiting, when every consumer is busy.
        depth: messages queued, in work or on their way now: the last reading, plus what was sent, minus what should
            have left since; None before the first reading.
        age_s: smoothed age of the signals the picture rests on.
        fresh: whether any signal is recent enough to act upon.
        empty_since: when the queue was first found empty in a row, or None.
        measured: whether capacity is visible even while starved.
    """

    def __init__(self, *, start_per_s: float, stale_s: float) -> None:
        """``start_per_s`` weighs against a first sample too small to trust; signals older than ``stale_s`` are not used."""
        self._start_per_s = start_per_s
        self._stale_s = stale_s
        self._estimator = RateEstimator(memory_s=_MEMORY_S, memory_events=_MEMORY_EVENTS, alarm=_ALARM)
        self._sent = Timeline()
        self._workers = 1
        self._read_at = -inf
        self._reading = 0
        self._departed_at_reading: int | None = None
        self._low_ready = 0
        self._low_depth = 0
        self._before: tuple[str, float, float, float] | None = None
        self._load = 1.0
        self._busy_s = 0.0
        self._watched_s = 0.0
        self.age_s = 0.0
        self.depth: float | None = None
        self.fresh = False
        self.measured = False
        self.empty_since: float | None = None

    @property
    def rate_per_s(self) -> float | None:
        """μ̂ of all working consumers together."""
        return None if self._estimator.rate is None else self._estimator.rate * self._workers

    @property
    def dispersion(self) -> float:
        """Variance ÷ mean of departure counts."""
        return self._estimator.dispersion

    @property
    def servers(self) -> float:
        """Messages in work when every consumer is busy."""
        return max(1.0, self._workers * max(1.0, self._load))

    def raise_rate(self, factor: float) -> None:
        """Believe in ``factor`` times the rate: the queue stays empty although it has been fed at the present one."""
        rate = self._estimator.rate
        if rate is None:
            self._start_per_s *= factor
        else:
            self._estimator.start(rate * factor, _START_EVENTS)
            self._load *= factor if self.measured else 1.0

    def update(self, signals: Signals, now: float) -> None:
        """Take in what is known at ``now``."""
        self._sent.record(now, signals.confirmed_total + signals.in_flight)
        self._workers = 1 if signals.consumers is None else signals.consumers
        self.fresh = min(signals.depth_age_s, signals.feedback_age_s) <= self._stale_s
        if signals.blocked:
            self._before = None  # a blocked loop teaches nothing; begin counting anew when it is over
            return
        reporting = signals.departed_total is not None and signals.feedback_age_s <= self._stale_s
        self._read(signals, now)
        if reporting:
            self._learn_from_reports(signals)
        self.measured = reporting and signals.busy_total_s is not None
        self.depth = self._predict(signals, now, reporting=reporting)
        age_s = signals.depth_age_s
        if age_s <= self._stale_s:
            self.age_s += 0.1 * (age_s - self.age_s)

    def _read(self, signals: Signals, now: float) -> None:
        read_at = now - signals.depth_age_s
        if signals.depth is None or signals.ready is None or read_at <= self._read_at + 1e-9:
            return
        self._read_at, self._reading = read_at, signals.depth
        self._departed_at_reading = signals.departed_total
        self._low_ready = min(self._low_ready, signals.ready)
        self._low_depth = min(self._low_depth, signals.depth)
        if signals.depth > 0:
            self.empty_since = None
        elif self.empty_since is None:
            self.empty_since = read_at
        if signals.departed_total is None or signals.feedback_age_s > self._stale_s:
            self._learn_from_probe(signals)

    def _learn_from_probe(self, signals: Signals) -> None:
        left = self._sent.at(self._read_at) - self._reading
        workers = max(1, self._workers)
        self._learn("probe", left, self._read_at * workers, None, signals)

    def _learn_from_reports(self, signals: Signals) -> None:
        assert signals.departed_total is not None
        self._learn("reports", signals.departed_total, signals.observed_total_s or 0.0, signals.busy_total_s, signals)

    def _learn(self, source: str, departed: float, clock_s: float, busy_s: float | None, signals: Signals) -> None:
        before, now_busy_s = self._before, busy_s or 0.0
        if before is not None and before[0] == source and clock_s <= before[2]:
            return
        self._before = (source, departed, clock_s, now_busy_s)
        saturated = self._low_ready > 0 or (self._workers == 1 and self._load <= 1.0 and self._low_depth > 1)
        self._low_ready, self._low_depth = signals.ready or 0, signals.depth or 0
        if before is None or before[0] != source:
            return
        events, span_s, worked_s = max(0.0, departed - before[1]), clock_s - before[2], now_busy_s - before[3]
        if busy_s is not None:
            self._watch_load(worked_s, span_s, saturated=saturated)
        if self._estimator.rate is None and events > 0:
            self._estimator.start(self._start_per_s / max(1, self._workers), _START_EVENTS)
            if signals.service_cv2 is not None:
                self._estimator.dispersion = min(4.0, signals.service_cv2)
        if saturated:
            self._estimator.add(events, span_s)
        elif busy_s is not None:
            self._estimator.add(events, min(span_s, worked_s / self._load))
        else:
            self._estimator.add_lower_bound(events, span_s)

    def _watch_load(self, worked_s: float, span_s: float, *, saturated: bool) -> None:
        """Learn how much a consumer works per second when it has enough to do: <1 with overhead, >1 when concurrent."""
        keep = exp(-span_s / (max(1, self._workers) * _LOAD_MEMORY_S))
        self._busy_s, self._watched_s = self._busy_s * keep + worked_s, self._watched_s * keep + span_s
        if self._watched_s < _LOAD_MEMORY_S / 2:
            return
        seen = self._busy_s / self._watched_s
        if saturated:
            self._load += 0.1 * (max(0.05, seen) - self._load)
        elif seen > self._load * 1.05:
            self._load = seen

    def _predict(self, signals: Signals, now: float, *, reporting: bool) -> float | None:
        if self._read_at == -inf:
            return None
        sent = signals.confirmed_total + signals.in_flight - self._sent.at(self._read_at)
        gone, blind_s = 0.0, now - self._read_at
        if blind_s > self._stale_s and reporting and self._departed_at_reading is not None:
            gone = (signals.departed_total or 0) - self._departed_at_reading
            blind_s = signals.feedback_age_s
        gone += (self.rate_per_s or 0.0) * blind_s
        return max(0.0, self._reading + sent - gone)
