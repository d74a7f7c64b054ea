"""Connections are half open: the broker has seen them end, the clients hear nothing and wait."""

from __future__ import annotations

from typing import ClassVar

from backpressure.experiments.faults.network import NetworkFault
from backpressure.experiments.faults.proxy import Proxy

__all__ = ["NetworkHalfOpen"]


class NetworkHalfOpen(NetworkFault):
    """Ends the broker's side of every connection; the clients' side, and every new one, stays open and silent."""

    name: ClassVar[str] = "network-half-open"

    async def disturb(self, proxy: Proxy) -> None:
        """See `NetworkFault.disturb`."""
        proxy.half_open()

    def __str__(self) -> str:
        """See `NetworkFault`."""
        return "half open"
