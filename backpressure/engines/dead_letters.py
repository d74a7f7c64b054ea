"""Publishes messages that failed for good to the dead-letter queue, with the reason, and waits for the confirm.

Rejecting a message would dead-letter it too, but without the reason; that is left for messages that cannot be published
(`UncarriableError`). The publisher has its own connection, so that an alarm that blocks publishing does not delay
acknowledgements.
"""

from __future__ import annotations

from backpressure.core.message import Delivery
from backpressure.engines.confirming import ConfirmingPublisher
from backpressure.errors import TransportError, UncarriableError
from backpressure.settings import QueueSettings
from backpressure.transports.base import Transport

__all__ = ["ATTEMPTS_HEADER", "REASON_HEADER", "DeadLetters"]

REASON_HEADER = "x-pace-reason"
ATTEMPTS_HEADER = "x-pace-attempts"
_LONGEST_REASON = 1000  # characters: headers have to fit in one frame


class DeadLetters:
    """Publishes to the dead-letter queue through the default exchange; connects at the first message."""

    def __init__(self, transport: Transport, queue: QueueSettings) -> None:
        """``queue`` names the work queue, and the one for dead letters."""
        self._transport = transport
        self._publisher = ConfirmingPublisher(transport)
        self._work = queue.work
        self._dead_letter = queue.dead_letter

    async def send(self, delivery: Delivery, reason: str, attempts: int) -> None:
        """Publish what was delivered and return when the broker has it; raises `TransportError`.

        The confirm may take long while the broker blocks publishing: sending again would only double the message.
        Raises `UncarriableError` for what the broker has to dead-letter itself, because it cannot be published.
        """
        readable = reason[:_LONGEST_REASON].encode(errors="backslashreplace").decode()
        try:
            letter = self._transport.dead_letter(
                delivery, self._work, {REASON_HEADER: readable, ATTEMPTS_HEADER: attempts}
            )
        except ValueError as error:
            raise UncarriableError(str(error)) from error
        routed = await self._publisher.publish(letter, exchange="", routing_key=self._dead_letter)
        if not routed:
            raise TransportError(f"there is no dead-letter queue {self._dead_letter!r}")

    async def stop(self) -> None:
        """Close the connection, if there is one."""
        await self._publisher.stop()
