"""A received message as a dead letter: octet for octet as it came, but for what a broker acts on when it is published.

The expiration would let the dead letter vanish, so it moves into ``x-death``. The user id is checked against the login,
so that of another user becomes a header. The header ``CC`` would send copies to other queues once more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from backpressure.amqp.deaths import record_death
from backpressure.amqp.properties import Properties
from backpressure.amqp.reading import read_value
from backpressure.amqp.tables import encode_value
from backpressure.core.message import Delivery, HeaderValue

__all__ = ["dead_letter_header"]

_USER_ID_HEADER = b"x-pace-user-id"


def dead_letter_header(delivery: Delivery, queue: str, user: str, more: Mapping[str, HeaderValue]) -> bytes:
    """Return the content header of ``delivery`` as a dead letter of ``queue``, with the headers ``more``.

    Args:
        delivery: what came, with its content header.
        queue: where it came from.
        user: whose login publishes it.
        more: headers to add.

    Raises:
        ValueError: its properties cannot be told apart.
    """
    assert isinstance(delivery.native, bytes)
    properties = Properties.parse(delivery.native)
    headers = properties.headers()
    raw_copies = headers.pop(b"CC", b"V")
    copies = read_value(raw_copies, 0, len(raw_copies))
    routing_keys = [delivery.routing_key, *(copies if isinstance(copies, list) else [])]
    headers.pop(b"BCC", None)
    if properties.text("user_id") not in {None, user}:
        sender = properties.raw.pop("user_id")
        headers[_USER_ID_HEADER] = b"S\0\0\0" + sender
    headers |= {name.encode(): encode_value(value) for name, value in more.items()}
    properties.set_headers(headers)
    record_death(
        properties,
        queue=queue,
        reason="rejected",
        exchange=delivery.exchange,
        routing_keys=[key for key in routing_keys if isinstance(key, str)],
        epoch_s=int(time.time()),
    )
    return properties.payload()
