"""What a channel, its publishing and its consuming share: the connection they belong to, and an open transaction.

`Session` implements `Peer`. Channels use this protocol instead, so that imports go one way. Must not know: frames, what
a delivery is made of, how a message is enqueued or settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from backpressure.broker.entries import QueuedMessage
from backpressure.broker.exchange import Exchange
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.queue import Queue
from backpressure.broker.vhost import VirtualHost


class Confirming(Protocol):
    """A channel with confirms to send."""

    def confirms(self) -> bytes:
        """Return the frames for all outcomes since the last call."""


class Peer(Protocol):
    """A connection, as seen by its channels."""

    vhost: VirtualHost
    config: SessionConfig
    identity: int
    user: str
    frame_max: int
    congested: bool
    """Whether the client does not read, so that deliveries would pile up."""

    def send(self, data: bytes) -> None:
        """Queue bytes for the client."""

    def can(self, capability: str) -> bool:
        """Whether the client announced a capability."""

    def block(self) -> None:
        """Block a connection that publishes during a memory alarm."""

    def confirm_later(self, publishing: Confirming) -> None:
        """A channel has outcomes to confirm with the next output."""

    def confirm_now(self, publishing: Confirming) -> None:
        """Send a channel's outcomes."""

    def forget(self, number: int) -> None:
        """A channel is closed on both sides."""


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
    """Everything since the last commit or rollback: messages that were published, deliveries that were settled.

    As in RabbitMQ, messages are routed when they are published, a wrong delivery tag is refused at once, and only a
    commit gives room in prefetch windows. It is a way to publish and settle together, not isolation: each queue acts by
    itself.
    """

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
