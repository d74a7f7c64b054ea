"""The line between clients and broker is thin."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from backpressure.experiments.faults.network import NetworkFault
from backpressure.experiments.faults.proxy import Proxy

__all__ = ["NetworkBandwidth"]


class NetworkBandwidth(NetworkFault):
    """Limits each direction of each connection."""

    name: ClassVar[str] = "network-bandwidth"

    kb_per_s: float = Field(100.0, gt=0, le=1e6, description="kilobytes a second, each direction")

    async def disturb(self, proxy: Proxy) -> None:
        """See `NetworkFault.disturb`."""
        proxy.bytes_per_s = self.kb_per_s * 1000

    def __str__(self) -> str:
        """See `NetworkFault`."""
        return f"{self.kb_per_s:g} kB/s at most"
