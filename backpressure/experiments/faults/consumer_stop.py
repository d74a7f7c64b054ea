"""A consumer hangs: its connection stays, it holds its messages, and it does nothing (SIGSTOP … SIGCONT)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from pydantic import Field

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["ConsumerStop"]


class ConsumerStop(Fault):
    """SIGSTOP to consumers; SIGCONT when it is undone."""

    name: ClassVar[str] = "consumer-stop"

    count: int = Field(1, ge=1, description="how many, the oldest first")

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        hung = stage.supervisor.of("consumer")[: self.count]
        try:
            for child in hung:
                stage.supervisor.suspend(child)
                stage.happened(f"{child.id} hangs (SIGSTOP)")
            yield
        finally:
            for child in hung:
                stage.supervisor.go_on(child)
                stage.happened(f"{child.id} goes on (SIGCONT)")
