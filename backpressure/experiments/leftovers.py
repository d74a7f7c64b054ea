"""The leftover messages: what the queues still hold when all processes have ended. The loss ledger needs them all.

On queues that somebody else has declared a run takes nothing but its own messages. So these have to be empty when it
begins, and nobody else may consume from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from backpressure.core.message import Delivery, Message, parse_message_id
from backpressure.errors import BrokerUnavailableError, ExperimentError, NotConnectedError, QueueNotFoundError
from backpressure.settings import QueueSettings
from backpressure.transports.base import QueueAdmin, Transport

_REQUEUE_S = 0.25
_POLL_S = 0.1
_MOST_HELD = 65_535  # the largest prefetch in AMQP


async def read_leftovers(
    admin: QueueAdmin,
    queue: QueueSettings,
    *,
    patience_s: float = 20.0,
    foreign: Callable[[Message, str], None] = lambda _message, _state: None,
) -> AsyncIterator[tuple[int, int, str]]:
    """Empty the work queue and the dead-letter queue; yield session, sequence and state of every message of ours.

    States are those of `rundir.LEFTOVER_STATES`. After an outage our own connection may come back later than the
    broker: ``patience_s`` is how long to wait for it. A message may then be yielded again. ``foreign`` is called with
    every message of others and its state. Raises `TransportError`.
    """
    for again in (False, True):  # what a killed consumer held is requeued a moment after its connection closed
        if again:
            await asyncio.sleep(_REQUEUE_S)
        for name, is_work in ((queue.work, True), (queue.dead_letter, False)):
            async for message in _emptied(admin, name, patience_s):
                ids = parse_message_id(message.message_id)
                state = "left_in_queue" if is_work else dead_letter_state(message)
                if ids is not None:
                    yield *ids, state
                else:
                    foreign(message, state)


async def _emptied(admin: QueueAdmin, name: str, patience_s: float) -> AsyncIterator[Message]:
    loop = asyncio.get_running_loop()
    patience_ends = loop.time() + patience_s
    while True:
        try:
            async for delivery in admin.drain(name):
                yield delivery.message
        except QueueNotFoundError:
            return
        except (NotConnectedError, BrokerUnavailableError):
            if loop.time() >= patience_ends:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return


async def check_unused(transport: Transport, queue: QueueSettings, *, consumed: bool = False) -> None:
    """Raise `ExperimentError` unless the queues that somebody else has declared are there, empty and not consumed.

    ``consumed``: the consumers that are there are those to be tested.
    """
    admin, probe = transport.admin(), transport.probe()
    try:
        await admin.start()
        keys = queue.bindings
        await admin.look(queue.work, exchange=queue.exchange, keys=keys, dead_letter=queue.dead_letter)
        await probe.start()
        for name in (queue.work, queue.dead_letter):
            try:
                reading = await probe.read(name)
            except QueueNotFoundError:
                continue
            if reading.ready or (reading.consumers and not consumed):
                raise ExperimentError(
                    f"queue {name!r} is in use ({reading.ready} messages, {reading.consumers} consumers), and a run "
                    "would take messages of others: give it a queue that is empty and that nobody consumes"
                )
    finally:
        await admin.stop()
        await probe.stop()


class _Taken:
    """Collects what a subscriber delivers."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def on_ready(self) -> None:
        """Nothing to do: consuming has begun."""

    def on_delivery(self, delivery: Delivery) -> None:
        """Keep the message."""
        self.deliveries.append(delivery)

    def on_lost(self, error: Exception) -> None:
        """Nothing to do: the subscriber connects again."""


async def read_own_leftovers(transport: Transport, queue: QueueSettings) -> AsyncIterator[tuple[int, int, str]]:
    """Take our messages out of queues that somebody else has declared, and yield them as `read_leftovers` does.

    All other messages are held meanwhile and go back to their place. Raises `TransportError`.
    """
    probe = transport.probe()
    try:
        await probe.start()
        for name, is_work in ((queue.work, True), (queue.dead_letter, False)):
            subscriber, taken, others, quiet = transport.subscriber(), _Taken(), 0, False
            try:
                await probe.read(name)
                await subscriber.start(taken, queue=name, prefetch=_MOST_HELD)
                while not quiet and others < _MOST_HELD:
                    await asyncio.sleep(_REQUEUE_S)
                    arrived, taken.deliveries = taken.deliveries, []
                    for delivery in arrived:
                        ids = parse_message_id(delivery.message.message_id)
                        if ids is None:
                            others += 1
                            continue
                        subscriber.ack(delivery)
                        yield *ids, "left_in_queue" if is_work else dead_letter_state(delivery.message)
                    quiet = not arrived and not (await probe.read(name)).ready
            except QueueNotFoundError:
                continue
            finally:
                await subscriber.stop()
    finally:
        await probe.stop()


def dead_letter_state(message: Message) -> str:
    """Say why a message is in the dead-letter queue: "dropped" by a bound or a time-to-live, else "dead_lettered"."""
    deaths = message.headers.get("x-death")
    latest = deaths[0] if isinstance(deaths, list) and deaths else None
    if "x-pace-reason" in message.headers or not isinstance(latest, dict):
        return "dead_lettered"
    reason = latest.get("reason")
    if isinstance(reason, bytes):
        reason = reason.decode("ascii", "replace")
    return "dropped" if reason in {"maxlen", "expired"} else "dead_lettered"
