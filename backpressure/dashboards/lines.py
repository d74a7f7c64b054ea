"""Plain lines, where there is no terminal: a run, the monitor's state now and then, and events for the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

from backpressure.core.snapshot import Event, Glance, Outlook, QueueState, Snapshot, Source
from backpressure.dashboards.cards_lists import expected_wait, heading
from backpressure.presentation.numbers import amount, duration, rate
from backpressure.presentation.terms import label
from backpressure.program import printable

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
        queue, rates, totals = snapshot.queues.get(self._queue), snapshot.rates, snapshot.totals
        line = (
            f"{label('depth')} {amount(queue.depth if queue else None):>5}"
            f"  {label('offered')} {amount(rates.offered_per_s):>5}"
            f"  {label('published')} {amount(rates.published_per_s):>5}"
            f"  {label('processed')} {amount(rates.processed_per_s):>5} msg/s"
            f"  allowed {amount(snapshot.pacing_rate_per_s):>5}"
            f"  {label('wait_ms')} p99 {duration(snapshot.queue_wait.p99_s)}"
        )
        counts = {"refused": totals.nacked, "discarded": totals.discarded}
        return line + "".join(f"  {label(name)} {amount(count)}" for name, count in counts.items() if count)


class StatusLines:
    """Turns snapshots into lines; remembers which events it has reported."""

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
        state = "refused by" if broker is not None and broker.refused else "waiting for"
        return f"{state} {printable(seen.address)}"
    if seen.asked or seen.absent:
        absent = [f"{printable(name)}: {printable(reason)}" for name, reason in seen.absent.items()]
        return "; ".join([*(_of_queue(queue, seen.at_ns) for queue in seen.observed), *absent])
    work = seen.work
    if work is None:
        return f"{printable(seen.work_queue)} does not exist yet"
    unacked = "unacked unknown" if work.unacked is None else f"{amount(work.unacked)} unacked"
    return (
        f"{printable(work.name)} depth={amount(work.depth)} ({unacked})"
        f" in={rate(work.published_per_s)} out={rate(work.acked_per_s)}"
        f" allowed={rate(seen.pacing_rate_per_s)} wait_p99={duration(seen.queue_wait.p99_s)}"
    )


def _of_queue(queue: QueueState, at_ns: int) -> str:
    outlook = queue.outlook or Outlook()
    least = "≥" if queue.unacked is None or outlook.hidden else ""
    return (
        f"{printable(queue.name)} depth={least}{amount(queue.depth)} in={rate(queue.published_per_s)}"
        f" out={rate(queue.acked_per_s)} wait={expected_wait(outlook)} {heading(outlook, at_ns)}"
        f" consumers={amount(queue.consumers)}"
    )


def _clock(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns / 1e9, UTC).astimezone():%H:%M:%S}"


log = logging.getLogger(__name__)

_LOOK_S = 1.0

Line = tuple[int, str]
"""Level and text."""


class EventSource(Protocol):
    """The part of the observer that this needs."""

    @property
    def events(self) -> Sequence[Event]:
        """The latest events, oldest first."""

    def glance(self) -> Glance:
        """Return what events come from."""


async def log_events(observer: EventSource, stopping: asyncio.Event) -> None:
    """Log what happens until ``stopping`` is set."""
    lines = EventLines()
    while not stopping.is_set():
        for level, text in lines.of(observer.events, observer.glance().sources):
            log.log(level, "%s", text)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _LOOK_S)


class EventLines:
    """Turns events and sources into lines; remembers what it has reported."""

    def __init__(self) -> None:
        self._told_until_ns = 0
        self._refused: dict[str, str] = {}

    def of(self, events: Iterable[Event], sources: Iterable[Source]) -> Iterator[Line]:
        """Yield new events, and each source that has not answered yet, once for each reason."""
        told_until_ns = self._told_until_ns
        for event in events:
            if event.at_ns > told_until_ns:
                self._told_until_ns = event.at_ns
                yield logging.WARNING if event.kind.bad else logging.INFO, printable(event.text)
        for source in sources:
            if source.ok:
                self._refused[source.name] = ""  # from now on, events report it
            elif self._refused.get(source.name) not in {"", source.error} and source.error != "connecting":
                self._refused[source.name] = source.error
                yield logging.WARNING, printable(f"{source.name}: {source.error}")
