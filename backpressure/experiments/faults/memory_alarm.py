"""The broker runs out of memory and blocks every connection that publishes (``connection.blocked``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["MemoryAlarm"]


class MemoryAlarm(Fault):
    """Raises the memory alarm; clears it when the fault is undone."""

    name: ClassVar[str] = "memory-alarm"
    brokers: ClassVar[frozenset[str]] = frozenset({"embedded", "rabbitmq"})

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        assert stage.operator is not None
        try:
            await stage.operator.set_alarm(raised=True)
            stage.happened("memory alarm raised")
            yield
        finally:
            await stage.operator.set_alarm(raised=False)
            stage.happened("memory alarm cleared")
