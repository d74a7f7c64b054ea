"""Takes every message of one queue and hands it on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backpressure.core.message import Delivery
from backpressure.transports.base import Subscriber, Transport

__all__ = ["Receiver"]

_PREFETCH = 100


class Receiver:
    """A subscriber that acknowledges what ``take`` has taken; idle until it is started."""

    def __init__(self, transport: Transport, take: Callable[[Delivery], None]) -> None:
        self._transport = transport
        self._take = take
        self._starting = asyncio.Lock()
        self._subscriber: Subscriber | None = None

    @property
    def consuming(self) -> bool:
        """Whether it has been started; a lost connection comes back by itself."""
        return self._subscriber is not None

    async def start(self, queue: str) -> None:
        """Consume from ``queue``, if it does not yet; raises `TransportError`."""
        async with self._starting:
            if self._subscriber is not None:
                return
            self._subscriber = subscriber = self._transport.subscriber()
            try:
                await subscriber.start(self, queue=queue, prefetch=_PREFETCH)
            except BaseException:
                self._subscriber = None
                await subscriber.stop()
                raise

    async def stop(self) -> None:
        """Close the connection, if there is one; it may be started again."""
        async with self._starting:
            if self._subscriber is not None:
                await self._subscriber.stop()
                self._subscriber = None

    def on_ready(self) -> None:
        """Deliveries follow."""

    def on_delivery(self, delivery: Delivery) -> None:
        """Hand it on, then acknowledge."""
        assert self._subscriber is not None
        self._take(delivery)
        self._subscriber.ack(delivery)

    def on_lost(self, error: Exception) -> None:
        """The subscriber comes back by itself; what it had not acknowledged is delivered again."""
