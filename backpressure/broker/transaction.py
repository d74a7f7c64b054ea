"""What waits for the commit of a transactional channel: messages that were published, and deliveries that were settled.

As in RabbitMQ, messages are routed when they are published, a wrong delivery tag is refused at once, and only a commit
gives room in prefetch windows. It is a way to publish and settle together, not isolation: each queue acts by itself.
Must not know: frames, what a delivery is made of, how a message is enqueued or settled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backpressure.broker.entries import QueuedMessage
    from backpressure.broker.exchange import Exchange
    from backpressure.broker.queue import Queue

__all__ = ["Routed", "Settled", "Settling", "Transaction"]

Settling = Literal["ack", "requeue", "discard"]
AnyDelivery = TypeVar("AnyDelivery")


@dataclass(frozen=True, slots=True)
class Routed:
    """A message and the queues it reaches."""

    message: QueuedMessage
    exchange: Exchange
    queues: Sequence[Queue]
    mandatory: bool


@dataclass(frozen=True, slots=True)
class Settled(Generic[AnyDelivery]):
    """Deliveries by their tags, and what is to become of them."""

    how: Settling
    deliveries: dict[int, AnyDelivery]


@dataclass(slots=True)
class Transaction(Generic[AnyDelivery]):
    """Everything since the last commit or rollback."""

    published: list[Routed] = field(default_factory=list)
    settled: list[Settled[AnyDelivery]] = field(default_factory=list)

    def take_published(self) -> list[Routed]:
        """Return the messages and forget them."""
        taken, self.published = self.published, []
        return taken

    def take_settled(self) -> list[Settled[AnyDelivery]]:
        """Return the deliveries and forget them."""
        taken, self.settled = self.settled, []
        return taken
