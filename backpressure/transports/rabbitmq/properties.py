"""Between our messages and AMQP's basic properties."""

from __future__ import annotations

from typing import Any

from pika import BasicProperties

from backpressure.core.message import Message

__all__ = ["message_from", "properties_of"]

_TRANSIENT, _PERSISTENT = 1, 2


def properties_of(message: Message) -> BasicProperties:
    """Return the properties to publish ``message`` with."""
    return BasicProperties(  # type: ignore[no-untyped-call]  # pika leaves its constructor untyped
        content_type=message.content_type,
        headers=dict(message.headers) or None,
        delivery_mode=_PERSISTENT if message.persistent else _TRANSIENT,
        expiration=None if message.expiration_ms is None else str(message.expiration_ms),
        message_id=message.message_id,
        timestamp=message.timestamp_s,
    )


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
