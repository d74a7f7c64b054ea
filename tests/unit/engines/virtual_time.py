"""Virtual time: an event loop that never waits, for tests that cover minutes of an engine in a moment.

When nothing is ready to run, the loop's time jumps to the next timer. So the order of events is that of real life, a
test never depends on how fast the machine is, and ``time()`` advances only where the code under test waits.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from backpressure.engines.clock import Clock

__all__ = ["VirtualClock", "VirtualTimeLoop", "run_virtually", "stall"]

T = TypeVar("T")

_EPOCH_NS = 1_700_000_000_000_000_000


class _JumpingSelector(selectors.DefaultSelector):
    """Where a loop would sleep, tells it to jump instead."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is scheduled, so nothing would ever happen again")
        if timeout > 0:
            self._jump(timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps; ``lateness`` says by how much each jump goes too far (a busy machine)."""

    def __init__(self, lateness: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 1000.0
        self._lateness = lateness
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Return virtual seconds."""
        return self.now

    def _jump(self, wait_s: float) -> None:
        self.now += wait_s + self._lateness()


class VirtualClock(Clock):
    """The two clocks of a process on the running virtual loop."""

    def __init__(self) -> None:
        super().__init__(anchor_ns=_EPOCH_NS)
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return self._loop.time()

    def wall_ns(self) -> int:
        return self.to_wall_ns(self.now())


def run_virtually(story: Coroutine[Any, Any, T], *, lateness: Callable[[], float] = lambda: 0.0) -> T:
    """Run ``story`` to its end on a virtual loop and return its result."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(lateness)) as runner:
        return runner.run(story)


def stall(seconds: float) -> None:
    """Let time pass in which nothing at all runs: the machine was busy elsewhere."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.now += seconds
