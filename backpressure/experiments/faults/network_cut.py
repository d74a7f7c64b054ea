"""The network between clients and broker is cut: connections end, and new ones are refused."""

from __future__ import annotations

from typing import ClassVar

from backpressure.experiments.faults.network import NetworkFault
from backpressure.experiments.faults.proxy import Proxy

__all__ = ["NetworkCut"]


class NetworkCut(NetworkFault):
    """Ends every connection and refuses new ones."""

    name: ClassVar[str] = "network-cut"

    async def disturb(self, proxy: Proxy) -> None:
        """See `NetworkFault.disturb`."""
        await proxy.cut()

    def __str__(self) -> str:
        """See `NetworkFault`."""
        return "cut"
