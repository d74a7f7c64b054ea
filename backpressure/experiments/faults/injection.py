"""A fault at work: begun in the background, and undone after its time, at the end of its phase or when the run ends.

A task of its own does and undoes it, so that a run that is interrupted half-way through either can still wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib

from backpressure.experiments.events import FaultBegan, FaultEnded
from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["Injection"]


class Injection:
    """Begins at once."""

    def __init__(self, fault: Fault, stage: Stage) -> None:
        """``fault`` is done to ``stage``."""
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._hold(fault, stage), name=fault.name)

    async def undo(self) -> None:
        """Return when it is undone; raises what went wrong. May be awaited again when it was cancelled."""
        self._over.set()
        await asyncio.wait({self._task})
        self._task.result()

    async def _hold(self, fault: Fault, stage: Stage) -> None:
        async with fault.injected(stage):
            stage.record(FaultBegan(at_ns=stage.clock.wall_ns(), name=fault.name))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault.for_s):
                    await self._over.wait()
        stage.record(FaultEnded(at_ns=stage.clock.wall_ns(), name=fault.name))
