"""Law ``threshold``: cut by a factor under pressure, recover slowly, keep a floor."""

from __future__ import annotations

from math import inf

from backpressure.core.controllers.law_config import LawConfig, Parameter
from backpressure.core.signals import Decision, Signals

__all__ = ["ThresholdLaw"]

_FLOOR_PER_S = 100.0


class ThresholdLaw:
    """Cut the rate by a factor while there is pressure, recover slowly when it has gone, never below a floor.

    Formula, each tick of length Δt: under pressure r ← max(floor, reduction_factor · r), once in ``cut_every_s``;
    without r ← r · (1 + recovery)^Δt. Pressure is a nack, a blocked connection, or a depth above ``pressure_depth``;
    it counts as gone when none of the first two happened and the depth is below half the threshold.
    Regimes: *cut*, *hold* (between half and all of the threshold, or application-limited), *recover*. It starts at
    the offered load, as the script it comes from does. With capacity below the floor the queue fills up to its bound.
    Parameters: ``reduction_factor``, ``pressure_depth`` (messages), ``recovery`` (share per second) and ``cut_every_s``
    (s). ``control.floor_per_s`` (msg/s) is 100 here unless it is set.
    Source: the classic teaching script (×0.8 on a reject, floor 100 msg/s), which has no way back up; this one has.
    """

    PARAMETERS = (
        Parameter("reduction_factor", 0.8, "", "multiply the rate by this under pressure", 0.001, 0.999),
        Parameter("pressure_depth", 500, "messages", "a deeper queue counts as pressure", 1),
        Parameter("recovery", 0.1, "1/s", "the rate grows by this share every second without pressure", 0.0, 10.0),
        Parameter("cut_every_s", 0.0, "s", "shortest time between two cuts; 0: at every tick"),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take the parameters and the floor from ``config``."""
        values = config.values("threshold", self.PARAMETERS)
        self._config = config
        self._reduction_factor = values["reduction_factor"]
        self._pressure_depth = values["pressure_depth"]
        self._recovery = values["recovery"]
        self._cut_every_s = values["cut_every_s"]
        self._rate_per_s: float | None = None
        self._nacked = 0
        self._cut_at = float("-inf")
        self._asked_at: float | None = None
        self._confirmed = 0

    def update(self, signals: Signals, now: float) -> Decision:
        """Cut, hold or recover."""
        elapsed_s = 0.0 if self._asked_at is None else now - self._asked_at
        refused, self._nacked, self._asked_at = signals.nacked_total > self._nacked, signals.nacked_total, now
        sent, self._confirmed = signals.confirmed_total - self._confirmed, signals.confirmed_total
        rate = signals.demand_per_s if self._rate_per_s is None else self._rate_per_s
        depth = signals.depth or 0
        threshold = self._pressure_depth
        if refused or signals.blocked or depth > threshold:
            reason = "refused" if refused else "blocked" if signals.blocked else "queue too deep"
            if now - self._cut_at >= self._cut_every_s:
                if rate == inf and elapsed_s > 0:  # an offered load without limit: begin with what it comes to
                    rate = signals.share * sent / elapsed_s
                rate *= self._reduction_factor
                self._cut_at = now
        elif depth > threshold / 2 or signals.application_limited:
            reason = "holding"
        else:
            rate *= (1 + self._recovery) ** elapsed_s
            reason = "recovering"
        rate = self._config.clamp(min(rate, signals.demand_per_s), floor_per_s=_FLOOR_PER_S)
        self._rate_per_s = rate
        return Decision(rate, reason)
