"""The monitor's terminal frame: one snapshot as cards that fit the terminal, whatever its size.

The cards stand one above the other, from 150 columns on in two columns. Lists are shortened when the height is not
enough, the least important first. Every state has a sign as well as a colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import zip_longest

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.advice import advise
from backpressure.dashboards.cards_lists import RowCard, connections, consumers, events, processes, queues
from backpressure.dashboards.cards_loop import Card, flow_card, header, law_card
from backpressure.program import printable

__all__ = ["Cards"]

_WIDE = 150
_FRAME_LINES = 2  # upper and lower border
_FIRST_ROWS = 3
_MOST_ROWS = 12

Lines = list[list[Segment]]
"""What is drawn: each line padded to its full width. Cards are drawn once, and then only put together."""


class Cards:
    """A frame whose layout is computed each time it is drawn, so it follows every resize."""

    def __init__(self, seen: Snapshot, *, limited: bool = True) -> None:
        """Draw ``seen``; ``limited`` to the terminal's height, or as long as it needs (to be scrolled)."""
        self._seen = seen
        self._limited = limited

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the frame."""
        seen = self._seen
        options = options.update(height=None)
        now = datetime.fromtimestamp(seen.at_ns / 1e9, UTC).astimezone()
        top = console.render_lines(Group(header(seen, f"{now:%H:%M:%S}"), *_advice_card(seen)), options)
        height = console.height - len(top) if self._limited else None
        loop = [flow_card(seen), *law_card(seen)]
        lists = [queues(seen), processes(seen), events(seen), consumers(seen), connections(seen)]
        if options.max_width < _WIDE:
            below = _stacked(console, options, [lists[0], *loop, *lists[1:]], height)
        else:
            half = options.update(width=options.max_width // 2)
            left = _stacked(console, half, [lists[0], *loop, lists[2]], height)
            right = _stacked(console, half, [lists[1], *lists[3:]], height)
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
    """Return how many rows each card may show: first a few for each in order of importance, then more, then all."""
    cards = [card for card in cards if card.rows]
    if lines is None:
        return {card.title: min(card.rows, _MOST_ROWS) for card in cards}
    granted: dict[str, int] = {}
    for most in (_FIRST_ROWS, _MOST_ROWS, lines):
        for card in cards:
            has = granted.get(card.title, 0)
            overhead = 0 if has else card.head_lines + _FRAME_LINES
            more = min(card.rows - has, most - has, lines - overhead)
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
