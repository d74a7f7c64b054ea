"""Laws ``aimd``, ``vegas`` and ``gradient2``: window laws, which limit how many messages are outstanding.

They were written for calls, where a reply ends the work; a confirm only says that the broker has the message. So here a
message is outstanding until a consumer has settled it, its round trip is the time from sent to settled (Little's law:
depth ÷ departure rate, plus the confirm), and a sample is one tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log10

from backpressure.core.controllers.registry import LawConfig, Parameter
from backpressure.core.filters import DepartureMeter
from backpressure.core.signals import Decision, Signals


@dataclass(frozen=True, slots=True)
class InSystem:
    """One sample: own messages outstanding, seconds one stays, own departures per second, whether one was refused."""

    outstanding: float
    round_trip_s: float
    departures_per_s: float
    refused: bool

    def rate_for(self, limit: float, tick_s: float) -> float:
        """Return the rate that replaces departures and brings ``outstanding`` to ``limit`` within a tick."""
        return max(0.0, self.departures_per_s + (limit - self.outstanding) / tick_s)


class InSystemMeter:
    """Turns `Signals` into samples."""

    def __init__(self, tick_s: float) -> None:
        """``tick_s`` is how often the law is asked."""
        self._meter = DepartureMeter(memory_s=5 * tick_s)
        self._nacked = 0

    def sample(self, signals: Signals, now: float) -> InSystem | None:
        """Return the sample of this tick, or None as long as depth or departures are unknown."""
        refused, self._nacked = signals.nacked_total > self._nacked, signals.nacked_total
        departures_per_s = self._meter.update(signals, now)
        if signals.depth is None or departures_per_s is None:
            return None
        shortest_s = (signals.service_mean_s or 0.0) + (signals.confirm_latency_s or 0.0)
        stay_s = signals.depth / max(departures_per_s, 0.1)
        return InSystem(
            outstanding=signals.in_flight + signals.share * signals.depth,
            round_trip_s=max(stay_s + (signals.confirm_latency_s or 0.0), shortest_s, 1e-3),
            departures_per_s=signals.share * departures_per_s,
            refused=refused,
        )


class AimdLaw:
    """Additive increase, multiplicative decrease: one more message outstanding a tick, a tenth fewer on trouble.

    Formula, each tick: refused or round trip > ``timeout_s``: L ← backoff · L; else, if outstanding ≥ L/2: L ← L + 1; L
    within [min_limit, max_limit]. Rate = departures + (L − outstanding)/tick: a window, expressed as a rate. Regimes:
    *increase*, *decrease*, *hold* (fewer than half outstanding: application-limited). The result is a sawtooth between
    no wait and ``timeout_s`` of wait. Parameters: ``backoff``, ``timeout_s``, ``initial_limit``, ``min_limit``,
    ``max_limit`` (messages). Source: Netflix concurrency-limits, ``AIMDLimit`` (its timeout of 5 s suits remote calls;
    where queue wait is judged, half a second is fairer; its limit moves once per reply, ours once per tick).
    """

    PARAMETERS = (
        Parameter("backoff", 0.9, "", "the limit is multiplied by this on trouble", 0.5, 0.999),
        Parameter("timeout_s", 0.5, "s", "a longer round trip counts as trouble", 0.001),
        Parameter("initial_limit", 20, "messages", "limit at the start", 1),
        Parameter("min_limit", 1, "messages", "smallest limit", 1),
        Parameter("max_limit", 10_000, "messages", "largest limit", 1),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take the parameters from ``config``."""
        self._config = config
        self._values = config.values("aimd", self.PARAMETERS)
        self._limit = self._values["initial_limit"]
        self._meter = InSystemMeter(config.tick_s)

    def update(self, signals: Signals, now: float) -> Decision:
        """Move the limit by one sample and pace to it."""
        sample = self._meter.sample(signals, now)
        if sample is None:
            return Decision(self._config.clamp(self._limit / self._config.tick_s), "no reading yet")
        values = self._values
        if sample.refused or sample.round_trip_s > values["timeout_s"]:
            self._limit *= values["backoff"]
            reason = "refused" if sample.refused else "round trip above timeout"
        elif sample.outstanding * 2 >= self._limit:
            self._limit += 1
            reason = "increase"
        else:
            reason = "application-limited"
        self._limit = min(values["max_limit"], max(values["min_limit"], self._limit))
        return Decision(self._config.clamp(sample.rate_for(self._limit, self._config.tick_s)), reason)


class VegasLaw:
    """Hold the queue between two small bounds, inferred from the round trip against the smallest one seen.

    Formula, each tick, with queue = ⌈L·(1 − rtt₀/rtt)⌉ and s = max(1, ⌊log₁₀ L⌋): refused: L ← L − s; queue ≤ s: L ← L
    + 6s; queue < 3s: L ← L + s; queue > 6s: L ← L − s; between: hold. Rate as for ``aimd``. Regimes: *refused*, *fast
    increase*, *increase*, *hold*, *decrease*; nothing moves with fewer than L/2 outstanding, nor by a sample that is
    itself the new rtt₀. rtt₀ is measured again every ``probe`` · L departures, since a standing queue hides the true
    minimum: after a step down in capacity until then, L falls too far, and a probe taken with a queue drifts rtt₀
    upward.
    Parameters: ``probe``, ``initial_limit``, ``max_limit`` (messages).
    Source: Brakmo and Peterson, TCP Vegas (1995), in the form of Netflix concurrency-limits, ``VegasLimit`` (whose
    probe interval is jittered; a law here has no randomness).
    """

    PARAMETERS = (
        Parameter("probe", 30, "", "the smallest round trip is forgotten after this many times L departures", 1),
        Parameter("initial_limit", 20, "messages", "limit at the start", 1),
        Parameter("max_limit", 10_000, "messages", "largest limit", 1),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take the parameters from ``config``."""
        self._config = config
        self._values = config.values("vegas", self.PARAMETERS)
        self._limit = self._values["initial_limit"]
        self._meter = InSystemMeter(config.tick_s)
        self._rtt_min_s = float("inf")
        self._departed = 0.0

    def update(self, signals: Signals, now: float) -> Decision:
        """Move the limit by one sample and pace to it."""
        sample = self._meter.sample(signals, now)
        if sample is None:
            return Decision(self._config.clamp(self._limit / self._config.tick_s), "no reading yet")
        self._departed += sample.departures_per_s * self._config.tick_s
        if self._departed >= self._values["probe"] * self._limit:
            self._departed, self._rtt_min_s = 0.0, float("inf")
        if sample.round_trip_s < self._rtt_min_s:
            self._rtt_min_s = sample.round_trip_s
            return self._decide(sample, "smallest round trip: nothing to compare it with")
        queue = ceil(self._limit * (1 - self._rtt_min_s / sample.round_trip_s))
        step = max(1, int(log10(self._limit)))
        if sample.refused:
            change, reason = -step, "refused"
        elif sample.outstanding * 2 < self._limit:
            change, reason = 0, "application-limited"
        elif queue <= step:
            change, reason = 6 * step, "fast increase"
        elif queue < 3 * step:
            change, reason = step, "increase"
        elif queue > 6 * step:
            change, reason = -step, "decrease"
        else:
            change, reason = 0, "hold"
        self._limit = min(self._values["max_limit"], max(1.0, self._limit + change))
        return self._decide(sample, reason)

    def _decide(self, sample: InSystem, reason: str) -> Decision:
        return Decision(self._config.clamp(sample.rate_for(self._limit, self._config.tick_s)), reason)


_WARM_UP_SAMPLES = 10


class Gradient2Law:
    """Shrink the limit as the round trip rises above its long average, and always ask for a few messages more.

    Formula, each tick: long ← average of rtt over ``long_window`` samples (the plain mean of the first ten), and × 0.95
    while long > 2·rtt; g = clamp(tolerance·long/rtt, 0.5, 1); L ← (1 − smoothing)·L + smoothing·(g·L + queue_size),
    within [min_limit, max_limit]. Rate as for ``aimd``.
    Regimes: *growth* (g = 1), *back-off* (g < 1), *hold* (fewer than L/2 outstanding). A slow rise of the round trip
    takes the long average along, so the queue drifts upward; refusals are not looked at.
    Parameters: ``tolerance``, ``smoothing``, ``long_window`` (samples), ``queue_size``, ``initial_limit``,
    ``min_limit``, ``max_limit`` (messages).
    Source: Netflix concurrency-limits, ``Gradient2Limit`` (its max_limit is 200, too few for 5 000 msg/s).
    """

    PARAMETERS = (
        Parameter("tolerance", 1.5, "", "rise of the round trip that is let pass", 1.0),
        Parameter("smoothing", 0.2, "", "weight of the newest limit", 0.001, 1.0),
        Parameter("long_window", 600, "samples", "length of the long average", 1),
        Parameter("queue_size", 4, "messages", "how much more to ask for at each step"),
        Parameter("initial_limit", 20, "messages", "limit at the start", 1),
        Parameter("min_limit", 20, "messages", "smallest limit", 1),
        Parameter("max_limit", 10_000, "messages", "largest limit", 1),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take the parameters from ``config``."""
        self._config = config
        self._values = config.values("gradient2", self.PARAMETERS)
        self._limit = self._values["initial_limit"]
        self._meter = InSystemMeter(config.tick_s)
        self._long_s = 0.0
        self._samples = 0

    def update(self, signals: Signals, now: float) -> Decision:
        """Move the limit by one sample and pace to it."""
        sample = self._meter.sample(signals, now)
        if sample is None:
            return Decision(self._config.clamp(self._limit / self._config.tick_s), "no reading yet")
        values, short_s = self._values, sample.round_trip_s
        self._average(short_s)
        if self._long_s > 2 * short_s:
            self._long_s *= 0.95
        if sample.outstanding < self._limit / 2:
            reason = "application-limited"
        else:
            gradient = max(0.5, min(1.0, values["tolerance"] * self._long_s / short_s))
            wanted = gradient * self._limit + values["queue_size"]
            self._limit += values["smoothing"] * (wanted - self._limit)
            reason = "growth" if gradient == 1.0 else "back-off"
        self._limit = min(values["max_limit"], max(values["min_limit"], self._limit))
        return Decision(self._config.clamp(sample.rate_for(self._limit, self._config.tick_s)), reason)

    def _average(self, rtt_s: float) -> None:
        self._samples += 1
        if self._samples <= _WARM_UP_SAMPLES:
            self._long_s += (rtt_s - self._long_s) / self._samples
        else:
            self._long_s += (rtt_s - self._long_s) * 2 / (self._values["long_window"] + 1)
