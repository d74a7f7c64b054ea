"""The broker crashes, and comes back with what it had on disk: every confirmed persistent message must be there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["BrokerKill"]


class BrokerKill(Fault):
    """``kill -9`` of the broker; starts it when the fault is undone."""

    name: ClassVar[str] = "broker-kill"
    brokers: ClassVar[frozenset[str]] = frozenset({"embedded", "rabbitmq"})
    restarts_broker: ClassVar[bool] = True

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        assert stage.operator is not None
        try:
            await stage.operator.kill()
            stage.happened("broker killed (SIGKILL)")
            yield
        finally:
            await stage.operator.revive()
            stage.happened("broker started again")
