"""Durations: what was recorded of them, ever and in the last few seconds.

A histogram can be merged, subtracted and sent in a few hundred bytes.

Buckets grow by 2^(1/16), so a quantile is within 4.5 % of the true value; it is never below the shortest duration nor
above the longest. Counts are totals since the process started: the difference of two snapshots is the histogram of the
time between them, which is how rates and recent percentiles of *other* processes are computed from feedback.
(HdrHistogram's encodings carry a whole histogram, not a difference.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from math import ceil, log2

BUCKETS_PER_OCTAVE = 16
_OCTAVES = 44
MAX_BUCKET = _OCTAVES * BUCKETS_PER_OCTAVE
"""Half a year; anything longer counts as that."""

_MARKS = 10


class Histogram:
    """Durations in seconds from 1 µs upward; anything shorter counts as 1 µs.

    Attributes:
        counts: bucket number → how many durations fell into it.
        total, sum_s: of all durations.
        least_s, most_s: the shortest and the longest of all that were recorded; None where only the buckets are known.
    """

    __slots__ = ("counts", "least_s", "most_s", "sum_s", "total")

    def __init__(self, counts: Mapping[int, int] | None = None, sum_s: float = 0.0) -> None:
        """``counts`` maps a bucket number to how many durations fell into it."""
        self.counts: dict[int, int] = dict(counts or {})
        self.total = sum(self.counts.values())
        self.sum_s = sum_s
        self.least_s: float | None = None
        self.most_s: float | None = None

    def record(self, duration_s: float) -> None:
        """Count one duration."""
        bucket = 0
        if duration_s > 1e-6:
            octaves = log2(duration_s * 1e6)
            bucket = int(octaves * BUCKETS_PER_OCTAVE) if octaves < _OCTAVES else MAX_BUCKET
        else:
            duration_s = max(0.0, duration_s)
        if not self.total:
            self.least_s = self.most_s = duration_s
        elif self.least_s is not None and self.most_s is not None:
            if duration_s < self.least_s:
                self.least_s = duration_s
            elif duration_s > self.most_s:
                self.most_s = duration_s
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.total += 1
        self.sum_s += duration_s

    def quantile_s(self, q: float) -> float | None:
        """Return the duration below which a share ``q`` (0 … 1) of all lies, or None when empty.

        It is never below the shortest nor above the longest, and exact where it is one of the two.
        """
        if self.total <= 0:
            return None
        rank = max(1, ceil(q * self.total))
        if rank == 1 and self.least_s is not None:
            return self.least_s
        if rank == self.total and self.most_s is not None:
            return self.most_s
        seen = 0
        bucket = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                break
        middle_s = float(2.0 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE) * 1e-6)
        if self.least_s is None or self.most_s is None:
            return middle_s
        return min(self.most_s, max(self.least_s, middle_s))

    def mean_s(self) -> float | None:
        """Return the exact mean, or None when empty."""
        return self.sum_s / self.total if self.total > 0 else None

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram.merged((self, other))

    def since(self, earlier: Histogram) -> Histogram:
        """Return what was recorded after the snapshot ``earlier`` of the same histogram."""
        if not earlier.total:
            return self.copy()
        counts = {b: n - earlier.counts.get(b, 0) for b, n in self.counts.items() if n > earlier.counts.get(b, 0)}
        return Histogram(counts, max(0.0, self.sum_s - earlier.sum_s))

    def copy(self) -> Histogram:
        """Return an independent snapshot."""
        copy = Histogram(self.counts, self.sum_s)
        copy.least_s, copy.most_s = self.least_s, self.most_s
        return copy

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """Return the sum of all."""
        result = cls()
        counts = result.counts
        ends: list[tuple[float | None, float | None]] = []
        for histogram in histograms:
            for bucket, count in histogram.counts.items():
                counts[bucket] = counts.get(bucket, 0) + count
            result.total += histogram.total
            result.sum_s += histogram.sum_s
            if histogram.total:
                ends.append((histogram.least_s, histogram.most_s))
        least, most = [one for one, _ in ends if one is not None], [one for _, one in ends if one is not None]
        if ends and len(least) == len(most) == len(ends):
            result.least_s, result.most_s = min(least), max(most)
        return result


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
