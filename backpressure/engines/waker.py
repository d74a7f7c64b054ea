"""Waiting for either a time or an event, without a task per wait."""

from __future__ import annotations

import asyncio

__all__ = ["Waker"]


class Waker:
    """A single waiter that `wake` ends early; a wake without a waiter ends the next wait."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    def wake(self) -> None:
        """End the current wait, or the next one."""
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when woken, or after ``timeout_s`` seconds."""
        if self._woken:
            self._woken = False
            return
        loop = asyncio.get_running_loop()
        future = self._future = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._expire, future)
        try:
            await future
        finally:
            self._future = None
            self._woken = False
            if timer is not None:
                timer.cancel()

    @staticmethod
    def _expire(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)
