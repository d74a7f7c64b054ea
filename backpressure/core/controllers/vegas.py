"""Law ``vegas``: hold a few messages in the queue, judged by the round trip against its minimum."""

from __future__ import annotations

from math import ceil, log10

from backpressure.core.controllers.in_system import InSystem, InSystemMeter
from backpressure.core.controllers.law_config import LawConfig, Parameter
from backpressure.core.signals import Decision, Signals

__all__ = ["VegasLaw"]


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
