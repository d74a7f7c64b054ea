"""Law ``aimd``: additive increase, multiplicative decrease of the messages outstanding."""

from __future__ import annotations

from backpressure.core.controllers.in_system import InSystemMeter
from backpressure.core.controllers.law_config import LawConfig, Parameter
from backpressure.core.signals import Decision, Signals

__all__ = ["AimdLaw"]


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
