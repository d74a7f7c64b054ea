"""The last few seconds of a histogram that only grows.

Pure: who holds one says when it is. The time between two marks is how much the window may be longer than asked for.
"""

from __future__ import annotations

from collections import deque

from backpressure.core.histogram import Histogram

__all__ = ["RecentHistogram"]

_MARKS = 10


class RecentHistogram:
    """What was recorded within the last ``window_s`` seconds, give or take a tenth of them."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._marks: deque[tuple[float, Histogram]] = deque()

    def mark(self, growing: Histogram, now: float) -> None:
        """Remember how far ``growing`` is at ``now`` (monotonic seconds); call it at least ten times a window."""
        if not self._marks or now - self._marks[-1][0] >= self.window_s / _MARKS:
            self._marks.append((now, growing.copy()))
        while len(self._marks) > 1 and self._marks[1][0] <= now - self.window_s:
            self._marks.popleft()

    def of(self, growing: Histogram) -> Histogram:
        """Return what ``growing`` recorded since the window began, as of the last mark."""
        return growing.since(self._marks[0][1]) if self._marks else growing.copy()
