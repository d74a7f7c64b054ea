"""What a broker tells of a queue whose consumers do not report, and the moment each number speaks of.

Numbers of different moments are never added. A number is either exact at its moment or not used.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

__all__ = ["ConsumerTerms", "OffsetReading", "QueueStatistics", "Steps"]

_GAPS = 5
_LATE = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """``ready`` and ``unacked`` of one moment, as a broker answered at ``arrived_s``, but not counted for this answer.

    The moment is inferred from when the answers change, so unchanged ones count too. ``collected``: between the moment
    and the change lies another period of the same length (the management API's collector, unlike the queue's own tick).
    """

    ready: int
    unacked: int
    arrived_s: float
    collected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerTerms:
    """On what terms ``count`` consumers get messages.

    ``prefetch`` is what they may hold together; None: at least one of them has no limit. ``auto_ack`` of them settle
    a message when it is delivered to them: nothing tells when their work ends.
    """

    count: int
    prefetch: int | None
    auto_ack: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetReading:
    """The ends of a topic's partitions at ``arrived_s``, and what the group has committed, which grows in steps."""

    ends: tuple[int, ...]
    committed: tuple[int, ...]
    arrived_s: float


class Steps:
    """Finds out when a value was counted that is told many times and counted rarely, at even intervals.

    A value that changes between two answers was counted between them. One that does not change when the next count is
    due, by the median of the last intervals, was counted again and found the same.

    Attributes:
        interval_s: how far apart the counts are; None: not known yet.
    """

    def __init__(self) -> None:
        self.interval_s: float | None = None
        self._value: object = None
        self._asked_s: float | None = None
        self._moment_s: float | None = None
        self._changed_s: float | None = None
        self._gaps: deque[float] = deque(maxlen=_GAPS)

    def see(self, value: object, arrived_s: float) -> float | None:
        """Return the moment at which ``value`` was counted; None: it is not known."""
        asked_s, self._asked_s = self._asked_s, arrived_s
        if asked_s is None:
            self._value = value
            return None
        gap_s = arrived_s - asked_s
        if value != self._value:
            self._value = value
            moment_s = arrived_s - gap_s / 2
            if self._changed_s is not None:
                self._gaps.append(moment_s - self._changed_s)
                self.interval_s = median(self._gaps)
            self._moment_s = self._changed_s = moment_s
        elif self.interval_s is not None and self._moment_s is not None:
            while arrived_s - self._moment_s > _LATE * self.interval_s + gap_s:
                self._moment_s += self.interval_s
        return self._moment_s
