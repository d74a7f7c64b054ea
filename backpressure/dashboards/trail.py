"""The recent past of the loop as curves: what a terminal draws as sparklines, of a run and in the monitor."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import isinf
from typing import Final

from backpressure.core.snapshot import Snapshot
from backpressure.presentation.numbers import amount, duration

__all__ = ["CURVES", "Trail", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_CELLS = 300

CURVES: Final[Mapping[str, str]] = {
    "depth": "blue",
    "published/s": "cyan",
    "processed/s": "green",
    "allowed/s": "yellow",
    "wait p99": "magenta",
}
"""Every curve and its colour."""


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Return the last ``width`` values as bars from 0 to the largest of them; what is unknown is blank."""
    shown = list(values)[-width:]
    top = max((value for value in shown if value is not None), default=0.0)
    if not top:
        return "".join(" " if value is None else _BARS[0] for value in shown)
    return "".join(" " if value is None else _BARS[min(7, int(8 * value / top))] for value in shown)


class Trail:
    """The last values of each curve, one for every ``cell_s`` seconds in which there was a snapshot."""

    def __init__(self, cell_s: float) -> None:
        """Begin without a past."""
        self.cell_s = cell_s
        self._curves: dict[str, deque[float | None]] = {name: deque(maxlen=_CELLS) for name in CURVES}
        self._cell = -1

    def note(self, seen: Snapshot, queue: str) -> None:
        """Add ``seen``, with what is in ``queue``; of several snapshots in one cell the last stays.

        Where no program reports, the rates are those of the queue, and the wait is the one to be expected.
        """
        state, rates = seen.queues.get(queue), seen.rates
        outlook = state.outlook if state else None
        values = (
            float(state.depth) if state else None,
            rates.published_per_s if rates.published_per_s is not None or not state else state.published_per_s,
            rates.processed_per_s if rates.processed_per_s is not None or not state else state.acked_per_s,
            seen.pacing_rate_per_s,
            seen.queue_wait.p99_s if seen.queue_wait.p99_s is not None or not outlook else outlook.wait_s,
        )
        cell = int(seen.at_ns / 1e9 / self.cell_s)
        for curve, value in zip(self._curves.values(), values, strict=True):
            if cell == self._cell:
                curve.pop()
            curve.append(None if value is None or isinf(value) else value)
        self._cell = cell

    def line(self, name: str, width: int) -> str:
        """Return the curve ``name`` in ``width`` cells, the latest at its right end."""
        return sparkline(self._curves[name], width).rjust(width)

    def latest(self, name: str) -> str:
        """Return its last value as people read it."""
        curve = self._curves[name]
        value = curve[-1] if curve else None
        return duration(value) if name == "wait p99" else amount(value)
