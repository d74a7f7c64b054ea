"""Publishing into a broker in this process."""

from __future__ import annotations

import asyncio

from backpressure.core.message import Message
from backpressure.errors import NotConnectedError
from backpressure.transports.base import PublisherListener
from backpressure.transports.memory.memory_broker import MemoryBroker

__all__ = ["MemoryPublisher"]


class MemoryPublisher:
    """A `Publisher`. Messages reach the broker, and are confirmed, in the next iteration of the event loop."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._listener: PublisherListener
        self._tag = 0
        self._epoch = 0
        self._held: list[tuple[int, Message, str, str]] = []
        self.ready = False

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes that are held back by an alarm."""
        return sum(len(message.body) for _tag, message, _exchange, _key in self._held)

    async def start(self, listener: PublisherListener) -> None:
        """See `Publisher.start`."""
        self._listener = listener
        self._broker.clients.append(self)
        self._connect()

    def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
        """See `Publisher.publish`."""
        if not self.ready:
            raise NotConnectedError("not connected to the broker in this process")
        self._tag += 1
        publication = (self._tag, message, exchange, routing_key)
        if self._broker.alarm:
            if not self._held:
                asyncio.get_running_loop().call_soon(self._listener.on_blocked, self._broker.alarm)
            self._held.append(publication)
        else:
            asyncio.get_running_loop().call_soon(self._hand_over, self._epoch, publication)
        return self._tag

    async def stop(self) -> None:
        """See `Publisher.stop`."""
        await asyncio.sleep(0)  # let the last messages reach the broker
        self.ready = False
        self._epoch += 1
        if self in self._broker.clients:
            self._broker.clients.remove(self)

    def lose(self, reason: str) -> None:
        """See `MemoryClient.lose`."""
        self.ready = False
        self._epoch += 1
        self._held.clear()
        self._listener.on_lost(NotConnectedError(f"lost the broker in this process ({reason})"))
        asyncio.get_running_loop().call_soon(self._connect)

    def on_alarm_over(self) -> None:
        """See `MemoryClient.on_alarm_over`."""
        if not self._held:
            return
        for publication in self._held:
            asyncio.get_running_loop().call_soon(self._hand_over, self._epoch, publication)
        self._held.clear()
        self._listener.on_unblocked()

    def _connect(self) -> None:
        if self in self._broker.clients and not self.ready:
            self.ready = True
            self._tag = 0
            self._listener.on_ready()

    def _hand_over(self, epoch: int, publication: tuple[int, Message, str, str]) -> None:
        tag, message, exchange, routing_key = publication
        if epoch != self._epoch:
            return  # it was lost with its connection
        if exchange and exchange not in self._broker.bindings:
            self.lose(f"NOT_FOUND - no exchange '{exchange}' in vhost '/'")
            return
        routed, accepted = self._broker.publish(message, exchange, routing_key)
        if not routed:
            self._listener.on_returned(message.message_id, "NO_ROUTE (312)")
        if accepted:
            self._listener.on_confirmed(tag, multiple=False)
        else:
            self._listener.on_nacked(tag, multiple=False)
