"""A message, and its entry in one queue.

The content is opaque: header and body are the octets the publisher sent. May not know: queues, channels, frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backpressure.amqp.properties import Properties
from backpressure.amqp.tables import short_string

if TYPE_CHECKING:
    from backpressure.amqp.tables import RawTable

__all__ = ["ENTRY_COST_BYTES", "Entry", "Message"]

ENTRY_COST_BYTES = 400
"""What an entry and its message cost besides their content: measured for small messages on CPython 3.11."""


class Message:
    """What was published: one object, shared by all queues it was routed to."""

    __slots__ = ("body", "exchange", "expiration_s", "header", "persistent", "route", "routing_key")

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        header: bytes,
        body: bytes,
        *,
        route: bytes = b"",
        persistent: bool = False,
        expiration_s: float | None = None,
    ) -> None:
        """``header`` is the content header frame's payload; ``route`` exchange and key as two short strings."""
        self.exchange = exchange
        self.routing_key = routing_key
        self.route = route or short_string(exchange) + short_string(routing_key)
        self.header = header
        self.body = body
        self.persistent = persistent
        self.expiration_s = expiration_s

    @property
    def cost_bytes(self) -> int:
        """About what one queued copy costs in memory."""
        return len(self.header) + len(self.body) + ENTRY_COST_BYTES

    def properties(self) -> Properties:
        """The properties, parsed anew."""
        return Properties.parse(self.header)

    def headers(self) -> RawTable:
        """The headers table, values undecoded."""
        return self.properties().headers()


class Entry:
    """A message's place in one queue."""

    __slots__ = ("delivery_count", "expires_at_s", "message", "redelivered", "sequence", "stored")

    def __init__(self, sequence: int, message: Message) -> None:
        """``sequence`` orders the queue; ``expires_at_s`` is set by it, on the broker's clock."""
        self.sequence = sequence
        self.message = message
        self.expires_at_s: float | None = None
        self.redelivered = False
        self.delivery_count = 0
        self.stored = False

    def __lt__(self, other: Entry) -> bool:
        return self.sequence < other.sequence
