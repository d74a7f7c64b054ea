"""A histogram of durations that can be merged, subtracted and sent in a few hundred bytes.

Buckets grow by 2^(1/16), so a quantile is within 4.5 % of the true value. Counts are totals since the process started:
the difference of two snapshots is the histogram of the time between them, which is how rates and recent percentiles of
*other* processes are computed from feedback. (HdrHistogram's encodings carry a whole histogram, not a difference.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, floor, log2

__all__ = ["BUCKETS_PER_OCTAVE", "MAX_BUCKET", "Histogram"]

BUCKETS_PER_OCTAVE = 16
MAX_BUCKET = 44 * BUCKETS_PER_OCTAVE
"""Half a year; anything longer counts as that."""


class Histogram:
    """Durations in seconds from 1 µs upward; anything shorter counts as 1 µs."""

    __slots__ = ("counts", "sum_s", "total")

    def __init__(self, counts: Mapping[int, int] | None = None, sum_s: float = 0.0) -> None:
        """``counts`` maps a bucket number to how many durations fell into it."""
        self.counts: dict[int, int] = dict(counts or {})
        self.total = sum(self.counts.values())
        self.sum_s = sum_s

    def record(self, duration_s: float) -> None:
        """Count one duration."""
        bucket = floor(min(MAX_BUCKET, log2(duration_s * 1e6) * BUCKETS_PER_OCTAVE)) if duration_s > 1e-6 else 0
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += 1
        self.sum_s += max(0.0, duration_s)

    def quantile_s(self, q: float) -> float | None:
        """Return the duration below which a share ``q`` (0 … 1) of all lies, or None when empty."""
        if self.total <= 0:
            return None
        rank = max(1, ceil(q * self.total))
        seen = 0
        bucket = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                break
        return float(2.0 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE) * 1e-6)

    def mean_s(self) -> float | None:
        """Return the exact mean, or None when empty."""
        return self.sum_s / self.total if self.total > 0 else None

    def __add__(self, other: Histogram) -> Histogram:
        counts = dict(self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        return Histogram(counts, self.sum_s + other.sum_s)

    def since(self, earlier: Histogram) -> Histogram:
        """Return what was recorded after the snapshot ``earlier`` of the same histogram."""
        counts = {b: n - earlier.counts.get(b, 0) for b, n in self.counts.items() if n > earlier.counts.get(b, 0)}
        return Histogram(counts, max(0.0, self.sum_s - earlier.sum_s))

    def copy(self) -> Histogram:
        """Return an independent snapshot."""
        return Histogram(self.counts, self.sum_s)

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """Return the sum of all."""
        result = cls()
        counts = result.counts
        for histogram in histograms:
            for bucket, count in histogram.counts.items():
                counts[bucket] = counts.get(bucket, 0) + count
            result.total += histogram.total
            result.sum_s += histogram.sum_s
        return result
