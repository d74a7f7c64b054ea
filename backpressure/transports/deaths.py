"""The header ``x-death`` of RabbitMQ, for dead letters on brokers that do not write it: in memory and on Kafka."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from backpressure.core.message import HeaderValue, Message


def dead_letter(
    message: Message,
    *,
    queue: str,
    reason: str,
    exchange: str,
    routing_key: str,
    headers: Mapping[str, HeaderValue] | None = None,
) -> Message:
    """Return ``message`` as a dead letter of ``queue``, with ``headers`` added and without an expiration."""
    deaths = death_headers(
        message.headers,
        queue=queue,
        reason=reason,
        exchange=exchange,
        routing_key=routing_key,
        expiration_ms=message.expiration_ms,
    )
    return replace(message.with_headers({**(headers or {}), **deaths}), expiration_ms=None)


def death_headers(
    headers: Mapping[str, HeaderValue],
    *,
    queue: str,
    reason: str,
    exchange: str,
    routing_key: str,
    expiration_ms: int | None = None,
) -> dict[str, HeaderValue]:
    """Return the headers that say where and why a message with ``headers`` died, the latest death first."""
    earlier = headers.get("x-death")
    deaths = [death for death in earlier if isinstance(death, dict)] if isinstance(earlier, list) else []
    death = next((each for each in deaths if (each.get("queue"), each.get("reason")) == (queue, reason)), None)
    if death is not None:
        others = [each for each in deaths if each is not death]
        count = death.get("count")
        death = death | {"count": count + 1 if isinstance(count, int) else 1}
    else:
        others = deaths
        death = {
            "count": 1,
            "reason": reason,
            "queue": queue,
            "time": int(time.time()),
            "exchange": exchange,
            "routing-keys": [routing_key],
        }
        if expiration_ms is not None:
            death["original-expiration"] = str(expiration_ms)
    told: dict[str, HeaderValue] = {"x-death": [death, *others]}
    if "x-first-death-reason" not in headers:
        told |= {"x-first-death-reason": reason, "x-first-death-queue": queue, "x-first-death-exchange": exchange}
    return told
