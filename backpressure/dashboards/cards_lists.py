"""Cards of queues that the user asked for, and cards of rows: queues, processes, events, consumers, connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import isinf
from typing import TypeVar

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from backpressure.core.snapshot import Client, Connection, Event, EventKind, Outlook, ProcessState, QueueState, Snapshot
from backpressure.dashboards.cards_loop import Card, Labelled, facts, severity
from backpressure.presentation.numbers import UNKNOWN, amount, binary_bytes, duration, percent, rate
from backpressure.program import printable

_MOST_CARDS = 3  # more are rows of a table
_CARD_LINES = 7
_DAY_S = 86_400
_T = TypeVar("_T")
Cell = str | tuple[str, str]
"""A text, or a text and its style."""
Row = tuple[Cell, ...]
Columns = Sequence[tuple[str, str]]
"""Heading and kind of each column: a *spare* is a number that is left out before a *name* is cut."""
_UNEVEN = 1.2  # what goes in and what goes out differ by more than noise
_OLD_S = 2.0  # a queue of the loop is read at least every second: say so when the count is older
_GOOD = {EventKind.UNBLOCKED, EventKind.RECOVERED, EventKind.NACKS_OVER, EventKind.SOURCE_BACK}


def queue_cards(seen: Snapshot, lines: int | None) -> list[Card]:
    """Return a card for each queue that was asked for; none if that takes more than ``lines``, or they are many."""
    asked = [seen.queues[name] for name in seen.asked if name in seen.queues]
    few = len(asked) <= _MOST_CARDS and (lines is None or _CARD_LINES * len(asked) <= lines)
    return [_card(seen, queue) for queue in asked] if few else []


def terms(clients: Iterable[Client]) -> str:
    """Return how many consumers there are on which terms: "2 with prefetch 10, manual ack; 1 automatic ack"."""
    counts = Counter((client.ack_required, client.prefetch, client.active) for client in clients)
    return "; ".join(f"{count} with {_terms(*each)}" for each, count in sorted(counts.items(), reverse=True))


def expected_wait(outlook: Outlook) -> str:
    """Return how long a message sent now will wait."""
    if outlook.wait_s is None:
        return UNKNOWN
    if isinf(outlook.wait_s):
        return "nothing leaves"
    return f"{'at least' if outlook.hidden else 'about'} {duration(outlook.wait_s)}"


def heading(outlook: Outlook, at_ns: int) -> str:
    """Return where the queue is heading: "steady", "grows by 100/s, full in 12 min (14:32)"."""
    growth = outlook.growth_per_s
    if growth is None:
        return f"growth {UNKNOWN}"
    if growth == 0:
        return "steady"
    text = f"grows by {rate(growth)}" if growth > 0 else f"shrinks by {rate(-growth)}"
    for what, in_s in (("full", outlook.full_in_s), ("empty", outlook.empty_in_s)):
        if in_s is not None:
            text += f", {what} in {duration(in_s)} ({clock_after(at_ns, in_s)})"
    return text


def clock_after(at_ns: int, in_s: float) -> str:
    """Return the time of day in ``in_s`` seconds, or the number of days, if it is further away."""
    if in_s >= _DAY_S:
        return f"{in_s / _DAY_S:.0f} d"
    return f"{datetime.fromtimestamp(at_ns / 1e9, UTC).astimezone() + timedelta(seconds=in_s):%H:%M}"


def _card(seen: Snapshot, queue: QueueState) -> Card:
    outlook = queue.outlook or Outlook()
    limit = next((threshold.limit for threshold in seen.thresholds if threshold.name == "depth"), float("inf"))
    sign, colour = severity(queue.depth, limit)
    least = "≥ " if queue.unacked is None or outlook.hidden else ""
    depth = facts(
        ("", f"{least}{amount(queue.depth)}", colour),
        ("ready", amount(queue.ready)),
        ("unacked", amount(queue.unacked)),
    )
    if queue.max_length is not None:
        used = UNKNOWN if queue.fill is None else percent(queue.fill)
        depth.append(f"  bound {amount(queue.max_length)} ready, {used} used")
    growing = (outlook.growth_per_s or 0) > 0
    rates = facts(("in", rate(queue.published_per_s)), ("out", rate(queue.acked_per_s)))
    rates.append("  ").append(heading(outlook, seen.at_ns), "yellow" if growing else "")
    endless = isinf(outlook.wait_s or 0)
    wait = Text.assemble((expected_wait(outlook), "red" if endless else ""), ("  backlog ÷ rate out", "dim"))
    rows = [("depth", depth), ("rates", rates), ("wait", wait), ("consumers", Text(printable(_consumers(seen, queue))))]
    if queue.kind == "stream":
        rows[1:3] = [("rates", facts(("in", rate(queue.published_per_s))))]  # nothing is ever taken out of it
    if outlook.statistics_age_s is not None:
        age = f"statistics up to {duration(outlook.statistics_age_s)} old; ready messages are counted now"
        rows.append(("", Text(age, "dim")))
    kind = f" ({queue.kind})" if queue.kind else ""
    return Card(Labelled(rows), f"{sign} {printable(queue.name)}{kind}", colour)


def _consumers(seen: Snapshot, queue: QueueState) -> str:
    clients = seen.clients_of(queue.name)
    if queue.consumers == 0:
        return "none"
    if not clients:
        return f"{amount(queue.consumers)}, their prefetch is unknown"
    return terms(clients)


def _terms(ack_required: bool, prefetch: int, active: bool) -> str:
    waiting = "" if active else ", waiting for the active one"
    if not ack_required:
        return f"automatic ack{waiting}"
    limit = f"prefetch {amount(prefetch)}" if prefetch else "no prefetch limit"
    return f"{limit}, manual ack{waiting}"


@dataclass(frozen=True, slots=True)
class RowCard:
    """A card that may be shortened: ``build`` returns a table of the given rows, ``rows`` is how many there are.

    ``summary`` follows the title and the number of rows: what they add up to, those that are hidden included. Where
    room is short, cards get their ``least_rows`` first, those of the greatest ``importance`` before others.
    """

    title: str
    rows: int
    head_lines: int
    build: Callable[[int], RenderableType]
    summary: str = ""
    least_rows: int = 3
    importance: int = 0

    def draw(self, rows: int) -> Card:
        """Return the card with that many rows; its title says how many are hidden."""
        hidden = self.rows - rows
        title = f"{self.title} {amount(self.rows)}" if self.summary else self.title
        title += f" (+{hidden})" if hidden else ""
        return Card(self.build(rows), f"{title}: {self.summary}" if self.summary else title)


def queues(seen: Snapshot) -> RowCard:
    """Return the queues: depth by colour, what goes in and out, who consumes; on Kafka also the worst partition.

    The loop's own come first, then those of others, the deepest first. If the user asked for some, they are shown
    alone, with the wait to be expected.
    """
    limit = next((threshold.limit for threshold in seen.thresholds if threshold.name == "depth"), float("inf"))
    shown = [queue for queue in seen.queues.values() if not seen.asked or queue.name in seen.asked]
    found = sorted(shown, key=lambda queue: (not queue.watched, not queue.watched and -queue.depth))
    partitioned = any(len(queue.lag_by_partition) > 1 for queue in found)
    columns = [
        ("", "word"), ("queue", "name"), ("depth", "number"), ("ready", "spare"), ("unacked", "spare"),
        ("cons", "number"), ("pub/s", "number"), ("del/s", "spare"), ("ack/s", "number"), ("now", "word"),
    ]  # fmt: skip
    if seen.asked:
        columns[-1:-1] = [("wait", "number"), ("growth", "number")]
    if partitioned:
        columns.insert(3, ("worst part.", "number"))

    def row(queue: QueueState) -> Row:
        cells = _queue_row(queue, limit, consumed=queue.name == seen.work_queue or queue.name in seen.asked)
        if seen.asked:
            cells = (*cells[:-1], *_prospects(queue), cells[-1])
        return (*cells[:3], _worst(queue), *cells[3:]) if partitioned else cells

    return replace(_listing("Queues", columns, found, row), summary=_overall(seen), least_rows=5, importance=2)


def _overall(seen: Snapshot) -> str:
    sums = seen.overall
    facts = {
        "ready": sums.ready,
        "unacked": sums.unacked,
        "active": sums.active,
        "consumers": sums.consumers,
        "connections": sums.connections,
    }
    return ", ".join(f"{name} {amount(value)}" for name, value in facts.items())


def processes(seen: Snapshot) -> RowCard:
    """Return producers and consumers with what they cost."""
    states = {(p.host, p.id, p.pid): "blocked" for p in seen.producers if p.blocked}
    states |= {(c.host, c.id, c.pid): "paused" for c in seen.consumers if c.paused}

    several = _on_several_queues(seen)

    def row(process: ProcessState) -> Row:
        return (
            process.role,
            printable(process.id),
            *([printable(process.queue)] if several else []),
            str(process.pid),
            rate(process.rate_per_s),
            binary_bytes(process.rss_bytes),
            percent(process.cpu_share),
            (states.get((process.host, process.id, process.pid), ""), "red"),
        )

    columns = (
        ("role", "word"), ("id", "name"), *([("queue", "name")] if several else []), ("pid", "number"),
        ("rate", "number"), ("memory", "number"), ("cpu", "number"), ("", "word"),
    )  # fmt: skip
    return _listing("Processes", columns, seen.processes, row)


def _on_several_queues(seen: Snapshot) -> bool:
    """Return whether it has to be said to which queue each process belongs."""
    return len({process.queue for process in seen.processes}) > 1


def events(seen: Snapshot) -> RowCard:
    """Return the latest events, newest first."""

    def row(event: Event) -> Row:
        colour = "red" if event.kind.bad else "green" if event.kind in _GOOD else "none"
        at = datetime.fromtimestamp(event.at_ns / 1e9, UTC).astimezone()
        return (f"{at:%H:%M:%S}", "dim"), (printable(event.text), colour)

    listed = _listing("Events", (("", "word"), ("", "name")), seen.events[::-1], row)
    return replace(listed, least_rows=5, importance=1)


def consumers(seen: Snapshot) -> RowCard:
    """Return the active consumers with their connections, as the broker lists them."""
    found = seen.broker.consumers if seen.broker else ()
    # Without the feedback queue of each process, and without those of queues that nobody asked for.
    listed = [client for client in found if client.queue in (seen.asked or seen.queues)]

    def row(client: Client) -> Row:
        return (
            printable(client.queue),
            printable(client.tag),
            printable(client.peer) or UNKNOWN,
            amount(client.prefetch or _reported_prefetch(seen, client)),
            "manual" if client.ack_required else "auto",
        )

    columns = (("queue", "name"), ("consumer", "name"), ("from", "word"), ("prefetch", "number"), ("ack", "word"))
    return _listing("Active consumers", columns, listed, row)


def connections(seen: Snapshot) -> RowCard:
    """Return the broker's client connections."""

    def row(connection: Connection) -> Row:
        return (
            printable(connection.name),
            printable(connection.user),
            printable(connection.peer) or UNKNOWN,
            amount(connection.channels),
            (printable(connection.state), "none" if connection.state == "running" else "red"),
        )

    columns = (("connection", "name"), ("user", "word"), ("from", "word"), ("ch", "number"), ("state", "word"))
    return _listing("Connections", columns, seen.broker.connections if seen.broker else (), row)


def _reported_prefetch(seen: Snapshot, client: Client) -> int | None:
    # The broker says 0 where the limit is the channel's; the consumer itself, whose tag begins with its id, knows it.
    name = client.tag.rpartition("-")[0]
    return next((c.prefetch for c in seen.consumers if c.id == name and c.queue == client.queue), None)


def _queue_row(queue: QueueState, limit: float, *, consumed: bool) -> Row:
    sign, colour = severity(queue.depth, limit)
    depth = amount(queue.depth) if queue.unacked is not None else f"≥{amount(queue.depth)}"
    return (
        (sign, colour),
        printable(queue.name),
        (depth, colour),
        amount(queue.ready),
        amount(queue.unacked),
        amount(queue.consumers),
        amount(queue.published_per_s),
        amount(queue.delivered_per_s),
        amount(queue.acked_per_s),
        _activity(queue, consumed=consumed),
    )


def _prospects(queue: QueueState) -> tuple[Cell, Cell]:
    """Return the expected wait and the growth; the one without an end is worth a look."""
    outlook = queue.outlook or Outlook()
    growth = rate(outlook.growth_per_s)
    least = "≥" if outlook.hidden and outlook.wait_s is not None else ""
    wait: Cell = ("∞", "red") if isinf(outlook.wait_s or 0) else f"{least}{duration(outlook.wait_s)}"
    return wait, (f"+{growth}", "yellow") if (outlook.growth_per_s or 0) > 0 else growth


def _worst(queue: QueueState) -> str:
    number = queue.worst_partition
    return "" if number is None else f"#{number} {amount(queue.lag_by_partition[number])}"


def _activity(queue: QueueState, *, consumed: bool) -> Cell:
    """Return what happens in a queue; ``consumed``: it should have consumers while messages wait."""
    if queue.watched and queue.age_s > _OLD_S:
        return f"{duration(queue.age_s)} ago", "red"
    if queue.kind == "stream" or (queue.published_per_s is None and queue.acked_per_s is None):
        return queue.kind if queue.kind == "stream" else UNKNOWN, "dim"
    coming, going = queue.published_per_s or 0.0, queue.acked_per_s or queue.delivered_per_s or 0.0
    growth = (
        None if queue.outlook is None else queue.outlook.growth_per_s
    )  # it is shown beside: the word agrees with it
    if queue.consumers == 0 and queue.depth:  # rates are those of the last seconds: nobody takes anything now
        return _unattended(coming, consumed=consumed)
    if growth is None:
        growth = coming - going if max(coming, going) > _UNEVEN * min(coming, going) else 0.0
    if growth > 0:
        return "Filling ⬆", "yellow"
    if growth < 0:
        return "Draining ⬇", "green"
    return ("Flowing ⬆⬇", "cyan") if going else _standing(queue)


def _unattended(coming: float, *, consumed: bool) -> Cell:
    if not consumed:
        return ("Filling ⬆", "yellow") if coming else ("Waiting", "dim")
    return ("No consumer ⬆", "red") if coming else ("No consumer", "red")


def _standing(queue: QueueState) -> Cell:
    if queue.depth == 0:
        return "Idle", "dim"
    return ("Waiting", "yellow") if queue.ready else ("Working", "cyan")


def _listing(title: str, columns: Columns, items: Sequence[_T], row: Callable[[_T], Row]) -> RowCard:
    headed = any(heading for heading, _ in columns)

    def build(count: int) -> RenderableType:
        return _Rows(columns, [row(item) for item in items[:count]], headed=headed)  # of a thousand, those that fit

    return RowCard(title, len(items), int(headed), build)


class _Rows:
    """Columns; the spare ones are left out, the last first, when a name would be cut.

    A row is a few pieces of one line; `cards_loop` says what rich's own tables would cost.
    """

    def __init__(self, columns: Columns, rows: Sequence[Row], *, headed: bool) -> None:
        self._columns = columns
        heading = [(heading, "dim") for heading, _ in columns]
        cells = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]  # no markup
        self._rows = [heading, *cells] if headed else cells
        self._widths = [max(cell_len(text) for text, _ in column) for column in zip(heading, *cells, strict=True)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = [
            (n, width, self._columns[n][1] in {"number", "spare"})
            for n, width in self._fitting(options.max_width).items()
        ]
        for row in self._rows:
            plain = ""  # text without a style is joined
            for n, width, is_number in shown:
                text, style = row[n]
                room = width - cell_len(text)
                text = set_cell_size(f"{' ' * room}{text}" if is_number else text, width)
                if style:
                    yield from (Segment(plain), Segment(text, console.get_style(style)))
                    plain = " "
                else:
                    plain += f"{text} "
            yield from (Segment(plain), Segment.line())

    def _fitting(self, room: int) -> dict[int, int]:
        """Return the width of each column that is shown; names share what the others leave."""
        shown = list(range(len(self._columns)))
        for spare in [n for n in reversed(shown) if self._columns[n][1] == "spare"]:
            if sum(self._widths[n] + 1 for n in shown) <= room:
                break
            shown.remove(spare)
        names = {n: max(1, self._widths[n]) for n in shown if self._columns[n][1] == "name"}
        left = room - len(shown) - sum(self._widths[n] for n in shown if n not in names)
        share = max(0, left) / max(1, sum(names.values()))
        return {n: int(names[n] * share) if n in names else self._widths[n] for n in shown}
