"""Payloads that a function of the user's makes: called ahead of the sender, which never waits for it."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, cast

from backpressure.core.message import HeaderValue
from backpressure.engines.work import load_function
from backpressure.errors import PaceError

__all__ = ["Made", "PayloadSource"]

Made = tuple[bytes, dict[str, HeaderValue]]
"""Body and headers of a message."""


class PayloadSource:
    """Calls a function for each message, or takes the next one from a generator, as far ahead as it is told to.

    A coroutine function or an asynchronous generator is awaited. Any other runs on a thread, so that confirms,
    heartbeats and reports go on while it works.

    Attributes:
        failure: why no more can be made; what was made before is still there.
    """

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        """A function is called with the number of the message, from 0; a generator function once, without arguments."""
        self.failure: PaceError | None = None
        self._function = function
        self._name = name or getattr(function, "__qualname__", repr(function))
        self._ready: deque[Made] = deque()
        self._number = 0
        self._until = 0
        self._ended = False
        self._asked = asyncio.Event()

    @classmethod
    def load(cls, path: str) -> PayloadSource:
        """Return the source for the function at ``path`` (``package.module:function``); raises `ConfigError`."""
        return cls(load_function("producer.handler", path), path)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left, and there will be nothing more."""
        return self._ended and not self._ready

    def make_until(self, number: int) -> None:
        """Have so many made in all."""
        if number > self._until:
            self._until = number
            self._asked.set()

    def take(self) -> Made:
        """Return the oldest that is ready."""
        return self._ready.popleft()

    async def run(self, on_made: Callable[[], None]) -> None:
        """Make what is asked for until there is nothing more, or it fails; ``on_made`` is called after each batch."""
        try:
            make = self._maker()
            while True:
                await self._asked.wait()
                self._asked.clear()
                while self._number < self._until:
                    if not await make():
                        return
                    on_made()
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises ends the producer in one line
            self.failure = PaceError(f"producer.handler {self._name} failed at message {self._number}: {error!r}")
        finally:
            self._ended = True
            on_made()

    def _maker(self) -> Callable[[], Awaitable[bool]]:
        """Return what makes at least one payload, and returns False at the end of a generator."""
        function = self._function
        if inspect.isasyncgenfunction(function):
            return self._next_of(function())
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 - an object may be called
            return self._awaited
        steps = cast("Iterator[object]", function()) if inspect.isgeneratorfunction(function) else None
        return lambda: asyncio.to_thread(self._on_a_thread, steps)

    def _next_of(self, steps: AsyncIterator[object]) -> Callable[[], Awaitable[bool]]:
        async def make() -> bool:
            try:
                self._take_in(await anext(steps))
            except StopAsyncIteration:
                return False
            return True

        return make

    async def _awaited(self) -> bool:
        self._take_in(await self._function(self._number))
        return True

    def _on_a_thread(self, steps: Iterator[object] | None) -> bool:
        """Make all that are asked for: going to the thread and back takes longer than a short function."""
        while self._number < self._until:
            if steps is None:
                self._take_in(self._function(self._number))
                continue
            try:
                self._take_in(next(steps))
            except StopIteration:
                return False
        return True

    def _take_in(self, made: object) -> None:
        body, headers = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes) or not isinstance(headers, Mapping) or not all(map(_is_text, headers)):
            raise TypeError(f"expected a body (bytes or str) or a pair of body and headers, got {type(made).__name__}")
        self._ready.append((body, dict(headers)))
        self._number += 1


def _is_text(value: object) -> bool:
    return isinstance(value, str)
