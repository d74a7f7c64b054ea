"""Totals, and rates computed from them.

A rate is the difference of two readings of a total. Must not know: what is counted, the clock.
"""

from __future__ import annotations

from collections import Counter, deque

__all__ = ["Counters"]

WINDOW_S = 5.0
"""Rates are averages over about this time; RabbitMQ's management plugin samples every 5 s too."""


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
