"""A whole broker inside this process, for tests of one's own and for trying the library without any server.

``memory://name`` is the same broker for everybody in the process who asks for that name.
"""

from __future__ import annotations

from collections.abc import Mapping

from backpressure.core.message import Delivery, HeaderValue, Message
from backpressure.settings import Settings
from backpressure.transports.deaths import dead_letter
from backpressure.transports.memory.admin import MemoryAdmin, MemoryFeedback, MemoryProbe
from backpressure.transports.memory.memory_broker import MemoryBroker
from backpressure.transports.memory.publisher import MemoryPublisher
from backpressure.transports.memory.subscriber import MemorySubscriber

__all__ = ["MemoryBroker", "MemoryTransport"]

_brokers: dict[str, MemoryBroker] = {}


class MemoryTransport:
    """The family of products for one broker."""

    bounds_queues = True

    def __init__(self, settings: Settings, broker: MemoryBroker | None = None) -> None:
        """``broker``: a broker of one's own instead of the one that goes by the URL."""
        self.address = settings.broker.full_url()
        self.broker = broker or _brokers.setdefault(self.address, MemoryBroker())
        self._feedback_exchange = settings.feedback.exchange

    def publisher(self) -> MemoryPublisher:
        """Return a new, unstarted publisher."""
        return MemoryPublisher(self.broker)

    def subscriber(self) -> MemorySubscriber:
        """Return a new, unstarted subscriber."""
        return MemorySubscriber(self.broker)

    def probe(self) -> MemoryProbe:
        """Return a new, unstarted probe."""
        return MemoryProbe(self.broker)

    def feedback(self) -> MemoryFeedback:
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
