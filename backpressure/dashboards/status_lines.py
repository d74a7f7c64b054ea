"""The monitor where there is no terminal: a status line now and then, and each event as it happens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from backpressure.core.snapshot import Snapshot
from backpressure.presentation.numbers import amount, duration, rate
from backpressure.program import printable

__all__ = ["StatusLines"]


class StatusLines:
    """Turns snapshots into lines; remembers which events were told already."""

    def __init__(self) -> None:
        self._told_until_ns = 0

    def of(self, seen: Snapshot) -> Iterator[str]:
        """Yield what happened since the last snapshot, then how things are."""
        for event in seen.events:
            if event.at_ns > self._told_until_ns:
                yield f"{_clock(event.at_ns)} {printable(event.text)}"
        if seen.events:
            self._told_until_ns = seen.events[-1].at_ns
        yield f"{_clock(seen.at_ns)} {_status(seen)}"


def _status(seen: Snapshot) -> str:
    broker = next((source for source in seen.sources if source.name == "broker"), None)
    if broker is None or not broker.ok:
        return f"waiting for {printable(seen.address)}"
    work = seen.work
    if work is None:
        return f"{printable(seen.work_queue)} does not exist yet"
    unacked = "unacked unknown" if work.unacked is None else f"{amount(work.unacked)} unacked"
    return (
        f"{printable(work.name)} depth={amount(work.depth)} ({unacked})"
        f" in={rate(work.published_per_s)} out={rate(work.acked_per_s)}"
        f" allowed={rate(seen.pacing_rate_per_s)} wait_p99={duration(seen.queue_wait.p99_s)}"
    )


def _clock(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns / 1e9, UTC).astimezone():%H:%M:%S}"
