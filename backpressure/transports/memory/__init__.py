"""A broker inside this process, for unit tests and for trying the library without a server.

Within a process ``memory://name`` is always the same broker.
"""

from __future__ import annotations

from collections.abc import Mapping

from backpressure.core.message import Delivery, Destination, HeaderValue, Message
from backpressure.settings import Settings
from backpressure.transports.deaths import dead_letter
from backpressure.transports.memory.endpoints import (
    MemoryAdmin,
    MemoryFeedback,
    MemoryProbe,
    MemoryPublisher,
    MemorySubscriber,
)
from backpressure.transports.memory.memory_broker import MemoryBroker

__all__ = ["MemoryBroker", "MemoryTransport"]

_brokers: dict[str, MemoryBroker] = {}


class MemoryTransport:
    """All products for one broker."""

    bounds_queues = True

    def __init__(self, settings: Settings, broker: MemoryBroker | None = None) -> None:
        """``broker``: the broker to use instead of the one named by the URL."""
        self.address = settings.broker.full_url()
        self.broker = broker or _brokers.setdefault(self.address, MemoryBroker())
        self._feedback_exchange = settings.feedback.exchange
        queue = settings.queue
        self.destination = Destination("rabbitmq", f"{queue.exchange}:{queue.key}", queue.work)

    @property
    def obstacle(self) -> str:
        """See `Transport.obstacle`."""
        return ""

    def publisher(self) -> MemoryPublisher:
        """Return a new, unstarted publisher."""
        return MemoryPublisher(self.broker)

    def subscriber(self) -> MemorySubscriber:
        """Return a new, unstarted subscriber."""
        return MemorySubscriber(self.broker)

    def probe(self) -> MemoryProbe:
        """Return a new, unstarted probe."""
        return MemoryProbe(self.broker)

    def feedback(self, *, create: bool = True) -> MemoryFeedback:  # noqa: ARG002 - there is nothing to create
        """Return a new, unstarted feedback bus."""
        return MemoryFeedback(self.broker, self._feedback_exchange)

    def admin(self) -> MemoryAdmin:
        """Return a new, unstarted admin."""
        return MemoryAdmin(self.broker, self.address)

    def dead_letter(self, delivery: Delivery, queue: str, headers: Mapping[str, HeaderValue]) -> Message:
        """See `Transport.dead_letter`."""
        return dead_letter(
            delivery.message,
            queue=queue,
            reason="rejected",
            exchange=delivery.exchange,
            routing_key=delivery.routing_key,
            headers=headers,
        )
