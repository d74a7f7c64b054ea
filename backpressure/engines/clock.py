"""The two clocks of a process: a monotonic one to pace by, a wall clock to stamp messages with.

The wall clock is *anchored*: monotonic time plus one offset. It never jumps, and processes on one machine that share
the offset (``process.clock_anchor_ns``, set by `pace run`) agree on it to the nanosecond, also when the date is
changed.
"""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Reads time for everything outside the core."""

    def __init__(self, anchor_ns: int = 0) -> None:
        """``anchor_ns``: wall minus monotonic, in nanoseconds; 0 reads it now."""
        self.anchor_ns = anchor_ns or time.time_ns() - time.monotonic_ns()

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return time.monotonic_ns() + self.anchor_ns

    def to_wall_ns(self, now: float) -> int:
        """Convert a monotonic time in seconds to nanoseconds since the epoch."""
        return round(now * 1e9) + self.anchor_ns
