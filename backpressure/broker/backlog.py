"""The ready messages of a queue, in order, whatever comes back.

A requeued message returns to its place: messages never delivered wait in arrival order, returned ones in a heap, and
taking merges the two by sequence number. May not know: consumers, limits, time.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backpressure.broker.message import Entry

__all__ = ["Backlog"]


class Backlog:
    """Entries ordered by sequence number: O(1) for fresh ones, O(log n) for returned ones."""

    __slots__ = ("_fresh", "_returned", "body_bytes")

    def __init__(self) -> None:
        self._fresh: deque[Entry] = deque()
        self._returned: list[Entry] = []
        self.body_bytes = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._returned)

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, in order."""
        return heapq.merge(sorted(self._returned), self._fresh)

    def append(self, entry: Entry) -> None:
        """Add an entry that is younger than all others."""
        self._fresh.append(entry)
        self.body_bytes += len(entry.message.body)

    def give_back(self, entry: Entry) -> None:
        """Return an entry to its place."""
        heapq.heappush(self._returned, entry)
        self.body_bytes += len(entry.message.body)

    def head(self) -> Entry:
        """The oldest entry, which stays; IndexError when there is none."""
        if self._returned and (not self._fresh or self._returned[0] < self._fresh[0]):
            return self._returned[0]
        return self._fresh[0]

    def take(self) -> Entry:
        """Remove and return the oldest entry; IndexError when there is none."""
        if self._returned and (not self._fresh or self._returned[0] < self._fresh[0]):
            entry = heapq.heappop(self._returned)
        else:
            entry = self._fresh.popleft()
        self.body_bytes -= len(entry.message.body)
        return entry

    def clear(self) -> None:
        """Forget everything."""
        self._fresh.clear()
        self._returned.clear()
        self.body_bytes = 0
