"""Things to do at a point in time, without a clock: the owner says what time it is.

Lives here: one heap of deadlines. May not know: asyncio, or what the callbacks do.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer", "Timers"]

_TOLERATED = 64
"""So many cancelled timers are kept before it is worth looking for them."""


class Timer:
    """A pending callback; ``cancel`` makes it never run."""

    __slots__ = ("_owner", "callback", "when_s")

    def __init__(self, owner: Timers, when_s: float, callback: Callable[[], None]) -> None:
        """``when_s`` is on the owner's clock, in seconds."""
        self._owner = owner
        self.when_s = when_s
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback; harmless when it already ran."""
        if self.callback is not None:
            self.callback = None
            self._owner.note_cancelled()


class Timers:
    """Deadlines in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0
        self.on_earlier: Callable[[], None] = lambda: None
        """Called whenever a new deadline comes before all others: whoever sleeps must wake up then."""

    def __len__(self) -> int:
        """How many deadlines are held, cancelled ones included."""
        return len(self._heap)

    def at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` in the first `run` whose ``now`` is ``when_s`` or later."""
        timer = Timer(self, when_s, callback)
        heapq.heappush(self._heap, (when_s, next(self._order), timer))
        if self._heap[0][2] is timer:
            self.on_earlier()
        return timer

    def run(self, now: float) -> None:
        """Run what is due at ``now``, oldest first, including what these callbacks add for now or earlier."""
        while self._heap and self._heap[0][0] <= now:
            timer = self._pop()
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()

    def next_deadline(self) -> float | None:
        """When `run` has something to do next, or None."""
        while self._heap and self._heap[0][2].callback is None:
            self._pop()
        return self._heap[0][0] if self._heap else None

    def note_cancelled(self) -> None:
        """A timer was cancelled. Deadlines that are set and cancelled all the time must not fill the memory."""
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
