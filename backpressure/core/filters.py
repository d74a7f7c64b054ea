"""Estimators over counters: totals read at uneven moments go in, rates come out. They know nothing about queues.

They take differences of totals, so a lost reading costs freshness and not correctness.
"""

from __future__ import annotations

from collections import deque
from math import exp, inf, sqrt

from backpressure.core.signals import Signals

_CAUTION = 2.0  # events that a rate of random departures is lowered by
_QUANTUM = 0.25  # variance of counting whole events over a window that begins and ends anywhere
_DRIFT = 0.5  # CUSUM ignores half a standard deviation: the optimum against shifts of one (Page 1954)
_BEYOND_DOUBT = 2.5  # standard deviations
_DISPERSION_WEIGHT = 0.05
_OUTLIER = 9.0  # squared standard deviations beyond which a sample says "change", not "noise"
_EVEN = 0.05  # the dispersion of regular service, whose counts vary by the error of their moments
_EVEN_ODDS = 0.05  # that service is regular, before anything is known
_FEARED = 3.0  # a fall is as likely as not when it explains so much better (a logarithm) what was counted
_MOST_ODDS = 30.0  # one sample of another kind is to be enough against them
_LEAST_ODDS = 0.002  # a few lucky samples are not


class Timeline:
    """The recent past of a total: what it was when an older reading was taken."""

    def __init__(self, span_s: float = 5.0) -> None:
        """Remember at least the last ``span_s``."""
        self._span_s = span_s
        self._points: deque[tuple[float, float]] = deque()

    def record(self, at: float, total: float) -> None:
        """Add a point; times must not decrease."""
        self._points.append((at, total))
        while len(self._points) > 2 and at - self._points[1][0] >= self._span_s:
            self._points.popleft()

    @property
    def last(self) -> float | None:
        """The total now; None before the first point."""
        return self._points[-1][1] if self._points else None

    @property
    def begins_at(self) -> float:
        """The earliest moment that it remembers."""
        return self._points[0][0]

    def busiest(self, start: float, end: float, backlog: float, least_s: float) -> tuple[float, float]:
        """Return (count, seconds) of that end of ``start`` to ``end`` in which most came a second beyond ``backlog``.

        It is not shorter than ``least_s``. Of n messages n/(n + 2) count, as for any rate: where all came evenly, the
        few that happened to come most closely say less than all of them.
        """
        last = self.at(end)
        best, most = (0.0, end - start), 0.0
        for moment, total in self._points:
            if (count := last - total - backlog) > 0 and start <= moment <= end - least_s:
                per_s = count / (count + _CAUTION) * count / (end - moment)
                best, most = ((count, end - moment), per_s) if per_s > most else (best, most)
        return best

    def between(self, start: float, end: float) -> list[tuple[float, float]]:
        """Return the points after ``start`` and before ``end``, and the one at ``end``."""
        points = [(end, self.at(end))] if end > start else []
        for moment, total in reversed(self._points):
            if moment <= start:
                break
            if moment < end:
                points.append((moment, total))
        return points[::-1]

    def at(self, moment: float) -> float:
        """Return the total at ``moment``, interpolated; outside the remembered time, the nearest end."""
        later = self._points[-1]
        if moment >= later[0]:
            return later[1]
        for earlier in reversed(self._points):
            if earlier[0] <= moment:
                span_s = later[0] - earlier[0]
                return earlier[1] + (later[1] - earlier[1]) * (moment - earlier[0]) / span_s
            later = earlier
        return later[1]


class RateEstimator:
    """The rate of a renewal process, from pairs (events counted, exposure they took), with a change detector.

    Formula: rate = N/X, both sums discounted by exp(−exposure/memory), the memory being ``memory_s`` or the time of
    ``memory_events`` events, whichever is longer. Innovations z = (n − rate·x)/√(φ·rate·x + ¼) feed a two-sided CUSUM
    with drift ½; when it passes ``alarm``, N and X are replaced by what was counted since the sum last left zero,
    which is the maximum-likelihood time of the change. φ, the dispersion (variance ÷ mean of counts; 0 for fixed
    service, 1 for exponential), is learnt from the innovations, each clipped at three standard deviations. Where
    samples are rare, service may also be regular (φ = 1/20): how likely that is follows from each innovation by Bayes'
    rule, and φ is the mean of both. A change puts it in doubt again.

    Attributes:
        memory_s: how long it remembers, in seconds of exposure.
        events: how many events it rests on.
        few_samples: samples are rare and long, so the first ones decide what the dispersion is.
        bounded: the rate rests on lower bounds alone: the process was starved whenever it was looked at.
        rate: events per unit of exposure, or None before the first sample with an event in it.
    """

    def __init__(self, *, memory_s: float, memory_events: float, alarm: float) -> None:
        """``alarm`` is in standard deviations; 5 raises a false alarm about every 500 samples."""
        self.memory_s = memory_s
        self._memory_events = memory_events
        self._alarm = alarm
        self.events = 0.0
        self._exposure_s = 0.0
        self._rise = _Cusum()
        self._fall = _Cusum()
        self._samples = 0
        self.rate: float | None = None
        self._spread = 1.0
        self._even_odds = 0.0
        self.few_samples = False
        self.bounded = False

    @property
    def dispersion(self) -> float:
        """φ."""
        even = self._even_odds / (1 + self._even_odds)
        return self._spread + even * (min(_EVEN, self._spread) - self._spread)

    @property
    def cautious_rate(self) -> float:
        """A cautious estimate of the rate: N/(N + 2φ) of it; 0 before the first event."""
        if self.rate is None:
            return 0.0
        return self.rate * self.events / (self.events + 2 * self.dispersion)

    @property
    def feared_rate(self) -> float:
        """The cautious rate, or less if it may have begun to fall: the mean of both rates, by how likely each is.

        The score of the change detector is the logarithm of how much better a fall explains what was counted.
        """
        rate, fall = self.cautious_rate, self._fall
        if fall.exposure_s <= 0:
            return rate
        fallen = 1 / (1 + exp(_FEARED - fall.score))
        return min(rate, (1 - fallen) * rate + fallen * fall.events / fall.exposure_s)

    def expect(self, dispersion: float, events: float) -> None:
        """Begin with a ``dispersion`` measured elsewhere over ``events`` events, trusted less the fewer they are.

        Where departures are what was sent less what is queued, an estimate of the one may make them negative: none.
        """
        events = max(0.0, events)
        self._spread = (dispersion * events + 1) / (events + 1)

    def adopt(self, rate: float, exposure_s: float) -> None:
        """Take ``rate`` for the cautious one, as if it were what was counted in ``exposure_s``."""
        events = rate * exposure_s
        self.rate = rate * (events + 2 * self.dispersion) / events
        self.events, self._exposure_s = events, events / self.rate

    def scale(self, factor: float) -> None:
        """Multiply the rate by ``factor``, and forget the change detector's history."""
        if self.rate is not None and factor != 1:
            self._begin(self.events, self.events / (self.rate * factor))

    def add(self, events: float, exposure_s: float) -> bool:
        """Take in a sample; return whether it revealed a change. An exposure of 0 has no information."""
        if exposure_s <= 0:
            return False
        self.bounded = False
        if self.rate is None:
            self._exposure_s += exposure_s  # the wait for the first event counts like any other
            self.events += events  # between two counts it may be a part of one
            if self.events >= 1:
                self._begin(self.events, self._exposure_s)
            return False
        expected = self.rate * exposure_s
        # A sample as long as the memory also shows how little is known of the rate.
        spread = expected * (1 + expected / self.events) if self.few_samples else expected
        z = (events - expected) / sqrt(self.dispersion * spread + _QUANTUM)
        self._rise.add(z, events, exposure_s)
        self._fall.add(-z, events, exposure_s)
        for run in (self._rise, self._fall):
            if run.score > self._alarm:
                # Without any event, half a one is the median of what may have been missed.
                self._begin(max(0.5, run.events), run.exposure_s)
                self._even_odds = min(self._even_odds, _EVEN_ODDS)
                return True
        self._learn_dispersion(events - expected, spread)
        keep = exp(-exposure_s / max(self.memory_s, self._memory_events / self.rate))
        self.events = self.events * keep + events
        self._exposure_s = self._exposure_s * keep + exposure_s
        self.rate = self.events / self._exposure_s
        return False

    def restart(self, events: float, exposure_s: float) -> bool:
        """Begin again with a sample that shows another rate, if it does so beyond doubt; return whether it did."""
        if events <= 0 or exposure_s <= 0:
            return False
        expected = (self.rate or 0.0) * exposure_s
        if self.bounded:
            return self._raise_bound(events, exposure_s)
        if events - expected < _BEYOND_DOUBT * sqrt(self.dispersion * expected + 1):
            return False
        self._begin(events, exposure_s)
        return True

    def add_lower_bound(self, events: float, exposure_s: float) -> bool:
        """Take in a sample of a process that was starved for part of it: it counts only when it raises the rate.

        As long as the rate rests on such samples alone, the highest counts and not their mean.
        """
        if self.rate is None or self.bounded:
            return self._raise_bound(events, exposure_s)
        if events <= self.rate * exposure_s:
            return False
        if self.few_samples and self.rate:
            self.scale(events / exposure_s / self.rate)  # a long sample is a bound of its own, and its error no noise
            return False
        return self.add(events, exposure_s)

    def _raise_bound(self, events: float, exposure_s: float) -> bool:
        cautious = events / (events + 2 * self.dispersion) * events / exposure_s if events > 0 < exposure_s else 0.0
        if cautious <= self.cautious_rate:
            return False
        self._begin(events, exposure_s)
        self.bounded = True
        return True

    def _begin(self, events: float, exposure_s: float) -> None:
        self.events, self._exposure_s = events, exposure_s
        self.rate = events / exposure_s
        self._rise, self._fall = _Cusum(), _Cusum()

    def _learn_dispersion(self, error: float, spread: float) -> None:
        if spread < 1:
            return  # an expected count below one says little about variance
        sample = max(0.0, error**2 - _QUANTUM) / spread
        limit = min(_OUTLIER * max(self._spread, 0.05), _OUTLIER if self.few_samples else inf)
        weight = _DISPERSION_WEIGHT
        if self.few_samples:
            self._judge_evenness(error**2, spread)
            # The mean of a few squares is small as a rule, seldom large: five samples of a variance of 1 come first.
            weight = max(weight, 1 / (6 + self._samples))
            self._samples += 1
        self._spread += weight * (min(sample, limit) - self._spread)

    def _judge_evenness(self, square: float, spread: float) -> None:
        """Update the odds of regular service by how likely an innovation is with it and without it."""
        even, uneven = (min(_EVEN, self._spread) * spread + _QUANTUM, self._spread * spread + _QUANTUM)
        likelier = sqrt(uneven / even) * exp(min(0.0, (1 / uneven - 1 / even) * square / 2))
        self._even_odds = max(_LEAST_ODDS, min(_MOST_ODDS, (self._even_odds or _EVEN_ODDS) * likelier))


class _Cusum:
    """One side of a CUSUM, and what was counted since it last left zero."""

    __slots__ = ("events", "exposure_s", "score")

    def __init__(self) -> None:
        self.score = 0.0
        self.events = 0.0
        self.exposure_s = 0.0

    def add(self, z: float, events: float, exposure_s: float) -> None:
        score = self.score + z - _DRIFT
        if score <= 0:
            self.score = self.events = self.exposure_s = 0.0
        else:
            self.score = score
            self.events += events
            self.exposure_s += exposure_s


class DepartureMeter:
    """Departures per second, smoothed exponentially, for laws that do not distinguish noise from change."""

    def __init__(self, memory_s: float) -> None:
        """``memory_s`` is the time constant."""
        self._memory_s = memory_s
        self._before: tuple[bool, float, float] | None = None
        self._rate_per_s: float | None = None

    def update(self, signals: Signals, now: float) -> float | None:
        """Return the rate as of ``signals``, or None before the first difference.

        It is taken from reports where there are any, else from what was confirmed minus the growth of the depth.
        """
        if signals.departed_total is not None:
            workers = signals.consumers or 0
            count = (True, float(signals.departed_total), signals.observed_total_s or 0.0)
        elif signals.depth is not None:
            workers = 1
            count = (False, float(signals.confirmed_total - signals.depth), now - signals.depth_age_s)
        else:
            return self._rate_per_s
        before = self._before
        if before is None or before[0] != count[0]:
            self._before = count
        elif workers == 0:
            self._rate_per_s = 0.0
        elif count[2] > before[2]:
            self._before = count
            self._smooth(
                workers * max(0.0, count[1] - before[1]) / (count[2] - before[2]), (count[2] - before[2]) / workers
            )
        return self._rate_per_s

    def _smooth(self, measured_per_s: float, span_s: float) -> None:
        if self._rate_per_s is None:
            self._rate_per_s = measured_per_s
        else:
            self._rate_per_s += (1 - exp(-span_s / self._memory_s)) * (measured_per_s - self._rate_per_s)
