"""The monitor on a terminal: each snapshot as cards that fit it, redrawn in place, or as lines where there is none.

The cards stand one above the other, from 150 columns on in two columns. Lists are shortened when the height is not
enough, the least important first; a low terminal gets the loop in a few lines, and at least the latest five events.
Every state has a sign as well as a colour.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.control import Control
from rich.segment import Segment
from rich.text import Text

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.advice import advise
from backpressure.dashboards.cards_lists import RowCard, connections, consumers, events, processes, queue_cards, queues
from backpressure.dashboards.cards_loop import Card, Trail, flow_card, header, law_card, small_flow_card
from backpressure.dashboards.lines import StatusLines
from backpressure.presentation.terminal import new_console
from backpressure.program import printable, reader_is_gone

_WIDE = 150
_FRAME_LINES = 2  # upper and lower border
_LOW = 36  # lines
_MOST_ROWS = 12
_LEAST_CELL_S = 1.0

Lines = list[list[Segment]]
"""What is drawn: each line padded to its full width. Cards are drawn once, and then only put together."""


class Cards:
    """A frame whose layout is computed each time it is drawn, so it follows every resize."""

    def __init__(self, seen: Snapshot, *, limited: bool = True, trail: Trail | None = None) -> None:
        """Draw ``seen``; ``limited`` to the terminal's height, or as long as it needs (to be scrolled).

        ``trail`` is what went before.
        """
        self._seen = seen
        self._trail = trail
        self._limited = limited

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the frame."""
        seen = self._seen
        options = options.update(height=None)
        now = datetime.fromtimestamp(seen.at_ns / 1e9, UTC).astimezone()
        top = console.render_lines(Group(header(seen, f"{now:%H:%M:%S}"), *_advice_card(seen)), options)
        height = console.height - len(top) if self._limited else None
        asked = queue_cards(seen, height)
        loop = [flow_card(seen, self._trail), *law_card(seen)]
        if self._limited and self._trail is not None and console.height < _LOW:
            loop = [small_flow_card(seen, self._trail)]
        if seen.asked and not seen.processes:
            loop = []  # nothing of ours is there
        first = [*asked, *loop] if asked else [queues(seen), *loop]
        lists = [processes(seen), events(seen), consumers(seen), connections(seen)]
        if options.max_width < _WIDE:
            below = _stacked(console, options, [*first, *lists], height)
        else:
            half = options.update(width=options.max_width // 2)
            left = _stacked(console, half, [*first, lists[1]], height)
            right = _stacked(console, half, [lists[0], *lists[2:]], height)
            nothing = [Segment(" " * half.max_width)]
            below = [[*one, *other] for one, other in zip_longest(left, right, fillvalue=nothing)]
        for line in (*top, *below):
            yield from (*line, Segment.line())


def _stacked(
    console: Console, options: ConsoleOptions, cards: Sequence[RenderableType | RowCard], height: int | None
) -> Lines:
    """Draw cards one above the other; those with rows share what the others leave of ``height``."""
    drawn = [None if isinstance(card, RowCard) else console.render_lines(card, options) for card in cards]
    lists = [card for card in cards if isinstance(card, RowCard)]
    granted = _share_out(lists, None if height is None else height - sum(len(lines) for lines in drawn if lines))
    stack: Lines = []
    for card, lines in zip(cards, drawn, strict=True):
        if lines is not None:
            stack += lines
        elif isinstance(card, RowCard) and (rows := granted.get(card.title)):
            stack += console.render_lines(card.draw(rows), options)
    return stack


def _share_out(cards: Iterable[RowCard], lines: int | None) -> dict[str, int]:
    """Return how many rows each card may show: first its fewest, the most important first, then more, then all."""
    cards = [card for card in cards if card.rows]
    if lines is None:
        return {card.title: min(card.rows, _MOST_ROWS) for card in cards}
    granted: dict[str, int] = {}
    rounds: list[Callable[[RowCard], int]] = [
        lambda card: card.least_rows,
        lambda _: _MOST_ROWS,
        lambda card: card.rows,
    ]
    for most in rounds:
        for card in sorted(cards, key=lambda card: -card.importance):
            has = granted.get(card.title, 0)
            overhead = 0 if has else card.head_lines + _FRAME_LINES
            more = min(card.rows - has, most(card) - has, lines - overhead)
            if more > 0:
                granted[card.title] = has + more
                lines -= more + overhead
    return granted


def _advice_card(seen: Snapshot) -> list[Card]:
    sentences = advise(seen)
    if not sentences:
        return []
    text = Text("\n").join(Text(f"→ {printable(sentence)}") for sentence in sentences)
    return [Card(text, "What to do", "yellow")]


_FIRST_LOOKS_S = 0.25  # redraw often until the broker has answered


async def show(snapshot: Callable[[], Snapshot], every_s: float, stopping: asyncio.Event) -> None:
    """Show a ``snapshot`` every ``every_s`` seconds until ``stopping`` is set, or nobody reads the lines any more."""
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
    trail = Trail(max(every_s, _LEAST_CELL_S))
    with _quiet_logs(), _on_resize(resized.set), _full_screen(console):
        while not stopping.is_set():
            seen = snapshot()
            trail.note(seen, seen.asked[0] if seen.asked else seen.work_queue)
            console.print(_Screenful(Cards(seen, trail=trail)), end="", crop=False)
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
    while not stopping.is_set() and not reader_is_gone():
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
    number = getattr(signal, "SIGWINCH", None)
    if number is None:  # on Windows: there the next frame follows
        yield
        return
    loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
