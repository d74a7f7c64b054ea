"""What a channel needs of the connection it belongs to.

`Session` implements it. Publishing, consuming and the channel use this protocol instead, so that imports go one way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from backpressure.broker.handshake import SessionConfig
    from backpressure.broker.vhost import VirtualHost

__all__ = ["Confirming", "Peer"]


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
