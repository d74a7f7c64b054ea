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


class Timer:
    """A pending callback; ``cancel`` makes it never run."""

    __slots__ = ("callback", "when_s")

    def __init__(self, when_s: float, callback: Callable[[], None]) -> None:
        """``when_s`` is on the owner's clock, in seconds."""
        self.when_s = when_s
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback; harmless when it already ran."""
        self.callback = None


class Timers:
    """Deadlines in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` in the first `run` whose ``now`` is ``when_s`` or later."""
        timer = Timer(when_s, callback)
        heapq.heappush(self._heap, (when_s, next(self._order), timer))
        return timer

    def run(self, now: float) -> None:
        """Run what is due at ``now``, oldest first, including what these callbacks add for now or earlier."""
        while self._heap and self._heap[0][0] <= now:
            callback = heapq.heappop(self._heap)[2].callback
            if callback is not None:
                callback()

    def next_deadline(self) -> float | None:
        """When `run` has something to do next, or None."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
