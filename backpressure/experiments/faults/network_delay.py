"""Every byte between clients and broker takes longer."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from backpressure.experiments.faults.network import NetworkFault
from backpressure.experiments.faults.proxy import Proxy

__all__ = ["NetworkDelay"]


class NetworkDelay(NetworkFault):
    """Delays both directions."""

    name: ClassVar[str] = "network-delay"

    ms: float = Field(50.0, gt=0, le=60_000, description="delay of each direction, milliseconds")

    async def disturb(self, proxy: Proxy) -> None:
        """See `NetworkFault.disturb`."""
        proxy.delay_s = self.ms / 1000

    def __str__(self) -> str:
        """See `NetworkFault`."""
        return f"{self.ms:g} ms slower each way"
