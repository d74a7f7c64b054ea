"""Shows successive snapshots: as cards on a terminal, redrawn in place, or as lines where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.cards import Cards
from backpressure.dashboards.palette import PALETTE
from backpressure.dashboards.status_lines import StatusLines
from backpressure.dashboards.terminal import accept_any_character

__all__ = ["print_frame", "show"]

_FIRST_LOOKS_S = 0.25  # until the broker has answered, the picture is worth redrawing often


async def show(snapshot: Callable[[], Snapshot], every_s: float, stopping: asyncio.Event) -> None:
    """Show a ``snapshot`` every ``every_s`` seconds until ``stopping`` is set."""
    console = _console()
    if console.is_terminal:
        await _show_cards(console, snapshot, every_s, stopping)
    else:
        await _show_lines(snapshot, every_s, stopping)


def print_frame(seen: Snapshot) -> None:
    """Print one frame, as long as it needs to be."""
    _console().print(Cards(seen, limited=False))


def _console() -> Console:
    accept_any_character()
    return Console(soft_wrap=False, theme=PALETTE)


async def _show_cards(
    console: Console, snapshot: Callable[[], Snapshot], every_s: float, stopping: asyncio.Event
) -> None:
    resized = asyncio.Event()
    with (
        _quiet_logs(),
        _on_resize(resized.set),
        Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live,
    ):
        while not stopping.is_set():
            seen = snapshot()
            live.update(Cards(seen), refresh=True)
            found = any(source.ok for source in seen.sources)
            await _first_of(stopping, resized, timeout_s=every_s if found else min(every_s, _FIRST_LOOKS_S))
            resized.clear()
    print_frame(snapshot())  # the screen of the cards is gone: leave the last state behind


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
    # A log line on the same terminal would tear the picture; what it says is on the cards.
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
