"""Our messages from AMQP's basic properties; the way back is in `frames`."""

from __future__ import annotations

from typing import Any

from backpressure.core.message import Message

__all__ = ["message_from"]

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
