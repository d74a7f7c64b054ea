"""The last few seconds: of single values, and of a histogram that only grows.

Pure: who holds one says when it is.
"""

from __future__ import annotations

from collections import deque

from backpressure.core.histogram import Histogram

__all__ = ["RecentHistogram", "RecentValues"]

_MARKS = 10


class RecentValues:
    """The values of the last ``window_s`` seconds; the last one is kept however old it is."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._values: deque[tuple[float, float]] = deque()

    def add(self, value: float, now: float) -> None:
        """Remember ``value`` as of ``now`` (monotonic seconds), and forget what is too old."""
        self._values.append((now, value))
        while now - self._values[0][0] > self.window_s:
            self._values.popleft()

    def least(self, default: float) -> float:
        """Return the smallest, or ``default`` when there is none."""
        return min((value for _, value in self._values), default=default)

    def greatest(self, default: float) -> float:
        """Return the largest, or ``default`` when there is none."""
        return max((value for _, value in self._values), default=default)


class RecentHistogram:
    """What was recorded within the last ``window_s`` seconds, give or take a tenth of them (the time between marks)."""

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
