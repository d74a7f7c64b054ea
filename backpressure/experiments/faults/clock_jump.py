"""The date jumps, as when NTP steps it or an operator sets it: no figure, pace or order may depend on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Literal

from pydantic import Field

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["ClockJump"]

_YEAR_S = 31_536_000


class ClockJump(Fault):
    """Moves the wall clock of all processes of one role, those that start meanwhile too; back when it is undone."""

    name: ClassVar[str] = "clock-jump"
    moves_clocks: ClassVar[bool] = True

    by_s: float = Field(60.0, ge=-_YEAR_S, le=_YEAR_S, description="seconds ahead; negative: back")
    role: Literal["consumer", "producer"] = Field("consumer", description="whose clock: consumer or producer")

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        try:
            stage.fleet.move_clock(self.role, self.by_s)
            stage.happened(f"the wall clock of every {self.role} jumps by {self.by_s:+g} s")
            yield
        finally:
            stage.fleet.move_clock(self.role, 0.0)
            stage.happened(f"the wall clock of every {self.role} is right again")
