"""A lock for threads and for tasks of any event loop at once: first come, first served.

Of many callers who wait for the same limiter only the first watches the clock. So a thousand tasks cost no more than
one, and messages leave in the order in which `publish` was called. Cancelling a waiting task, or a timeout, gives its
place to the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["Turns"]


class Turns:
    """Hands out turns; one caller has its turn at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[Callable[[], None]] = deque()  # whoever has its turn comes first; each is how to wake it

    def __len__(self) -> int:
        """Return how many callers have their turn, or wait for it."""
        return len(self._line)

    @contextmanager
    def turn(self, timeout_s: float | None = None) -> Iterator[bool]:
        """Wait in this thread for the turn; yield whether it came in time."""
        came = threading.Event()
        wake = came.set
        if self._join(wake):
            came.set()
        try:
            yield came.wait(timeout_s)
        finally:
            self._leave(wake)

    @asynccontextmanager
    async def turn_of_task(self) -> AsyncIterator[None]:
        """Wait in this task for the turn."""
        loop = asyncio.get_running_loop()
        came = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(_resolve, came)
            except RuntimeError:  # that loop has ended, with a task of it still in line
                self._leave(wake)

        if self._join(wake):
            came.set_result(None)
        try:
            await came
            yield
        finally:
            self._leave(wake)

    def _join(self, wake: Callable[[], None]) -> bool:
        """Stand in line; return whether it is this caller's turn at once."""
        with self._lock:
            self._line.append(wake)
            return len(self._line) == 1

    def _leave(self, wake: Callable[[], None]) -> None:
        with self._lock:
            if wake not in self._line:
                return
            had_turn = self._line[0] == wake
            self._line.remove(wake)
            following = self._line[0] if had_turn and self._line else None
        if following is not None:
            following()


def _resolve(came: asyncio.Future[None]) -> None:
    if not came.done():
        came.set_result(None)
