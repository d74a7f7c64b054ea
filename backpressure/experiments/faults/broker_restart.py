"""The broker is shut down in order, and comes back with what was durable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["BrokerRestart"]


class BrokerRestart(Fault):
    """Stops the broker, telling its clients; starts it when the fault is undone."""

    name: ClassVar[str] = "broker-restart"
    brokers: ClassVar[frozenset[str]] = frozenset({"embedded", "rabbitmq"})
    restarts_broker: ClassVar[bool] = True

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        assert stage.operator is not None
        try:
            await stage.operator.stop()
            stage.happened("broker stopped")
            yield
        finally:
            await stage.operator.start()
            stage.happened("broker started again")
