"""Our messages as pika hands them over, where they came no shorter way (`incoming`); the way back is in `frames`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backpressure.core.message import Message
from backpressure.transports.rabbitmq.incoming import OnMessage

__all__ = ["by_pika", "message_from"]

_PERSISTENT = 2


def message_from(properties: Any, body: bytes) -> Message:
    """Return what was received; a foreign producer's malformed expiration counts as none."""
    expiration = properties.expiration
    return Message(
        body=body,
        message_id=properties.message_id,
        timestamp_s=properties.timestamp,
        headers=properties.headers or {},
        persistent=properties.delivery_mode == _PERSISTENT,
        content_type=properties.content_type,
        expiration_ms=int(expiration) if expiration and expiration.isdecimal() else None,
    )


def by_pika(on_message: OnMessage) -> Callable[[Any, Any, Any, bytes], None]:
    """Return the callback by which pika tells ``on_message`` of a delivery that `incoming` has left to it."""

    def on_delivery(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
        message = message_from(properties, body)
        on_message(message, method.delivery_tag, method.redelivered, method.exchange, method.routing_key)

    return on_delivery
