"""The token bucket: applies a rate that a law has decided.

Time is passed in and the bucket never sleeps: `take` uses up tokens, `wait_s` says how long until the next one.

Meaning of a rate change: tokens that accrued before it were earned at the old rate and are kept; the fraction of a
token under way carries over; the new rate counts from that moment on. Source: golang.org/x/time/rate, which settles it
the same way.
"""

from __future__ import annotations

from math import inf

__all__ = ["TokenBucket"]


class TokenBucket:
    """Accrues ``rate_per_s`` tokens a second, and holds one plus ``burst_s`` seconds' worth of them.

    The extra one is the next token: without room for it, every late wake-up at a slow rate would lose some.
    """

    __slots__ = ("_tokens", "_updated_at", "burst_s", "rate_per_s")

    def __init__(self, rate_per_s: float, burst_s: float, now: float) -> None:
        """Start with one token, so that the first message need not wait.

        Args:
            rate_per_s: tokens per second, 0 (closed) … infinite (no limit).
            burst_s: how many seconds' worth, at the current rate, may be caught up after a stall; > 0.
            now: seconds, monotonic.
        """
        self.rate_per_s = rate_per_s
        self.burst_s = burst_s
        self._tokens = 1.0 if rate_per_s < inf else inf
        self._updated_at = now

    @property
    def capacity(self) -> float:
        """The most tokens it can hold."""
        return 1.0 + self.rate_per_s * self.burst_s

    def set_rate(self, rate_per_s: float, now: float) -> None:
        """Accrue at ``rate_per_s`` from ``now`` on; what was earned is kept up to the new capacity."""
        self._accrue(now)
        self.rate_per_s = rate_per_s
        self._tokens = min(self._tokens, self.capacity) if rate_per_s < inf else inf

    def set_burst(self, burst_s: float, now: float) -> None:
        """Hold this many seconds' worth from ``now`` on; what was earned is kept up to the new capacity."""
        self._accrue(now)
        self.burst_s = burst_s
        self._tokens = min(self._tokens, self.capacity)

    def available(self, now: float) -> float:
        """Return the tokens there are at ``now`` (with the fraction under way)."""
        self._accrue(now)
        return self._tokens

    def accrued_at(self, ahead: int, now: float) -> float:
        """Return when the token was earned that is taken after ``ahead`` others: when its message was due."""
        surplus = self.available(now) - ahead - 1
        return now - max(0.0, surplus) / self.rate_per_s if 0 < self.rate_per_s < inf else now

    def take(self, count: int, now: float) -> None:
        """Use up ``count`` tokens; the caller has asked `available`."""
        self._accrue(now)
        if self.rate_per_s < inf:
            self._tokens -= count

    def wait_s(self, now: float) -> float:
        """Return the seconds until a whole token is there: 0 if one is, infinite at rate 0."""
        missing = 1.0 - self.available(now)
        if missing <= 0:
            return 0.0
        return missing / self.rate_per_s if self.rate_per_s > 0 else inf

    def drain(self, now: float) -> None:
        """Discard what accrued, for example while sending was impossible."""
        self._accrue(now)
        if self.rate_per_s < inf:
            self._tokens = min(self._tokens, 1.0)

    def _accrue(self, now: float) -> None:
        elapsed = now - self._updated_at
        if elapsed > 0:  # it is called several times per message, with the same time
            self._updated_at = now
            self._tokens = min(self.capacity, self._tokens + elapsed * self.rate_per_s)
