"""Sends one message at a time and returns when the broker has it: for people, not for throughput."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from backpressure.core.confirm_window import ConfirmWindow
from backpressure.core.message import Message
from backpressure.errors import QueueNotFoundError, RefusedError, TransportError
from backpressure.settings import QueueSettings
from backpressure.transports.base import Publisher, QueueAdmin, Transport

__all__ = ["Sender", "opened"]

Admin = TypeVar("Admin", bound=QueueAdmin)

_PATIENCE_S = 10.0
_MOST_IN_FLIGHT = 1000


@asynccontextmanager
async def opened(admin: Admin) -> AsyncIterator[Admin]:
    """Start ``admin`` for the length of a block; raises `TransportError`."""
    try:
        await admin.start()
        yield admin
    finally:
        await admin.stop()


@dataclass(slots=True)
class _Sending:
    message_id: str | None
    settled: asyncio.Future[None]
    returned: bool = False


class Sender:
    """A publisher that connects when it is first used. Its transport should not wait for a broker (``broker.wait``)."""

    def __init__(self, transport: Transport, declare: Callable[[], Awaitable[None]]) -> None:
        """``declare`` creates what is published to; it runs before the first message, and again after a loss."""
        self._transport = transport
        self._declare = declare
        self._declared = False
        self._preparing = asyncio.Lock()
        self._publisher: Publisher | None = None
        self._in_flight: ConfirmWindow[_Sending] = ConfirmWindow(_MOST_IN_FLIGHT)
        self._blocked = ""

    async def prepare(self) -> None:
        """Connect and declare, where that has not been done yet; raises `TransportError`."""
        async with self._preparing:
            if not self._declared:
                await self._declare()
                self._declared = True
            if self._publisher is None:
                publisher = self._transport.publisher()
                try:
                    await publisher.start(self)
                except BaseException:
                    await publisher.stop()
                    raise
                self._publisher = publisher

    async def send(self, message: Message, *, exchange: str, routing_key: str) -> bool:
        """Publish and return, once the broker has confirmed, whether any queue was bound.

        Raises:
            RefusedError: the queue is full.
            TransportError: no broker, an alarm, or no answer; in the last two cases the message may still arrive.
        """
        await self.prepare()
        assert self._publisher is not None
        if self._blocked:
            raise TransportError(self._blocked)
        if not self._in_flight.space:
            raise TransportError(f"{_MOST_IN_FLIGHT} messages wait for the broker's confirm already")
        tag = self._publisher.publish(message, exchange=exchange, routing_key=routing_key)
        sending = _Sending(message.message_id, asyncio.get_running_loop().create_future())
        self._in_flight.sent(tag, sending)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await sending.settled
        except TimeoutError:
            raise TransportError(
                f"{self._transport.address} did not confirm within {_PATIENCE_S:g} s: the message may still arrive"
            ) from None
        if sending.returned:
            self._declared = False  # somebody deleted what was declared: it is made again before the next message
        return not sending.returned

    async def put(self, message: Message, queue: QueueSettings) -> None:
        """Publish to ``queue`` as `send` does; raises `QueueNotFoundError` as well, when somebody has deleted it."""
        if not await self.send(message, exchange=queue.exchange, routing_key=queue.routing_key):
            raise QueueNotFoundError(queue.work)

    async def stop(self) -> None:
        """Close the connection, if there is one."""
        if self._publisher is not None:
            await self._publisher.stop()

    def on_ready(self) -> None:
        """A new connection: no alarm is known on it."""
        self._blocked = ""

    def on_confirmed(self, tag: int, multiple: bool) -> None:
        """The broker has it."""
        for sending in self._in_flight.settle(tag, multiple=multiple):
            if not sending.settled.done():
                sending.settled.set_result(None)

    def on_nacked(self, tag: int, multiple: bool) -> None:
        """The broker will not have it."""
        self._fail(self._in_flight.settle(tag, multiple=multiple), RefusedError("the queue is full"))

    def on_returned(self, message_id: str | None, reason: str) -> None:  # noqa: ARG002 - there is one reason only
        """No queue is bound there; the confirm follows."""
        for sending in self._in_flight.items():
            if sending.message_id == message_id:
                sending.returned = True

    def on_blocked(self, reason: str) -> None:
        """An alarm: what is in flight arrives when it is over, but nobody should wait for that."""
        self._blocked = f"{self._transport.address} takes no messages now ({reason}); what was sent may arrive later"
        self._fail(self._in_flight.items(), TransportError(self._blocked))

    def on_unblocked(self) -> None:
        """The alarm is over."""
        self._blocked = ""

    def on_lost(self, error: Exception) -> None:
        """Nothing in flight will be confirmed, and a broker that comes back may have forgotten its queues."""
        self._declared = False
        self._fail(self._in_flight.lost(), TransportError(f"{error}; the message may have arrived"))

    @staticmethod
    def _fail(failed: list[_Sending], error: TransportError) -> None:
        for sending in failed:
            if not sending.settled.done():
                sending.settled.set_exception(error)
