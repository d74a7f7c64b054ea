"""The monitor where nobody looks: each event becomes a line of the log, and so does a source that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from backpressure.core.snapshot import Event, Glance, Source
from backpressure.program import printable

__all__ = ["EventLines", "log_events"]

log = logging.getLogger(__name__)

_LOOK_S = 1.0

Line = tuple[int, str]
"""Level and text."""


class Watched(Protocol):
    """The part of the observer that this needs."""

    @property
    def events(self) -> Sequence[Event]:
        """The latest events, oldest first."""

    def glance(self) -> Glance:
        """Return what events come from."""


async def log_events(observer: Watched, stopping: asyncio.Event) -> None:
    """Log what happens until ``stopping`` is set."""
    lines = EventLines()
    while not stopping.is_set():
        for level, text in lines.of(observer.events, observer.glance().sources):
            log.log(level, "%s", text)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _LOOK_S)


class EventLines:
    """Turns events and sources into lines; remembers what was told already."""

    def __init__(self) -> None:
        self._told_until_ns = 0
        self._refused: dict[str, str] = {}

    def of(self, events: Iterable[Event], sources: Iterable[Source]) -> Iterator[Line]:
        """Yield what happened since the last call, and which source has not answered so far, once for each reason."""
        told_until_ns = self._told_until_ns
        for event in events:
            if event.at_ns > told_until_ns:
                self._told_until_ns = event.at_ns
                yield logging.WARNING if event.kind.bad else logging.INFO, printable(event.text)
        for source in sources:
            if source.ok:
                self._refused[source.name] = ""  # from now on it is lost and found by events
            elif self._refused.get(source.name) not in {"", source.error} and source.error != "connecting":
                self._refused[source.name] = source.error
                yield logging.WARNING, printable(f"{source.name}: {source.error}")
