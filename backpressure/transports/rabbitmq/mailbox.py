"""Messages between programs of ours that have nothing but the broker in common: a direct exchange and a queue each.

Nothing is left behind: each queue belongs to its connection, and the exchange goes with the last queue. A message for
which there is no queue is dropped; its sender has to wait for an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pika.exceptions import AMQPError

from backpressure.core.message import Message
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.link import RabbitMQLink
from backpressure.transports.rabbitmq.wire import WireChannel, WireConnection, read_elsewhere

_FULL_BYTES = 1 << 20


class Mailbox:
    """Gets what is sent to its addresses, as long as it is connected."""

    def __init__(
        self,
        broker: BrokerSettings,
        name: str,
        exchange: str,
        addresses: Iterable[str],
        *,
        on_message: Callable[[str, bytes], None],
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_message`` is called with the address and what was sent to it."""
        self._exchange = exchange
        self._addresses = list(addresses)
        self._on_message = on_message
        self._on_connected = on_connected
        self._connection: WireConnection | None = None
        self._channel: WireChannel | None = None
        self._link = RabbitMQLink(broker, name, Outage(broker.address()), set_up=self._set_up)

    async def start(self) -> None:
        """Return when connected; raises `TransportError`."""
        await self._link.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._link.stop()

    @property
    def is_open(self) -> bool:
        """Whether what is sent now leaves this process; an alarm of the broker stops that too."""
        connection, channel = self._connection, self._channel
        if connection is None or channel is None or not channel.is_open or connection.lost.done():
            return False
        return not connection.blocked and connection.write_buffer_bytes < _FULL_BYTES

    def send(self, address: str, data: bytes) -> bool:
        """Send it, or return False where that is not possible now."""
        if not self.is_open or self._channel is None:
            return False
        try:
            self._channel.raw.basic_publish(self._exchange, address, data)
        except AMQPError:
            return False
        return True

    async def _set_up(self, connection: WireConnection) -> None:
        channel = await connection.open_channel(vital=False)
        await channel.call("exchange_declare", exchange=self._exchange, exchange_type="direct", auto_delete=True)
        declared = await channel.call("queue_declare", queue="", exclusive=True, auto_delete=True)
        for address in self._addresses:
            await channel.call("queue_bind", queue=declared.queue, exchange=self._exchange, routing_key=address)
        connection.incoming.deliver_to(channel.raw.channel_number, self._delivered)
        await channel.call("basic_consume", queue=declared.queue, on_message_callback=read_elsewhere, auto_ack=True)
        connection.depend_on(channel)
        self._connection, self._channel = connection, channel
        asyncio.get_running_loop().call_soon(self._on_connected)

    def _delivered(
        self, message: Message, _tag: int, _redelivered: bool, _exchange: str, address: str, _header: bytes
    ) -> None:
        self._on_message(address, message.body)
