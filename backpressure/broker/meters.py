"""What is measured: totals with the rates computed from them, and queued memory with its alarm.

A rate is the difference of two readings of a total. Memory is what the queues hold (content octets plus a fixed cost
per entry), not the process's RSS: Python returns freed memory late, so an alarm on RSS might never end. Must not know:
what is counted, the clock, how publishers are blocked.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

WINDOW_S = 5.0
"""Rates are averages over about this time; RabbitMQ's management plugin samples every 5 s too."""
CLEAR_BELOW = 0.95
"""The alarm ends at this share of the limit, so that it does not start and end with every message."""


class Counters:
    """Named totals with a short history."""

    __slots__ = ("_history", "totals")

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._history: deque[tuple[float, dict[str, int]]] = deque()

    def sample(self, now: float) -> None:
        """Record the totals at ``now`` (seconds); call it about once a second."""
        history = self._history
        history.append((now, dict(self.totals)))  # copying a Counter takes ten times as long
        while len(history) > 1 and history[1][0] <= now - WINDOW_S:
            history.popleft()

    def rate(self, name: str, now: float) -> float:
        """Return events per second over the last few seconds; 0.0 before the first sample."""
        if not self._history:
            return 0.0
        since, then = self._history[0]
        elapsed_s = now - since
        return (self.totals[name] - then.get(name, 0)) / elapsed_s if elapsed_s > 0 else 0.0

    def report(self, now: float) -> dict[str, object]:
        """Return Return RabbitMQ's ``message_stats`` object: each total, and ``<name>_details.rate``."""
        stats: dict[str, object] = {}
        for name, total in self.totals.items():
            stats[name] = total
            stats[f"{name}_details"] = {"rate": round(self.rate(name, now), 1)}
        return stats


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
