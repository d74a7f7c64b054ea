"""How producers that know each other only by their reports divide a common rate.

Each computes its own part from the same counters, without asking the others. But the signals of each have another age,
so its law computes a slightly higher or lower common rate than the laws of the others. This difference persists, and
shows in what each producer sends. So each producer also compares what it sent with its part, and corrects the
difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

_WINDOW_S = 1.0
_GAIN_PER_S = 0.3
_LEAK_PER_S = 0.05
_OTHER_SHARE = 0.05
_LONGEST_STEP_S = 0.5
_LARGEST_ERROR = 0.5
_LARGEST_TRIM = 0.5
_LEAST_RATE_PER_S = 1.0


class ShareTrim:
    """Integral control of one producer's part of what all producers send.

    Formula, with e = (share·flow − own)/(share·flow) over the last second:
    factor ← factor + Δt·(0.3·e − 0.05·(factor − 1)), between ½ and 1½.

    If one producer sends more, the others have to send less. But each knows only its own error. Once no producer has
    an error, all factors would stay as they are, however far they are from 1 together; the leak prevents that. After a
    share has changed, for example when a producer joins, all of them are wrong at once, and the comparison starts
    again.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._share = 0.0
        self._history: deque[tuple[float, int, int]] = deque()

    def update(self, share: float, own: int, everybody: int, now: float, *, comparable: bool) -> float:
        """Return the factor by which to multiply ``share``.

        Args:
            share: its part of the common rate, 0 … 1.
            own: messages confirmed to it, a total.
            everybody: messages confirmed to all producers, a total.
            now: seconds, monotonic.
            comparable: whether there are others and only its law limits it; otherwise the correction is reset.
        """
        last = self._history[-1][0] if self._history else now
        if abs(share - self._share) > _OTHER_SHARE * share:
            self._share = share
            self._history.clear()
        self._history.append((now, own, everybody))
        while len(self._history) > 2 and now - self._history[1][0] >= _WINDOW_S:
            self._history.popleft()
        if not comparable:
            self.factor = 1.0
            self._history.clear()
            return 1.0
        start, own_before, everybody_before = self._history[0]
        span_s = now - start
        expected = share * (everybody - everybody_before)
        if span_s >= _WINDOW_S and expected >= _LEAST_RATE_PER_S * span_s:
            error = (expected - (own - own_before)) / expected
            slope = _GAIN_PER_S * max(-_LARGEST_ERROR, min(_LARGEST_ERROR, error)) - _LEAK_PER_S * (self.factor - 1)
            trimmed = self.factor + slope * min(now - last, _LONGEST_STEP_S)
            self.factor = max(1 - _LARGEST_TRIM, min(1 + _LARGEST_TRIM, trimmed))
        return self.factor


@dataclass(frozen=True, slots=True)
class Level:
    """How a common rate of ``total_per_s`` is divided: ``left_per_s`` among those of ``weights`` who can use more."""

    total_per_s: float
    left_per_s: float
    weights: float

    def share(self, weight: float, need_per_s: float) -> float:
        """Return the part (0 … 1] of one of them, which may use more than its ``need_per_s`` so far."""
        left, weights = self.left_per_s, self.weights
        if need_per_s * weights < left * weight or not weights:  # it was one of those that need less
            left, weights = left + need_per_s, weights + weight
        return min(1.0, weight / weights * (left / self.total_per_s if self.total_per_s > 0 else 1.0))


def water_level(total_per_s: float, members: Iterable[tuple[float, float]]) -> Level:
    """Return how a common rate is divided, max-min fair by weight ("water-filling").

    ``members`` are, of each producer, its weight and what it can use (msg/s). Those that need less than their part keep
    what they need and no more; the rest is divided by weight among those that could use more.
    """
    members = sorted(members, key=lambda member: member[1] / member[0])
    left = total_per_s
    weights = sum(weight for weight, _ in members)
    for weight, need in members:
        if need * weights >= left * weight:
            break
        left -= need
        weights -= weight
    else:
        weights = 0.0
    return Level(total_per_s, left, weights)


def fair_share(weight: float, total_per_s: float, rivals: Iterable[tuple[float, float]]) -> float:
    """Return this producer's part (0 … 1] of a common rate, of which it could use all.

    Args:
        weight: its own weight, more than 0.
        total_per_s: the common rate to be divided.
        rivals: of each other producer its weight and what it can use (msg/s).
    """
    level = water_level(total_per_s, [*rivals, (weight, inf)])
    return weight / level.weights * (level.left_per_s / total_per_s if total_per_s > 0 else 1.0)
