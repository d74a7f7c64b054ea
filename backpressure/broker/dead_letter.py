"""Dead-lettering: what a message becomes when its queue gives it up, and the history it carries.

May not know: queues, exchanges, routing. Source: RabbitMQ 3.10, ``rabbit_dead_letter`` and its documentation.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pamqp import decode

from backpressure.broker.message import Message
from backpressure.broker.properties import Timestamp, encode_value

__all__ = ["dead_lettered"]


def dead_lettered(
    message: Message, *, queue: str, reason: str, exchange: str, routing_key: str | None, epoch_s: int
) -> Message | None:
    """The message to publish to ``exchange``, or None when it has come full circle without a consumer's rejection.

    ``reason`` is ``maxlen``, ``expired``, ``rejected`` or ``delivery_limit``; ``routing_key`` None keeps the
    message's own. The entry in ``x-death`` is new, or counts one more and moves to the front.
    """
    properties = message.properties()
    headers = properties.headers()
    deaths = _deaths(headers.get(b"x-death"))
    if reason != "rejected" and _is_cycle(deaths, queue):
        return None
    entry = next((d for d in deaths if d.get("queue") == queue and d.get("reason") == reason), None)
    if entry is None:
        entry = {
            "count": 0,
            "reason": reason,
            "queue": queue,
            "time": Timestamp(epoch_s),
            "exchange": message.exchange,
            "routing-keys": [message.routing_key],
        }
        original = properties.text("expiration")
        if original is not None:
            entry["original-expiration"] = original
    else:
        deaths.remove(entry)
    entry["count"] += 1
    headers[b"x-death"] = encode_value([entry, *deaths])
    if b"x-first-death-reason" not in headers:
        for name, value in (("reason", reason), ("queue", queue), ("exchange", message.exchange)):
            headers[f"x-first-death-{name}".encode()] = encode_value(value)
    properties.set_headers(headers)
    properties.raw.pop("expiration", None)
    return Message(
        exchange,
        message.routing_key if routing_key is None else routing_key,
        properties.payload(),
        message.body,
        persistent=message.persistent,
    )


def _deaths(raw: bytes | None) -> list[dict[str, Any]]:
    """The entries of an ``x-death`` header; whatever a publisher forged there that is not its shape is ignored."""
    entries: list[dict[str, Any]] = []
    value: Any = decode.embedded_value(raw)[1] if raw else None
    for entry in value if isinstance(value, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("count"), int):
            known: dict[str, Any] = {key: value for key, value in entry.items() if isinstance(value, (str, int, list))}
            if isinstance(entry.get("time"), datetime):
                known["time"] = Timestamp(int(entry["time"].timestamp()))
            entries.append(known)
    return entries


def _is_cycle(deaths: list[dict[str, Any]], queue: str) -> bool:
    """Whether the message was in ``queue`` before and nobody rejected it since."""
    for position, death in enumerate(deaths):
        if death.get("queue") == queue:
            return all(d.get("reason") != "rejected" for d in deaths[: position + 1])
    return False
