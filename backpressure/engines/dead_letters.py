"""Hands messages that failed for good to the dead-letter queue, with the reason, and waits until that is safe.

Rejecting the message would dead-letter it too, but without a word about why. A publisher of its own keeps an alarm that
blocks publishing from holding up acknowledgements.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from backpressure.core.confirm_window import ConfirmWindow
from backpressure.core.message import Message
from backpressure.errors import TransportError
from backpressure.transports.base import Transport

__all__ = ["ATTEMPTS_HEADER", "REASON_HEADER", "DeadLetters"]

REASON_HEADER = "x-pace-reason"
ATTEMPTS_HEADER = "x-pace-attempts"

_MOST_IN_FLIGHT = 1000


class DeadLetters:
    """Publishes to the queue ``name`` through the default exchange; connects at the first message."""

    def __init__(self, transport: Transport, name: str) -> None:
        """``name`` is the dead-letter queue."""
        self._publisher = transport.publisher()
        self._name = name
        self._starting = asyncio.Lock()
        self._started = False
        self._window: ConfirmWindow[asyncio.Future[None]] = ConfirmWindow(_MOST_IN_FLIGHT)
        self._returned: set[str | None] = set()

    async def send(self, message: Message, reason: str, attempts: int) -> None:
        """Publish ``message`` and return when the broker has it; raises `TransportError`.

        The answer may be long in coming, while the broker blocks publishing: asking again would only double it.
        """
        async with self._starting:
            if not self._started:
                self._started = True
                await self._publisher.start(self)
        headers = {**message.headers, REASON_HEADER: reason, ATTEMPTS_HEADER: attempts}
        tag = self._publisher.publish(replace(message, headers=headers), exchange="", routing_key=self._name)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._window.sent(tag, future)
        await future
        if message.message_id in self._returned:
            self._returned.discard(message.message_id)
            raise TransportError(f"there is no dead-letter queue {self._name!r}")

    async def stop(self) -> None:
        """Close the connection, if there is one."""
        if self._started:
            await self._publisher.stop()

    def on_ready(self) -> None:
        """Tags count from 1 again; nothing else to do."""

    def on_confirmed(self, tag: int, multiple: bool) -> None:
        """The broker has it."""
        for future in self._window.settle(tag, multiple=multiple):
            if not future.done():
                future.set_result(None)

    def on_nacked(self, tag: int, multiple: bool) -> None:
        """The dead-letter queue is full or the broker could not take it."""
        self._fail(self._window.settle(tag, multiple=multiple), "the broker refused it")

    def on_returned(self, message_id: str | None, reason: str) -> None:  # noqa: ARG002 - told by the missing queue
        """The dead-letter queue does not exist; the confirm follows."""
        self._returned.add(message_id)

    def on_blocked(self, reason: str) -> None:
        """An alarm: `send` waits."""

    def on_unblocked(self) -> None:
        """The alarm is over: what was waited for will be confirmed."""

    def on_lost(self, error: Exception) -> None:
        """Nothing in flight will be confirmed."""
        self._fail(self._window.lost(), str(error))

    @staticmethod
    def _fail(futures: list[asyncio.Future[None]], reason: str) -> None:
        for future in futures:
            if not future.done():
                future.set_exception(TransportError(reason))
