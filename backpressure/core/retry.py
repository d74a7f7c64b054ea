"""Retry policy: after which pause an attempt is repeated, and when to give up.

Exponential back-off with proportional jitter, so that simultaneous failures are not repeated simultaneously (Brooker,
"Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses ``backoff_min_s · multiplierⁿ``, at most ``backoff_max_s``, varied by ±``jitter``."""

    max_attempts: int
    backoff_min_s: float
    backoff_max_s: float
    multiplier: float = 2.0
    jitter: float = 0.0

    def pause_s(self, failed_attempts: int, draw: float) -> float | None:
        """Return the pause before the next attempt, or None to give up.

        Args:
            failed_attempts: how many have failed so far, from 1.
            draw: a random number in [0, 1) that decides the jitter.
        """
        if failed_attempts >= self.max_attempts:
            return None
        pause = min(self.backoff_max_s, self.backoff_min_s * self.multiplier ** min(failed_attempts - 1, 64))
        return pause * (1 + self.jitter * (2 * draw - 1))
