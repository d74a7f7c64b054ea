"""The lab's queues: what they are called, sending to them and receiving from them, one message at a time.

For people, not for throughput: a message is sent when the broker has confirmed it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from backpressure.core.message import Delivery, Message
from backpressure.engines.confirming import ConfirmingPublisher
from backpressure.errors import QueueNotFoundError, TransportError
from backpressure.settings import LabSettings, QueueSettings
from backpressure.transports.base import QueueAdmin, Subscriber, Transport

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


class LabSender(ConfirmingPublisher):
    """Declares what it publishes to, and fails instead of waiting, as its transport should."""

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
            self._declared = False  # the queue was deleted: declare it again before the next message
        return routed

    async def put(self, message: Message, queue: QueueSettings) -> None:
        """Publish to ``queue`` as `send` does; raises `QueueNotFoundError` as well, when it has been deleted."""
        if not await self.send(message, exchange=queue.exchange, routing_key=queue.routing_key):
            raise QueueNotFoundError(queue.work)

    def on_ready(self) -> None:
        """A new connection: no alarm is known on it."""
        self._blocked = ""

    def on_blocked(self, reason: str) -> None:
        """An alarm. What is in flight arrives after it, but no caller waits that long."""
        self._blocked = f"{self._address} takes no messages now ({reason}); what was sent may arrive later"
        self.give_up(TransportError(self._blocked))

    def on_unblocked(self) -> None:
        """The alarm is over."""
        self._blocked = ""

    def on_lost(self, error: Exception) -> None:
        """Nothing in flight will be confirmed, and a broker that comes back may have forgotten its queues."""
        self._declared = False
        super().on_lost(error)


_PREFETCH = 100


class LabReceiver:
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
        """The subscriber reconnects by itself; what it had not acknowledged is delivered again."""


Item = TypeVar("Item")


class NewestItems(Generic[Item]):
    """Keeps the newest ``limit`` items."""

    def __init__(self, limit: int) -> None:
        self._items: deque[Item] = deque(maxlen=limit)
        self.total = 0

    @property
    def dropped(self) -> int:
        """How many items were dropped to make room."""
        return self.total - len(self._items)

    def add(self, item: Item) -> None:
        """Keep ``item``; drop the oldest when there is no room."""
        self._items.append(item)
        self.total += 1

    def newest(self, count: int | None = None) -> list[Item]:
        """Return the newest ``count`` items (None: all that are kept), oldest first."""
        items = list(self._items)
        return items if count is None else items[max(0, len(items) - count) :]


def queue_named(lab: LabSettings, name: str) -> QueueSettings:
    """Return the lab's queue ``name``: durable, bounded, bound to the lab's direct exchange by its own name."""
    return QueueSettings(
        exchange=f"{lab.prefix}.direct",
        routing_key=name,
        work=f"{lab.prefix}.{name}",
        dead_letter=f"{lab.prefix}.dead",
    )


def fanout_name(lab: LabSettings) -> str:
    """Return the exchange that every subscriber's queue is bound to."""
    return f"{lab.prefix}.pubsub"


def subscriber_queue(lab: LabSettings, subscriber_id: str) -> str:
    """Return the queue of one subscriber."""
    return f"{lab.prefix}.pubsub.{subscriber_id}"
