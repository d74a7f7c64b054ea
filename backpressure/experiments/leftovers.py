"""The leftover messages: what the queues still hold when all processes have ended. The loss ledger needs them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from backpressure.core.message import Message, parse_message_id
from backpressure.errors import BrokerUnavailableError, NotConnectedError, QueueNotFoundError
from backpressure.settings import QueueSettings
from backpressure.transports.base import QueueAdmin

__all__ = ["dead_letter_state", "read_leftovers"]

_REQUEUE_S = 0.25
_POLL_S = 0.1


async def read_leftovers(
    admin: QueueAdmin, queue: QueueSettings, *, patience_s: float = 20.0
) -> AsyncIterator[tuple[int, int, str]]:
    """Empty the work queue and the dead-letter queue; yield session, sequence and state of every message of ours.

    States are those of `rundir.LEFTOVER_STATES`. After an outage our own connection may come back later than the
    broker: ``patience_s`` is how long to wait for it. A message may then be yielded again. Raises `TransportError`.
    """
    for again in (False, True):  # what a killed consumer held is requeued a moment after its connection closed
        if again:
            await asyncio.sleep(_REQUEUE_S)
        for name, is_work in ((queue.work, True), (queue.dead_letter, False)):
            async for message in _emptied(admin, name, patience_s):
                ids = parse_message_id(message.message_id)
                if ids is not None:
                    yield *ids, "left_in_queue" if is_work else dead_letter_state(message)


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
