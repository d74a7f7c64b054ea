"""What a channel needs of the connection it belongs to.

A protocol, so that the conversation is layered: publishing and consuming know it, a channel knows these two, and the
session, which is one, knows channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from backpressure.broker.handshake import SessionConfig
    from backpressure.broker.vhost import VirtualHost

__all__ = ["Confirming", "Peer"]


class Confirming(Protocol):
    """A channel that owes its client confirms."""

    def confirms(self) -> bytes:
        """The frames for all outcomes since the last call."""


class Peer(Protocol):
    """One client, as its channels see it."""

    vhost: VirtualHost
    config: SessionConfig
    identity: int
    user: str
    frame_max: int
    congested: bool
    """It does not read: deliveries would only pile up."""

    def send(self, data: bytes) -> None:
        """Queue bytes for the client."""

    def can(self, capability: str) -> bool:
        """Whether the client announced a capability."""

    def block(self) -> None:
        """It publishes during a memory alarm: read no more from it."""

    def confirm_later(self, publishing: Confirming) -> None:
        """A channel has outcomes to confirm with the next output."""

    def confirm_now(self, publishing: Confirming) -> None:
        """Send a channel's outcomes."""

    def forget(self, number: int) -> None:
        """A channel is closed on both sides."""
