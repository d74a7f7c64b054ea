"""Sends one message at a time and returns when the broker has it: for people, not for throughput."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from backpressure.core.message import Message
from backpressure.engines.confirming import ConfirmingPublisher
from backpressure.errors import QueueNotFoundError, TransportError
from backpressure.settings import QueueSettings
from backpressure.transports.base import QueueAdmin, Transport

__all__ = ["Sender", "opened"]

Admin = TypeVar("Admin", bound=QueueAdmin)

_PATIENCE_S = 10.0


@asynccontextmanager
async def opened(admin: Admin) -> AsyncIterator[Admin]:
    """Start ``admin`` for the length of a block; raises `TransportError`."""
    try:
        await admin.start()
        yield admin
    finally:
        await admin.stop()


class Sender(ConfirmingPublisher):
    """Declares what it publishes to, and keeps nobody waiting. Its transport should not wait for a broker either."""

    def __init__(self, transport: Transport, declare: Callable[[], Awaitable[None]]) -> None:
        """``declare`` creates what is published to; it runs before the first message, and again after a loss."""
        super().__init__(transport)
        self._address = transport.address
        self._declare = declare
        self._declared = False
        self._preparing = asyncio.Lock()
        self._blocked = ""

    async def prepare(self) -> None:
        """Connect and declare, where that has not been done yet; raises `TransportError`."""
        async with self._preparing:
            if not self._declared:
                await self._declare()
                self._declared = True
        await self.connect()

    async def send(self, message: Message, *, exchange: str, routing_key: str) -> bool:
        """Publish and return, once the broker has confirmed, whether any queue was bound.

        Raises:
            RefusedError: the queue is full.
            TransportError: no broker, an alarm, or no answer; in the last two cases the message may still arrive.
        """
        await self.prepare()
        if self._blocked:
            raise TransportError(self._blocked)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                routed = await self.publish(message, exchange=exchange, routing_key=routing_key)
        except TimeoutError:
            raise TransportError(
                f"{self._address} did not confirm within {_PATIENCE_S:g} s: the message may still arrive"
            ) from None
        if not routed:
            self._declared = False  # somebody deleted what was declared: it is made again before the next message
        return routed

    async def put(self, message: Message, queue: QueueSettings) -> None:
        """Publish to ``queue`` as `send` does; raises `QueueNotFoundError` as well, when somebody has deleted it."""
        if not await self.send(message, exchange=queue.exchange, routing_key=queue.routing_key):
            raise QueueNotFoundError(queue.work)

    def on_ready(self) -> None:
        """A new connection: no alarm is known on it."""
        self._blocked = ""

    def on_blocked(self, reason: str) -> None:
        """An alarm: what is in flight arrives when it is over, but nobody should wait for that."""
        self._blocked = f"{self._address} takes no messages now ({reason}); what was sent may arrive later"
        self.give_up(TransportError(self._blocked))

    def on_unblocked(self) -> None:
        """The alarm is over."""
        self._blocked = ""

    def on_lost(self, error: Exception) -> None:
        """Nothing in flight will be confirmed, and a broker that comes back may have forgotten its queues."""
        self._declared = False
        super().on_lost(error)
