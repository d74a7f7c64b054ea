"""Messages that arrive from producers that nobody paces: how many, and how that is told.

A producer that reports nothing and follows no law takes as much of the consumers' capacity as it likes. Those that are
paced get what it leaves, down to their floor. From their point of view the consumers have become slower; only a balance
of the queue shows that they have not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from math import inf
from typing import NamedTuple

from backpressure.core.signals import Decision

_WINDOW_S = 10.0
_LATE_WINDOW_S = 20.0
_LATE_S = 10.0  # statistics of the management API may be two of their intervals old
_APART_S = 0.5
_GAP_S = 3.0  # after a longer time without a count, others may have come and gone
_WORTH_TELLING = 0.1  # of what arrives
_NO_LONGER = 0.05
_GONE = 0.1  # of what was told: the depth that they leave behind is not counted more exactly
_LEAST_PER_S = 1.0
_NEWS = 0.1  # a number that differs less from what was told is no news

WHAT_TO_DO = "let those use Paced or a pace proxy too (docs/existing-queues.md)"


class _Point(NamedTuple):
    at: float
    entered: float
    confirmed: float
    in_flight: int


class UnpacedArrivals:
    """Estimates how many messages a second enter the queue that no known producer has sent.

    Formula: (what entered - what was confirmed to known producers) ÷ time, over ten seconds; twenty, if the count of
    what entered is some seconds old. They are told once the least they can be, whatever the moments of the counts, has
    been a tenth of all arrivals for ten seconds (less would tell a part of them), and until they are a twentieth, or a
    tenth of what was told. So nothing is told by mistake: of a late count, what was confirmed in ten seconds more may
    be a part.

    Attributes:
        per_s: messages a second; 0: none, or too few to be certain of.
    """

    def __init__(self) -> None:
        self.per_s = 0.0
        self._points: deque[_Point] = deque()
        self._source: tuple[bool, int] | None = None
        self._certain_since = inf

    def update(self, entered: float, now: float, *, confirmed: int, in_flight: int, producers: int, late: bool) -> None:
        """Take in a count of all messages that have entered the queue.

        Args:
            entered: the total; where it begins does not matter.
            now: when it was read.
            confirmed: total of what was confirmed to all known producers.
            in_flight: what this producer has sent besides; it may have entered.
            producers: how many are known. What a new one has sent before it was heard of is not in ``confirmed``.
            late: whether one of the totals is of a moment some seconds before, or estimated since then.
        """
        points, source = self._points, (late, producers)
        last = points[-1] if points else None
        if last is not None:
            if source != self._source or now - last.at > _GAP_S:
                points.clear()
                self._certain_since = inf
            elif now - last.at < _APART_S:
                return
        self._source = source
        points.append(_Point(now, entered, confirmed, in_flight))
        window_s, late_s = (_LATE_WINDOW_S, _LATE_S) if late else (_WINDOW_S, 0.0)
        while len(points) > 2 and now - points[1].at >= window_s + late_s:
            points.popleft()
        first = next((point for point in reversed(points) if now - point.at >= window_s), None)
        if first is None or now - points[0].at < window_s + late_s:
            return
        elapsed_s, arrived = now - first.at, entered - first.entered
        least = arrived - (confirmed + in_flight - points[0].confirmed)
        usual_per_s = (arrived - (confirmed - first.confirmed)) / elapsed_s
        certain = least / elapsed_s >= max(_LEAST_PER_S, _WORTH_TELLING * arrived / elapsed_s)
        self._certain_since = min(self._certain_since, now) if certain else inf
        if certain and now - self._certain_since >= _WINDOW_S:
            if abs(usual_per_s - self.per_s) > _NEWS * self.per_s:
                self.per_s = usual_per_s
        elif not certain and usual_per_s < max(_LEAST_PER_S / 2, _NO_LONGER * arrived / elapsed_s, _GONE * self.per_s):
            self.per_s = 0.0


def with_unpaced(decision: Decision, unpaced_per_s: float) -> Decision:
    """Return ``decision`` with what arrives unpaced in its reason."""
    if not 0 < unpaced_per_s < inf:
        return decision
    return replace(decision, reason=f"{decision.reason}; {told(unpaced_per_s)}")


def told(unpaced_per_s: float) -> str:
    """Return the sentence about it."""
    return f"{float(f'{unpaced_per_s:.2g}'):.0f} msg/s arrive from producers that nobody paces"
