"""Killing processes under test with ``kill -9``: nothing is flushed, settled or said; others start in their place."""

from __future__ import annotations

from abc import ABC
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from pydantic import Field

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["ProcessKill"]


class ProcessKill(Fault, ABC):
    """Kills the oldest processes of one role; as many new ones start when it is undone."""

    role: ClassVar[str]

    count: int = Field(1, ge=1, description="how many, the oldest first")

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        killed = stage.supervisor.of(self.role)[: self.count]
        await stage.supervisor.kill_now(killed)
        for child in killed:
            stage.happened(f"{child.id} killed (SIGKILL)")
        yield
        for child in await stage.fleet.replace(killed):
            stage.happened(f"{child.id} started in place of a killed one")

    def restarted(self, role: str) -> int:
        """See `Fault.restarted`."""
        return self.count if role == self.role else 0
