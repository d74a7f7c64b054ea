"""The memory alarm: while messages in memory exceed the limit, publishers are blocked.

It counts what the queues hold (content octets plus a fixed cost per entry), not the process's RSS: Python returns freed
memory late, so an alarm on RSS might never end. Must not know: who publishes, how publishers are blocked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryAlarm"]

CLEAR_BELOW = 0.95
"""The alarm ends at this share of the limit, so that it does not start and end with every message."""


class MemoryAlarm:
    """A gauge of queued bytes that calls ``on_change`` whenever the alarm starts or ends."""

    def __init__(self, limit_bytes: int, on_change: Callable[[bool], None]) -> None:
        """``limit_bytes`` 0 disables the gauge; the alarm can then only be forced."""
        self.limit_bytes = limit_bytes
        self._ends_at_bytes = limit_bytes * CLEAR_BELOW
        self._on_change = on_change
        self._forced = False
        self.used_bytes = 0
        self.active = False

    @property
    def forced(self) -> bool:
        """Whether the alarm is on regardless of memory; experiments set this."""
        return self._forced

    @forced.setter
    def forced(self, value: bool) -> None:
        self._forced = value
        self._judge()

    def add(self, delta_bytes: int) -> None:
        """Account for bytes queued (positive) or released (negative)."""
        used_bytes = self.used_bytes = self.used_bytes + delta_bytes
        if self.active:
            if used_bytes <= self._ends_at_bytes:
                self._judge()
        elif used_bytes > self.limit_bytes:
            self._judge()

    def _judge(self) -> None:
        threshold = self._ends_at_bytes if self.active else self.limit_bytes
        active = self._forced or (self.limit_bytes > 0 and self.used_bytes > threshold)
        if active != self.active:
            self.active = active
            self._on_change(active)
