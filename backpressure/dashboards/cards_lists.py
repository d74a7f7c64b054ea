"""The cards made of rows: queues, processes, events, and what the management API knows of consumers and connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from backpressure.core.snapshot import Client, EventKind, QueueState, Snapshot
from backpressure.dashboards.cards_loop import panel, severity
from backpressure.dashboards.format import UNKNOWN, amount, binary_bytes, clean, percent, rate

__all__ = ["RowCard", "connections", "consumers", "events", "processes", "queues"]

Row = tuple[Text | str, ...]
Columns = Sequence[tuple[str, str]]
"""Heading and kind of each column: a *spare* is a number that is left out before a *name* is cut."""

_BAD = {EventKind.NACKED, EventKind.BLOCKED, EventKind.BREACHED, EventKind.VANISHED, EventKind.SOURCE_LOST}
_GOOD = {EventKind.UNBLOCKED, EventKind.RECOVERED, EventKind.NACKS_OVER, EventKind.SOURCE_BACK}


@dataclass(frozen=True, slots=True)
class RowCard:
    """A card that may be shortened: ``build`` returns a table of the given rows, ``rows`` is how many there are."""

    title: str
    rows: int
    head_lines: int
    build: Callable[[int], RenderableType]

    def draw(self, rows: int) -> Panel | None:
        """Return the card with that many rows; its title says how many are hidden."""
        if rows <= 0:
            return None
        hidden = self.rows - rows
        return panel(self.build(rows), f"{self.title} (+{hidden})" if hidden else self.title)


def queues(seen: Snapshot) -> RowCard:
    """Return the queues: depth by colour, what goes in and out, who consumes; on Kafka also the worst partition."""
    limit = next((threshold.limit for threshold in seen.thresholds if threshold.name == "depth"), float("inf"))
    rows = [_queue_row(queue, limit) for queue in seen.queues.values()]
    columns = [
        ("", "word"), ("queue", "name"), ("depth", "number"), ("ready", "spare"), ("unacked", "spare"),
        ("cons", "number"), ("pub/s", "number"), ("del/s", "spare"), ("ack/s", "number"), ("now", "word"),
    ]  # fmt: skip
    if any(len(queue.lag_by_partition) > 1 for queue in seen.queues.values()):
        columns.insert(3, ("worst part.", "number"))
        rows = [(*row[:3], _worst(queue), *row[3:]) for row, queue in zip(rows, seen.queues.values(), strict=True)]
    return _listing("Queues", columns, rows)


def processes(seen: Snapshot) -> RowCard:
    """Return producers and consumers with what they cost."""
    states = {(p.host, p.id, p.pid): "blocked" for p in seen.producers if p.blocked}
    states |= {(c.host, c.id, c.pid): "paused" for c in seen.consumers if c.paused}
    rows: list[Row] = [
        (
            process.role,
            clean(process.id),
            str(process.pid),
            rate(process.rate_per_s),
            binary_bytes(process.rss_bytes),
            percent(process.cpu_share),
            Text(states.get((process.host, process.id, process.pid), ""), "red"),
        )
        for process in seen.processes
    ]
    columns = (
        ("role", "word"), ("id", "name"), ("pid", "number"), ("rate", "number"), ("memory", "number"),
        ("cpu", "number"), ("", "word"),
    )  # fmt: skip
    return _listing("Processes", columns, rows)


def events(seen: Snapshot) -> RowCard:
    """Return the latest events, newest first."""
    rows: list[Row] = []
    for event in reversed(seen.events):
        colour = "red" if event.kind in _BAD else "green" if event.kind in _GOOD else "none"
        at = datetime.fromtimestamp(event.at_ns / 1e9, UTC).astimezone()
        rows.append((Text(f"{at:%H:%M:%S}", "dim"), Text(clean(event.text), colour)))
    return _listing("Events", (("", "word"), ("", "name")), rows)


def consumers(seen: Snapshot) -> RowCard:
    """Return the active consumers with their connections, as the broker lists them."""
    rows: list[Row] = [
        (
            clean(client.queue),
            clean(client.tag),
            clean(client.peer) or UNKNOWN,
            amount(client.prefetch or _reported_prefetch(seen, client)),
            "manual" if client.ack_required else "auto",
        )
        for client in (seen.broker.consumers if seen.broker else ())
        if client.queue in seen.queues  # not every process's ear on the feedback
    ]
    columns = (("queue", "name"), ("consumer", "name"), ("from", "word"), ("prefetch", "number"), ("ack", "word"))
    return _listing("Active consumers", columns, rows)


def connections(seen: Snapshot) -> RowCard:
    """Return the broker's client connections."""
    rows: list[Row] = [
        (
            clean(connection.name),
            clean(connection.user),
            clean(connection.peer) or UNKNOWN,
            amount(connection.channels),
            Text(clean(connection.state), "none" if connection.state == "running" else "red"),
        )
        for connection in (seen.broker.connections if seen.broker else ())
    ]
    columns = (("connection", "name"), ("user", "word"), ("from", "word"), ("ch", "number"), ("state", "word"))
    return _listing("Connections", columns, rows)


def _reported_prefetch(seen: Snapshot, client: Client) -> int | None:
    # The broker says 0 where the limit is the channel's; the consumer itself, whose tag begins with its id, knows it.
    name = client.tag.rpartition("-")[0]
    return next((c.prefetch for c in seen.consumers if c.id == name and c.queue == client.queue), None)


def _queue_row(queue: QueueState, limit: float) -> Row:
    sign, colour = severity(queue.depth, limit)
    depth = amount(queue.depth) if queue.unacked is not None else f"≥{amount(queue.depth)}"
    return (
        Text(sign, colour),
        clean(queue.name),
        Text(depth, colour),
        amount(queue.ready),
        amount(queue.unacked),
        amount(queue.consumers),
        amount(queue.published_per_s),
        amount(queue.delivered_per_s),
        amount(queue.acked_per_s),
        _activity(queue),
    )


def _worst(queue: QueueState) -> str:
    number = queue.worst_partition
    return "" if number is None else f"#{number} {amount(queue.lag_by_partition[number])}"


def _activity(queue: QueueState) -> Text:
    if queue.published_per_s is None and queue.acked_per_s is None:
        return Text(UNKNOWN, "dim")
    coming, going = bool(queue.published_per_s), bool(queue.delivered_per_s or queue.acked_per_s)
    if coming and going:
        return Text("Flowing ⬆⬇", "cyan")
    if coming:
        return Text("Publishing ⬆", "yellow")
    return Text("Consuming ⬇", "green") if going else Text("Idle", "dim")


def _listing(title: str, columns: Columns, rows: Sequence[Row]) -> RowCard:
    headed = any(heading for heading, _ in columns)
    return RowCard(title, len(rows), int(headed), lambda count: _Rows(columns, rows[:count], headed=headed))


class _Rows:
    """A table that leaves out its spare columns, the last first, while they would cost a name its end."""

    def __init__(self, columns: Columns, rows: Sequence[Row], *, headed: bool) -> None:
        self._columns, self._headed = columns, headed
        self._rows = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]  # no markup
        cells = zip(*([Text(heading) for heading, _ in columns], *self._rows), strict=True)
        self._widths = [max(cell.cell_len for cell in column) for column in cells]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self._columns)))
        for spare in [n for n in reversed(shown) if self._columns[n][1] == "spare"]:
            if sum(self._widths[n] + 1 for n in shown) <= options.max_width:
                break
            shown.remove(spare)
        table = Table(box=None, padding=(0, 1, 0, 0), show_header=self._headed, header_style="dim", expand=True)
        for n in shown:
            heading, kind = self._columns[n]
            justify: JustifyMethod = "right" if kind in {"number", "spare"} else "left"
            ratio = max(1, self._widths[n]) if kind == "name" else None  # names share what the others leave
            table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis", ratio=ratio)
        for row in self._rows:
            table.add_row(*(row[n] for n in shown))
        yield table
