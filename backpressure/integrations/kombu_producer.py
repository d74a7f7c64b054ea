"""Kombu: `PacedProducer` in the place of ``kombu.Producer`` paces what is published."""

from __future__ import annotations

from typing import Any

from backpressure.errors import MissingExtraError
from backpressure.extras import lacks

if lacks("kombu"):
    raise MissingExtraError("kombu", "PacedProducer")

from kombu import Connection, Producer

from backpressure.integrations.paced_queues import PacedQueues

__all__ = ["PacedProducer", "address_of"]


class PacedProducer(Producer):
    """A producer that waits until the consumers of a queue have room.

    Messages to the default exchange are paced by their routing key, which is the queue's name; for others name the
    queue: ``publish(…, paced_queue="orders")``.
    """

    def __init__(self, channel: Any, *arguments: Any, paced: PacedQueues | None = None, **options: Any) -> None:
        """Do as `kombu.Producer`; ``paced``: limits and timeout, and what to close; None: the usual ones."""
        super().__init__(channel, *arguments, **options)
        self.paced = paced or PacedQueues(address_of(self.connection))

    def publish(  # what kombu takes, kombu describes
        self, body: Any, routing_key: str | None = None, *arguments: Any, paced_queue: str | None = None, **options: Any
    ) -> Any:
        """Wait for room, and publish; raises `BackpressureError` after the timeout of ``paced``."""
        exchange = options.get("exchange", self.exchange)
        direct = not (getattr(exchange, "name", exchange) or "")
        queue = paced_queue or ((routing_key or self.routing_key) if direct else None)
        limiter = self.paced.limiter(queue) if queue else None
        if limiter is None:
            return super().publish(body, routing_key, *arguments, **options)
        with limiter.sending(self.paced.timeout):
            return super().publish(body, routing_key, *arguments, **options)


def address_of(connection: Connection) -> str:
    """Return the address of a connection of kombu, password included."""
    url = str(connection.as_uri(include_password=True))
    scheme, _, rest = url.partition("://")
    return f"{'amqps' if connection.ssl else 'amqp'}://{rest}" if scheme in {"pyamqp", "amqp", "amqps"} else url
