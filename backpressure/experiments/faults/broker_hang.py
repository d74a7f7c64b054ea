"""The broker stands still: connected, and it takes, confirms, delivers and answers nothing (SIGSTOP … SIGCONT).

What a disk that does not answer, a long collection of garbage or a paused virtual machine looks like from outside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["BrokerHang"]


class BrokerHang(Fault):
    """SIGSTOP to the broker; SIGCONT when it is undone."""

    name: ClassVar[str] = "broker-hang"
    brokers: ClassVar[frozenset[str]] = frozenset({"embedded", "rabbitmq"})

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        assert stage.operator is not None
        try:
            stage.operator.suspend()
            stage.happened("broker hangs (SIGSTOP)")
            yield
        finally:
            stage.operator.go_on()
            stage.happened("broker goes on (SIGCONT)")
