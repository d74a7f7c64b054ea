"""What the queues still hold when all processes have ended: the last word of the loss ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from backpressure.core.message import Message, parse_message_id
from backpressure.errors import QueueNotFoundError
from backpressure.settings import QueueSettings
from backpressure.transports.base import QueueAdmin

__all__ = ["dead_letter_state", "read_remains"]

_REQUEUE_S = 0.25


async def read_remains(admin: QueueAdmin, queue: QueueSettings) -> AsyncIterator[tuple[int, int, str]]:
    """Empty work queue and dead-letter queue; yield session, sequence and state of every message of ours.

    States are those of `rundir.REMAINS`. Raises `TransportError`.
    """
    for again in (False, True):  # what a killed consumer held returns to its queue a moment after the connection closed
        if again:
            await asyncio.sleep(_REQUEUE_S)
        for name, is_work in ((queue.work, True), (queue.dead_letter, False)):
            try:
                async for delivery in admin.drain(name):
                    ids = parse_message_id(delivery.message.message_id)
                    if ids is not None:
                        yield *ids, "left_in_queue" if is_work else dead_letter_state(delivery.message)
            except QueueNotFoundError:
                continue


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
