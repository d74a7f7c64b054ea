"""A run as plain lines, for logs and pipes: one every two seconds, and one for everything that happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backpressure.core.snapshot import Snapshot
from backpressure.presentation.numbers import amount, duration
from backpressure.program import printable

__all__ = ["RunLines"]

_EVERY_S = 2.0


class RunLines:
    """Watches a run and writes lines with ``write``."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """``write`` takes one line without its end."""
        self._write = write
        self._queue = ""
        self._phases: Sequence[tuple[str, float]] = ()
        self._phase = ""
        self._start_ns = 0
        self._next_s = 0.0

    def began(self, title: str, broker: str, queue: str, phases: Sequence[tuple[str, float]]) -> None:
        """Name the run and its phases."""
        self._queue = queue
        self._phases = phases
        self._write(f"{title}\nbroker: {broker}")
        self._write("phases: " + ", ".join(f"{name} {duration_s:g} s" for name, duration_s in phases))

    def phase_began(self, index: int, share_done: Callable[[Snapshot], float | None]) -> None:  # noqa: ARG002 - for bars
        """Name the phase."""
        self._phase, duration_s = self._phases[index]
        self._write(f"phase {index + 1} of {len(self._phases)}: {self._phase} ({duration_s:g} s)")

    def sampled(self, snapshot: Snapshot) -> None:
        """Write one line, if it is time."""
        self._start_ns = self._start_ns or snapshot.at_ns
        t_s = (snapshot.at_ns - self._start_ns) / 1e9
        if t_s >= self._next_s:
            self._next_s += _EVERY_S
            self._write(f"{t_s:6.1f} s  {self._phase:<12} {self._state(snapshot)}")

    def noted(self, text: str) -> None:
        """Write it."""
        self._write(f"· {printable(text)}")

    def _state(self, snapshot: Snapshot) -> str:
        queue, rates = snapshot.queues.get(self._queue), snapshot.rates
        return (
            f"depth {amount(queue.depth if queue else None):>5}  offered {amount(rates.offered_per_s):>5}"
            f"  published {amount(rates.published_per_s):>5}  processed {amount(rates.processed_per_s):>5} msg/s"
            f"  allowed {amount(snapshot.pacing_rate_per_s):>5}  wait p99 {duration(snapshot.queue_wait.p99_s)}"
        )
