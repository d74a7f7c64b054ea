"""Dead-lettering: what becomes of a message that a queue rejects, expires or drops.

Must not know: queues, exchanges, routing. Source: RabbitMQ 3.10, ``rabbit_dead_letter`` and its documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backpressure.amqp.deaths import deaths_of, is_cycle, record_death
from backpressure.broker.entries import QueuedMessage

if TYPE_CHECKING:
    from backpressure.amqp.field_tables import RawTable

__all__ = ["DeadLetter"]


class DeadLetter:
    """A message to be routed to the dead-letter exchange."""

    def __init__(
        self, message: QueuedMessage, *, queue: str, reason: str, exchange: str, routing_key: str | None, epoch_s: int
    ) -> None:
        """``reason`` is ``maxlen``, ``expired``, ``rejected`` or ``delivery_limit``.

        ``routing_key`` None keeps the message's own.
        """
        properties = message.properties()
        record_death(
            properties,
            queue=queue,
            reason=reason,
            exchange=message.exchange,
            routing_keys=[message.routing_key],
            epoch_s=epoch_s,
        )
        self.message = QueuedMessage(
            exchange,
            message.routing_key if routing_key is None else routing_key,
            properties.payload(),
            message.body,
            persistent=message.persistent,
        )
        self._deaths: list[RawTable] = [] if reason == "rejected" else deaths_of(properties.headers())

    def may_enter(self, queue: str) -> bool:
        """Whether it has not been there before, or was rejected since; this prevents endless cycles."""
        return not is_cycle(self._deaths, queue)
