"""Timers without a clock: the owner passes the time in.

Must not know: asyncio, what the callbacks do.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

_TOLERATED = 64
"""The number of cancelled timers that are not worth removing."""


class Timer:
    """A pending callback; ``cancel`` makes it never run."""

    __slots__ = ("_owner", "callback", "when_s")

    def __init__(self, owner: Timers, when_s: float, callback: Callable[[], None]) -> None:
        """``when_s`` is in seconds on the owner's clock."""
        self._owner = owner
        self.when_s = when_s
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Drop the callback; has no effect if it ran already."""
        if self.callback is not None:
            self.callback = None
            self._owner.note_cancelled()


class Timers:
    """A heap of deadlines."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0
        self.on_earlier: Callable[[], None] = lambda: None
        """Called when a new deadline is earlier than all others, so that the owner can wake up in time."""

    def __len__(self) -> int:
        """The number of deadlines, including cancelled ones."""
        return len(self._heap)

    def at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` in the first `run` whose ``now`` is ``when_s`` or later."""
        timer = Timer(self, when_s, callback)
        heapq.heappush(self._heap, (when_s, next(self._order), timer))
        if self._heap[0][2] is timer:
            self.on_earlier()
        return timer

    def run(self, now: float) -> None:
        """Run everything that is due at ``now``, earliest first, including what the callbacks add."""
        while self._heap and self._heap[0][0] <= now:
            timer = self._pop()
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()

    def next_deadline(self) -> float | None:
        """Return the time of the next deadline, or None."""
        while self._heap and self._heap[0][2].callback is None:
            self._pop()
        return self._heap[0][0] if self._heap else None

    def note_cancelled(self) -> None:
        """Count a cancelled timer; many of them are removed, so that they do not fill the memory."""
        self._cancelled += 1
        if self._cancelled > _TOLERATED and 2 * self._cancelled > len(self._heap):
            self._heap = [held for held in self._heap if held[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def _pop(self) -> Timer:
        timer = heapq.heappop(self._heap)[2]
        if timer.callback is None:
            self._cancelled -= 1
        return timer
