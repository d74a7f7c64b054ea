"""Publishing with confirms, without waiting for them."""

from __future__ import annotations

from typing import Any

from pika.channel import Channel as PikaChannel
from pika.spec import Basic

from backpressure.core.message import Message
from backpressure.errors import NotConnectedError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import PublisherListener
from backpressure.transports.outage import Outage
from backpressure.transports.rabbitmq.frames import publish_frames
from backpressure.transports.rabbitmq.link import Link
from backpressure.transports.rabbitmq.wire import Connection

__all__ = ["RabbitMQPublisher"]


class RabbitMQPublisher:
    """A `Publisher` on a connection and a channel of its own."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._link = Link(broker, name, outage, set_up=self._set_up, on_lost=self._on_lost)
        self._listener: PublisherListener
        self._connection: Connection | None = None
        self._channel: PikaChannel | None = None
        self._last_tag = 0

    @property
    def ready(self) -> bool:
        """Whether `publish` may be called now."""
        return self._channel is not None and bool(self._channel.is_open)

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes accepted by `publish` that the socket has not taken yet."""
        return 0 if self._connection is None else self._connection.write_buffer_bytes

    async def start(self, listener: PublisherListener) -> None:
        """See `Publisher.start`."""
        self._listener = listener
        await self._link.start()

    def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
        """See `Publisher.publish`."""
        if self._connection is None or self._channel is None or not self._channel.is_open:
            raise NotConnectedError(f"not connected to the broker at {self._link.address}")
        body_max = self._connection.body_max_bytes
        self._connection.emit(publish_frames(self._channel.channel_number, exchange, routing_key, message, body_max))
        self._last_tag += 1
        return self._last_tag

    async def stop(self) -> None:
        """See `Publisher.stop`."""
        await self._link.stop()
        self._connection = self._channel = None

    async def _set_up(self, connection: Connection) -> None:
        channel = await connection.open_channel(vital=True)
        connection.add_on_connection_blocked_callback(
            lambda _connection, frame: self._listener.on_blocked(frame.method.reason)
        )
        connection.add_on_connection_unblocked_callback(lambda _connection, _frame: self._listener.on_unblocked())
        await channel.call("confirm_delivery", ack_nack_callback=self._on_settled)
        number = channel.raw.channel_number
        connection.incoming.confirm_to(number, self._listener.on_confirmed)
        connection.incoming.return_to(number, self._on_return)
        self._last_tag = 0
        self._connection, self._channel = connection, channel.raw
        self._listener.on_ready()

    def _on_settled(self, frame: Any) -> None:
        settled = frame.method
        if isinstance(settled, Basic.Ack):
            self._listener.on_confirmed(settled.delivery_tag, settled.multiple)
        else:
            self._listener.on_nacked(settled.delivery_tag, settled.multiple)

    def _on_return(self, message: Message, reason: str) -> None:
        self._listener.on_returned(message.message_id, reason)

    def _on_lost(self, error: TransportError) -> None:
        self._connection = self._channel = None
        self._listener.on_lost(error)
