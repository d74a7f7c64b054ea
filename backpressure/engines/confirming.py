"""Publishers for single messages: the caller waits for the confirm of each. Not for throughput.

They connect at the first message, and return the broker's answer to each. What to do about an alarm or a missing queue
is the caller's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from backpressure.core.limiters import ConfirmWindow
from backpressure.core.message import Delivery, Message
from backpressure.errors import AccessRefusedError, RefusedError, TransportError, UncarriableError
from backpressure.settings import QueueSettings
from backpressure.transports.base import FULL, Cause, Publisher, Refusal, Transport

_MOST_IN_FLIGHT = 1000


@dataclass(slots=True)
class _Sending:
    message_id: str | None
    settled: asyncio.Future[None]
    returned: bool = False


class ConfirmingPublisher:
    """Publishes, and waits for the broker's answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._connecting = asyncio.Lock()
        self._publisher: Publisher | None = None
        self._in_flight: ConfirmWindow[_Sending] = ConfirmWindow(_MOST_IN_FLIGHT)

    async def connect(self) -> None:
        """Connect, where that has not been done yet; raises `TransportError`."""
        async with self._connecting:
            if self._publisher is None:
                publisher = self._transport.publisher()
                try:
                    await publisher.start(self)
                except BaseException:
                    await publisher.stop()
                    raise
                self._publisher = publisher

    async def publish(self, message: Message, *, exchange: str, routing_key: str) -> bool:
        """Publish, and return after the confirm whether any queue was bound; connects first where necessary.

        Raises:
            RefusedError: the queue is full. UncarriableError: the broker can never carry this message. TransportError:
            the broker refuses it, for the reason in the text; not connected, too much in flight, or the connection was
            lost: it may have arrived.
        """
        await self.connect()
        assert self._publisher is not None
        if not self._in_flight.space:
            raise TransportError(f"{_MOST_IN_FLIGHT} messages wait for the broker's confirm already")
        try:
            tag = self._publisher.publish(message, exchange=exchange, routing_key=routing_key)
        except ValueError as error:
            raise UncarriableError(str(error)) from error
        sending = _Sending(message.message_id, asyncio.get_running_loop().create_future())
        self._in_flight.sent(tag, sending)
        await sending.settled
        return not sending.returned

    async def stop(self) -> None:
        """Close the connection, if there is one."""
        if self._publisher is not None:
            await self._publisher.stop()

    def on_ready(self) -> None:
        """A new connection: tags count from 1 again, which the window knows."""

    def on_confirmed(self, tag: int, multiple: bool) -> None:
        """The broker has it."""
        for sending in self._in_flight.settle(tag, multiple=multiple):
            if not sending.settled.done():
                sending.settled.set_result(None)

    def on_nacked(self, tag: int, multiple: bool, refusal: Refusal = FULL) -> None:
        """The broker refuses it."""
        final = UncarriableError if refusal.final else TransportError
        kind = RefusedError if refusal.cause is Cause.FULL else final
        _fail(self._in_flight.settle(tag, multiple=multiple), kind(refusal.reason))

    def on_returned(self, message_id: str | None, reason: str) -> None:  # noqa: ARG002 - there is one reason only
        """No queue is bound there; the confirm follows."""
        for sending in self._in_flight.items():
            if sending.message_id == message_id:
                sending.returned = True

    def on_blocked(self, reason: str) -> None:
        """An alarm: what is in flight arrives when it is over."""

    def on_unblocked(self) -> None:
        """The alarm is over: what was waited for will be confirmed."""

    def on_lost(self, error: Exception) -> None:
        """Nothing in flight will be confirmed; where the user may not publish, nothing ever will be."""
        refused = isinstance(error, AccessRefusedError)
        failure = UncarriableError(str(error)) if refused else TransportError(f"{error}; the message may have arrived")
        _fail(self._in_flight.lost(), failure)

    def give_up(self, error: TransportError) -> None:
        """Wait no longer for what is in flight, which may arrive all the same."""
        _fail(self._in_flight.items(), error)


def _fail(failed: Iterable[_Sending], error: TransportError) -> None:
    for sending in failed:
        if not sending.settled.done():
            sending.settled.set_exception(error)


REASON_HEADER = "x-pace-reason"
ATTEMPTS_HEADER = "x-pace-attempts"
_LONGEST_REASON = 1000  # characters: headers have to fit in one frame


class DeadLetters:
    """Publishes messages that failed for good to the dead-letter queue, with the reason, through the default exchange.

    Rejecting a message would dead-letter it too, but without the reason; that is left for messages that cannot be
    published (`UncarriableError`). The publisher has its own connection, so that an alarm that blocks publishing does
    not delay acknowledgements.
    """

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
