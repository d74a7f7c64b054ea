"""Law ``pace``: know the bottleneck, hold a small queue."""

from __future__ import annotations

from math import inf, sqrt

from backpressure.core.controllers.bottleneck import Bottleneck
from backpressure.core.controllers.config import LawConfig, Parameter
from backpressure.core.signals import Decision, Signals

__all__ = ["PaceLaw"]

_FLOOR_PER_S = 1.0
_HALF_LIFE_S = 0.5


class PaceLaw:
    """Send at the estimated bottleneck rate, corrected so that a small standing queue is held.

    Formula, with μ̂ the bottleneck rate, φ its dispersion, a the age of the signals, s the messages in work:
    K = gain/(tick + a); T = a + tick/(g(2 − g)), g = K·tick;
    q* = s + max(target_wait·μ̂, spread·√(φ·μ̂·T)); rate = share · (μ̂ + K·(q* − depth)), within floor and ceiling.
    """

    PARAMETERS = (
        Parameter("gain", 0.6, "", "part of the queue's error corrected in one loop time", 0.01, 2.0),
        Parameter("spread", 2.0, "σ", "the setpoint is at least this many standard deviations of the depth", 0.0, 10.0),
        Parameter("start_per_s", 20.0, "msg/s", "rate of a cold start, for all producers together", 0.01),
        Parameter("stale_s", 0.5, "s", "signals older than this are not acted upon", 0.01),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take target, tick, floor and ceiling from ``config``."""
        values = config.values("pace", self.PARAMETERS)
        self._config = config
        self._gain = values["gain"]
        self._spread = values["spread"]
        self._stale_s = values["stale_s"]
        self._start_per_s = values["start_per_s"]
        self._bottleneck = Bottleneck(start_per_s=values["start_per_s"], stale_s=values["stale_s"])
        self._raised_at = -inf
        self._lived = False
        self._total_per_s = values["start_per_s"]
        self._asked_at: float | None = None
        self._nacked = 0
        self._cut_until = -inf
        self._cap = inf

    def update(self, signals: Signals, now: float) -> Decision:
        """Return the rate for this tick."""
        elapsed_s = 0.0 if self._asked_at is None else now - self._asked_at
        self._asked_at = now
        bottleneck = self._bottleneck
        bottleneck.update(signals, now)
        if signals.blocked:
            return self._decide(signals, "blocked: estimators frozen")
        if not bottleneck.fresh:
            self._total_per_s *= 0.5 ** (elapsed_s / _HALF_LIFE_S)
            return self._decide(signals, "no fresh signal: decaying to the floor", floor_per_s=_FLOOR_PER_S)
        loop_s = self._config.tick_s + bottleneck.age_s
        grew = self._grow(signals, now, loop_s)
        self._watch_refusals(signals, now, loop_s, elapsed_s)
        rate = bottleneck.rate_per_s
        if rate is None:
            rate, reason = self._start_per_s, "finding the bottleneck"
        else:
            reason = "starved: growing" if grew else "holding the queue"
        setpoint = self._setpoint(rate, loop_s)
        error = 0.0 if bottleneck.depth is None else setpoint - bottleneck.depth
        self._total_per_s = max(0.0, rate + self._gain / loop_s * error)
        if error < -setpoint:
            reason = "draining the queue"
        if now < self._cut_until:
            self._total_per_s *= 0.5
            reason = "refused: cut for one loop time"
        return self._decide(signals, reason)

    def _decide(self, signals: Signals, reason: str, *, floor_per_s: float = 0.0) -> Decision:
        rate = self._config.clamp(signals.share * self._total_per_s, floor_per_s=floor_per_s)
        return Decision(rate, reason, self._window(signals, rate), self._bottleneck.rate_per_s)

    def _setpoint(self, rate_per_s: float, loop_s: float) -> float:
        age_s = loop_s - self._config.tick_s
        step = min(1.0, self._gain / loop_s * self._config.tick_s)
        variance_s = age_s + self._config.tick_s / (step * (2 - step))
        spread = self._spread * sqrt(self._bottleneck.dispersion * rate_per_s * variance_s)
        return min(self._cap, self._bottleneck.servers + max(self._config.target_wait_s * rate_per_s, spread))

    def _grow(self, signals: Signals, now: float, loop_s: float) -> bool:
        """Double the estimate when the queue stays empty, at most once per loop time."""
        bottleneck = self._bottleneck
        if bottleneck.empty_since is None:
            if bottleneck.depth is not None:
                self._lived = self._lived or bottleneck.rate_per_s is not None
            return False
        patience_s = loop_s * (3 if bottleneck.measured else 2 if self._lived else 1)
        since = max(self._raised_at, bottleneck.empty_since)
        if signals.application_limited or signals.consumers == 0 or now - since < patience_s:
            return False
        self._raised_at = now
        bottleneck.raise_rate(2.0)
        if bottleneck.rate_per_s is None:
            self._start_per_s *= 2.0
        return True

    def _watch_refusals(self, signals: Signals, now: float, loop_s: float, elapsed_s: float) -> None:
        """A nack says that the queue's bound lies below our setpoint: cut once, and aim lower for a while."""
        self._cap *= 1 + 0.1 * elapsed_s
        if signals.nacked_total > self._nacked and now >= self._cut_until:
            self._cut_until = now + loop_s
            self._cap = max(1.0, 0.7 * min(self._cap, self._bottleneck.depth or 1.0))
        self._nacked = signals.nacked_total

    def _window(self, signals: Signals, rate_per_s: float) -> int | None:
        """Cap what is in flight when confirms take far longer than they can: the broker itself is queueing."""
        latency_s, least_s = signals.confirm_latency_s, signals.confirm_latency_min_s
        if latency_s is None or least_s is None or latency_s < max(0.1, 10 * least_s):
            return None
        return 10 + int(rate_per_s * 0.25)
