"""Prefetch: how many deliveries a consumer, or all consumers of a channel, may hold without acknowledging.

May not know: queues, channels, frames.
"""

from __future__ import annotations

__all__ = ["Prefetch"]


class Prefetch:
    """A window of unacknowledged deliveries; limit 0 means no limit."""

    __slots__ = ("limit", "unacked")

    def __init__(self, limit: int = 0) -> None:
        """``limit`` is in messages."""
        self.limit = limit
        self.unacked = 0

    @property
    def full(self) -> bool:
        """Whether one more delivery would exceed the limit."""
        return 0 < self.limit <= self.unacked
