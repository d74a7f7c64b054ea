"""Reading queue depths by passive declare, ten times a second and more.

The connection never publishes, so a memory alarm does not block it.
"""

from __future__ import annotations

from backpressure.settings import BrokerSettings
from backpressure.transports.base import QueueReading
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.link import RabbitMQRequests

__all__ = ["RabbitMQProbe"]


class RabbitMQProbe:
    """A `QueueProbe`. AMQP reports ready messages and consumers, but not unacked messages."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._requests = RabbitMQRequests(broker, outage, name, timeout_s=broker.connect_timeout_s)

    async def start(self) -> None:
        """See `QueueProbe.start`."""
        await self._requests.link.start()

    async def read(self, queue: str) -> QueueReading:
        """See `QueueProbe.read`."""
        reply = await self._requests.call("queue_declare", queue=queue, passive=True)
        return QueueReading(ready=reply.message_count, unacked=None, consumers=reply.consumer_count)

    async def stop(self) -> None:
        """Close."""
        await self._requests.link.stop()
