"""The two clocks of a process: a monotonic one to pace by, a wall clock to stamp messages with; and waiting.

The wall clock is *anchored*: monotonic time plus one offset. It never jumps, and processes on one machine that share
the offset (``process.clock_anchor_ns``, set by `pace run`) agree on it to the nanosecond, also when the date is
changed.
"""

from __future__ import annotations

import asyncio
import time


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


class Waker:
    """Waits for either a time or an event, without a task per wait.

    There is a single waiter, which `wake` ends early; a wake without a waiter ends the next wait.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    def wake(self) -> None:
        """End the current wait, or the next one."""
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when woken, or after ``timeout_s`` seconds."""
        if self._woken:
            self._woken = False
            return
        loop = asyncio.get_running_loop()
        future = self._future = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._expire, future)
        try:
            await future
        finally:
            self._future = None
            self._woken = False
            if timer is not None:
                timer.cancel()

    @staticmethod
    def _expire(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)
