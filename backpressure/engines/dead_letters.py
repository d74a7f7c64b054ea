"""Hands messages that failed for good to the dead-letter queue, with the reason, and waits until that is safe.

Rejecting the message would dead-letter it too, but without a word about why. A publisher of its own keeps an alarm that
blocks publishing from holding up acknowledgements.
"""

from __future__ import annotations

from backpressure.core.message import Message
from backpressure.engines.confirming import ConfirmingPublisher
from backpressure.errors import TransportError
from backpressure.transports.base import Transport

__all__ = ["ATTEMPTS_HEADER", "REASON_HEADER", "DeadLetters"]

REASON_HEADER = "x-pace-reason"
ATTEMPTS_HEADER = "x-pace-attempts"


class DeadLetters:
    """Publishes to the queue ``name`` through the default exchange; connects at the first message."""

    def __init__(self, transport: Transport, name: str) -> None:
        """``name`` is the dead-letter queue."""
        self._publisher = ConfirmingPublisher(transport)
        self._name = name

    async def send(self, message: Message, reason: str, attempts: int) -> None:
        """Publish ``message`` and return when the broker has it; raises `TransportError`.

        The answer may be long in coming, while the broker blocks publishing: asking again would only double it.
        """
        letter = message.with_headers({REASON_HEADER: reason, ATTEMPTS_HEADER: attempts})
        routed = await self._publisher.publish(letter, exchange="", routing_key=self._name)
        if not routed:
            raise TransportError(f"there is no dead-letter queue {self._name!r}")

    async def stop(self) -> None:
        """Close the connection, if there is one."""
        await self._publisher.stop()
