"""What the faults of the network have in common: the clients reach their broker through our proxy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from backpressure.experiments.faults.base import Fault, Stage
from backpressure.experiments.faults.proxy import Proxy

__all__ = ["NetworkFault"]


class NetworkFault(Fault, ABC):
    """Does something to the proxy; on undoing, the network is whole again."""

    brokers: ClassVar[frozenset[str]] = frozenset({"embedded", "rabbitmq", "external"})
    through_proxy: ClassVar[bool] = True

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        assert stage.proxy is not None
        try:
            await self.disturb(stage.proxy)
            stage.happened(f"network: {self}")
            yield
        finally:
            await stage.proxy.mend()
            stage.happened("network whole again")

    @abstractmethod
    async def disturb(self, proxy: Proxy) -> None:
        """Do it."""

    @abstractmethod
    def __str__(self) -> str:
        """Say what it does."""
