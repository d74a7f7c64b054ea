"""Law ``gradient2``: follow the ratio of the long-term to the present round trip."""

from __future__ import annotations

from backpressure.core.controllers.in_system import InSystemMeter
from backpressure.core.controllers.law_config import LawConfig, Parameter
from backpressure.core.signals import Decision, Signals

__all__ = ["Gradient2Law"]

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
