"""The monitor's terminal frame: one snapshot as cards that fit the terminal, whatever its size.

The cards stand one above the other, from 150 columns on in two columns. Lists give way when the height runs out,
the least important first. Meaning is never in colour alone: every state has a sign of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.advice import advise
from backpressure.dashboards.cards_lists import RowCard, connections, consumers, events, processes, queues
from backpressure.dashboards.cards_loop import flow_card, header, law_card
from backpressure.dashboards.format import clean

__all__ = ["Cards"]

_WIDE = 150
_FRAME_LINES = 2  # upper and lower border
_FIRST_ROWS = 3
_MOST_ROWS = 12


class Cards:
    """A frame that lays itself out anew each time it is drawn, so it follows every resize."""

    def __init__(self, seen: Snapshot, *, limited: bool = True) -> None:
        """Draw ``seen``; ``limited`` to the terminal's height, or as long as it needs (to be scrolled)."""
        self._seen = seen
        self._limited = limited

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the frame."""
        seen = self._seen
        now = datetime.fromtimestamp(seen.at_ns / 1e9, UTC).astimezone()
        top = Group(header(seen, f"{now:%H:%M:%S}"), *_advice_card(seen))
        yield top
        height = console.height - _lines(console, options, top) if self._limited else None
        loop = [flow_card(seen), *law_card(seen)]
        lists = [queues(seen), processes(seen), events(seen), consumers(seen), connections(seen)]
        if options.max_width < _WIDE:
            yield _stacked(console, options, [lists[0], *loop, *lists[1:]], height)
            return
        width = options.max_width // 2
        half = options.update(width=width)
        columns = Table.grid(padding=0)
        columns.add_column(width=width)
        columns.add_column(width=width)
        columns.add_row(
            _stacked(console, half, [lists[0], *loop, lists[2]], height),
            _stacked(console, half, [lists[1], *lists[3:]], height),
        )
        yield columns


def _stacked(
    console: Console, options: ConsoleOptions, cards: Sequence[RenderableType | RowCard], height: int | None
) -> Group:
    """Put cards one above the other; those with rows share what the others leave of ``height``."""
    rows = [card for card in cards if isinstance(card, RowCard) and card.rows]
    fixed = [card for card in cards if not isinstance(card, RowCard)]
    left = None if height is None else height - sum(_lines(console, options, card) for card in fixed)
    granted = _share_out(rows, left)
    drawn = (card.draw(granted.get(card.title, 0)) if isinstance(card, RowCard) else card for card in cards)
    return Group(*(card for card in drawn if card is not None))


def _share_out(cards: Iterable[RowCard], lines: int | None) -> dict[str, int]:
    """Return how many rows each card may show: first a few for each in order of importance, then more."""
    wanted = {card.title: min(card.rows, _MOST_ROWS) for card in cards}
    if lines is None:
        return wanted
    granted = {}
    for card in cards:
        overhead = card.head_lines + _FRAME_LINES
        rows = min(wanted[card.title], _FIRST_ROWS, lines - overhead)
        if rows > 0:
            granted[card.title] = rows
            lines -= rows + overhead
    for title, rows in granted.items():
        more = min(wanted[title] - rows, lines)
        granted[title] += more
        lines -= more
    return granted


def _lines(console: Console, options: ConsoleOptions, card: RenderableType) -> int:
    return len(console.render_lines(card, options.update(height=None), pad=False))


def _advice_card(seen: Snapshot) -> list[Panel]:
    sentences = advise(seen)
    if not sentences:
        return []
    text = Text("\n").join(Text(f"→ {clean(sentence)}") for sentence in sentences)
    return [Panel(text, title="What to do", title_align="left", border_style="yellow")]
