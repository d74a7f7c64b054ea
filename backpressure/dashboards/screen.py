"""Shows successive snapshots: as cards on a terminal, redrawn in place, or as lines where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.segment import Segment

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.cards import Cards
from backpressure.dashboards.lines import StatusLines
from backpressure.presentation.terminal import new_console

__all__ = ["print_frame", "show"]

_FIRST_LOOKS_S = 0.25  # redraw often until the broker has answered


async def show(snapshot: Callable[[], Snapshot], every_s: float, stopping: asyncio.Event) -> None:
    """Show a ``snapshot`` every ``every_s`` seconds until ``stopping`` is set."""
    console = new_console()
    if console.is_terminal and not console.is_dumb_terminal:
        await _show_cards(console, snapshot, every_s, stopping)
    else:
        await _show_lines(snapshot, every_s, stopping)


def print_frame(seen: Snapshot) -> None:
    """Print one frame, as long as it needs to be."""
    new_console().print(Cards(seen, limited=False))


async def _show_cards(
    console: Console, snapshot: Callable[[], Snapshot], every_s: float, stopping: asyncio.Event
) -> None:
    resized = asyncio.Event()
    with _quiet_logs(), _on_resize(resized.set), _full_screen(console):
        while not stopping.is_set():
            seen = snapshot()
            console.print(_Screenful(Cards(seen)), end="", crop=False)
            found = any(source.ok for source in seen.sources)
            await _first_of(stopping, resized, timeout_s=every_s if found else min(every_s, _FIRST_LOOKS_S))
            resized.clear()
    print_frame(snapshot())  # the screen of the cards is gone: leave the last state behind


class _Screenful:
    """A frame that replaces the last one; rich's own live display would process it three more times."""

    def __init__(self, cards: Cards) -> None:
        self._cards = cards

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Control.home()
        lines_left = console.height
        for segment in self._cards.__rich_console__(console, options):
            if segment == Segment.line():
                lines_left -= 1
                if not lines_left:
                    return  # a line feed at the end of the last line would scroll
            yield segment
        blank = Segment(" " * options.max_width)
        for n in range(lines_left):
            yield from (Segment.line(), blank) if n else (blank,)


@contextlib.contextmanager
def _full_screen(console: Console) -> Iterator[None]:
    console.set_alt_screen(True)
    console.show_cursor(False)
    try:
        yield
    finally:
        console.show_cursor(True)
        console.set_alt_screen(False)


async def _show_lines(snapshot: Callable[[], Snapshot], every_s: float, stopping: asyncio.Event) -> None:
    lines = StatusLines()
    while not stopping.is_set():
        for line in lines.of(snapshot()):
            print(line, flush=True)  # noqa: T201 - this is the output
        await _first_of(stopping, timeout_s=every_s)


async def _first_of(*events: asyncio.Event, timeout_s: float) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    # A log line on the same terminal would garble the cards, which show the same facts.
    if not sys.stderr.isatty():
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _on_resize(callback: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    number = getattr(signal, "SIGWINCH", None)  # not on Windows: there the next frame follows
    if number is None:
        yield
        return
    loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
