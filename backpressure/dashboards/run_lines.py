"""A run as plain lines, for logs and pipes: one every two seconds, and one for everything that happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isinf

from backpressure.core.snapshot import Snapshot

__all__ = ["RunLines", "per_s"]

_EVERY_S = 2.0


def per_s(rate: float | None) -> str:
    """Return a rate as people read it: "–" when unknown, "∞" without a limit."""
    if rate is None:
        return "–"
    return "∞" if isinf(rate) else f"{rate:.0f}"


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

    def phase_began(self, index: int) -> None:
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
        self._write(f"· {text}")

    def _state(self, snapshot: Snapshot) -> str:
        queue = snapshot.queues.get(self._queue)
        rates = snapshot.rates
        wait_s = snapshot.queue_wait.p99_s
        return (
            f"depth {queue.depth if queue else '–':>5}  offered {per_s(rates.offered_per_s):>5}"
            f"  published {per_s(rates.published_per_s):>5}  processed {per_s(rates.processed_per_s):>5} msg/s"
            f"  allowed {per_s(snapshot.pacing_rate_per_s):>5}  wait p99 {f'{wait_s * 1000:.0f} ms' if wait_s else '–'}"
        )
