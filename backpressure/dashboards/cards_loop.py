"""The cards about the loop as a whole: the broker, the rates, how long messages wait, and what the law decided.

Frames and columns are drawn here and in `cards_lists`, not by rich's `Panel` and `Table`: with those a frame of 30
queues takes 10.1 ms at 120 x 40 (5.5 ms at 80 x 24, 18 ms at 200 x 60), with these 1.2 ms (0.8 ms, 1.9 ms), measured in
one run. While it draws, the monitor reads no reports and answers no requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import isinf
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from backpressure.core.snapshot import Snapshot, Threshold
from backpressure.presentation.numbers import UNKNOWN, amount, binary_bytes, duration, percent, rate
from backpressure.program import printable

_BARS = "▁▂▃▄▅▆▇█"
_CELLS = 300

CURVES: Final[Mapping[str, str]] = {
    "depth": "blue",
    "published/s": "cyan",
    "processed/s": "green",
    "allowed/s": "yellow",
    "wait p99": "magenta",
}
"""Every curve and its colour."""
_BAR_CELLS = 10
_HIGH = 0.5  # from this share of its threshold a value is yellow


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Return the last ``width`` values as bars from 0 to the largest of them; what is unknown is blank."""
    shown = list(values)[-width:]
    top = max((value for value in shown if value is not None), default=0.0)
    if not top:
        return "".join(" " if value is None else _BARS[0] for value in shown)
    return "".join(" " if value is None else _BARS[min(7, int(8 * value / top))] for value in shown)


class Trail:
    """The last values of each curve, one for every ``cell_s`` seconds in which there was a snapshot."""

    def __init__(self, cell_s: float) -> None:
        """Begin without a past."""
        self.cell_s = cell_s
        self._curves: dict[str, deque[float | None]] = {name: deque(maxlen=_CELLS) for name in CURVES}
        self._cell = -1

    def note(self, seen: Snapshot, queue: str) -> None:
        """Add ``seen``, with what is in ``queue``; of several snapshots in one cell the last stays.

        Where no program reports, the rates are those of the queue, and the wait is the one to be expected. Of a queue
        that the user asked for they always are: others may use it as well.
        """
        state, rates = seen.queues.get(queue), seen.rates
        outlook, asked = state.outlook if state else None, bool(seen.asked)
        values = (
            float(state.depth) if state else None,
            state.published_per_s if state and (asked or rates.published_per_s is None) else rates.published_per_s,
            state.acked_per_s if state and (asked or rates.processed_per_s is None) else rates.processed_per_s,
            seen.pacing_rate_per_s,
            seen.queue_wait.p99_s if seen.queue_wait.p99_s is not None or not outlook else outlook.wait_s,
        )
        cell = int(seen.at_ns / 1e9 / self.cell_s)
        for curve, value in zip(self._curves.values(), values, strict=True):
            if cell == self._cell:
                curve.pop()
            curve.append(None if value is None or isinf(value) else value)
        self._cell = cell

    def line(self, name: str, width: int) -> str:
        """Return the curve ``name`` in ``width`` cells, the latest at its right end."""
        return sparkline(self._curves[name], width).rjust(width)

    def latest(self, name: str) -> str:
        """Return its last value as people read it."""
        curve = self._curves[name]
        value = curve[-1] if curve else None
        return duration(value) if name == "wait p99" else amount(value)


class Card:
    """Content in a frame with a title."""

    def __init__(self, content: RenderableType, title: str, style: str = "dim") -> None:
        """Draw the frame around ``content`` in ``style``."""
        self._content, self._title, self._style = content, title, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it, as wide as it may be."""
        style, line = console.get_style(self._style), Segment.line()
        left, right = Segment("│ ", style), Segment(" │", style)
        room = options.max_width - 4
        title = Text(f"╭─ {self._title} ")
        title.truncate(room + 3, overflow="ellipsis")
        yield from (Segment(title.plain.ljust(room + 3, "─") + "╮", style), line)
        for content in console.render_lines(self._content, options.update(width=room, height=None)):
            yield from (left, *content, right, line)
        yield from (Segment(f"╰{'─' * (room + 2)}╯", style), line)


def severity(value: float | None, limit: float) -> tuple[str, str]:
    """Return sign and colour of a value against its limit: green, from half of it yellow, above it red."""
    if value is None:
        return "○", "dim"
    if value > limit:
        return "■", "red"
    return ("▲", "yellow") if value > _HIGH * limit else ("●", "green")


class Labelled:
    """Facts beside their labels, wrapped where they are long."""

    def __init__(self, rows: Sequence[tuple[str, Text]]) -> None:
        """Show each label, then its facts."""
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw them, as wide as they may be."""
        width = max(len(label) for label, _ in self._rows) + 2
        bold = console.get_style("bold")
        for label, facts in self._rows:
            lines = facts.wrap(console, max(1, options.max_width - width), overflow="ellipsis")
            for n, line in enumerate(lines):
                yield from (Segment(("" if n else label).ljust(width), bold), *line.render(console), Segment.line())


class _Header:
    """A line that is cut where the time begins."""

    def __init__(self, line: Text, clock: str) -> None:
        self._line, self._clock = line, clock

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._line.truncate(max(0, options.max_width - len(self._clock) - 1), overflow="ellipsis", pad=True)
        yield from (*self._line.render(console), Segment(f" {self._clock}", console.get_style("dim")), Segment.line())


def header(seen: Snapshot, clock: str) -> RenderableType:
    """Return the line at the top: which broker, and whether it answers."""
    broker = next((source for source in seen.sources if source.name == "broker"), None)
    line = Text().append("Monitor ", "bold")
    if broker is not None and broker.ok:
        product = "" if seen.broker is None else f" {seen.broker.product} {seen.broker.version}"
        line.append("● ", "green").append(printable(seen.address + product))
    else:
        state = "refused by" if broker is not None and broker.refused else "waiting for"
        line.append("■ ", "red").append(f"{state} {printable(seen.address)}")
    return _Header(line, clock)


class _Curve:
    """Sparklines beside each other, as wide as the card."""

    def __init__(self, label: str, trail: Trail, names: Mapping[str, str]) -> None:
        self._label, self._trail, self._names = label, trail, names  # of each curve, and what is said before it

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bold, dim = console.get_style("bold"), console.get_style("dim")
        cells = (options.max_width - len(self._label) - sum(map(len, self._names.values()))) // len(self._names)
        yield Segment(self._label, bold)
        for name, title in self._names.items():
            yield from (Segment(title, dim), Segment(self._trail.line(name, cells), console.get_style(CURVES[name])))
        yield Segment.line()


def flow_card(seen: Snapshot, trail: Trail | None = None) -> Card:
    """Return rates, durations, totals, the broker's memory and the limits that are near or breached, a line each.

    Below them is the recent past of depth, rates and wait, if there is a ``trail``.
    """
    totals = seen.totals
    counted = facts(
        ("confirmed", amount(totals.confirmed)),
        ("processed", amount(totals.processed)),
        ("rejected", amount(totals.rejected), "red" if totals.rejected else ""),
        ("dead-lettered", amount(totals.dead_lettered), "red" if totals.dead_lettered else ""),
    )
    rows = [("rates", _flowing(seen)), ("wait", _lasting(seen)), ("totals", counted)]
    if seen.broker is not None:
        rows.append(("broker", _brokerfacts(seen)))
    if near := [threshold for threshold in seen.thresholds if (threshold.value or 0) > _HIGH * threshold.limit]:
        rows.append(("limits", Text("  ").join(map(_limit, near))))
    if trail is None:
        return Card(Labelled(rows), "Flow")
    curves = [_Curve(f"{name:<12}{trail.latest(name):>8} ", trail, {name: ""}) for name in CURVES]
    return Card(Group(Labelled(rows), *curves), "Flow")


def small_flow_card(seen: Snapshot, trail: Trail) -> Card:
    """Return the loop in a few lines: rates, wait, what the law allows and why, and what it was like lately."""
    rows = [("rates", _flowing(seen)), ("wait", _lasting(seen))]
    if seen.law is not None:
        told = facts(("allowed", rate(seen.pacing_rate_per_s)), ("bottleneck", rate(seen.bottleneck_per_s)))
        told.append(f"  {printable(seen.law.strategy)}{_of_queue(seen)}: {printable(seen.law.reason)}")
        told.no_wrap = True
        rows.append(("law", told))
    if seen.broker is not None and (seen.broker.memory_alarm or seen.broker.disk_alarm):
        rows.append(("broker", _brokerfacts(seen)))
    names = {"depth": "depth ", "published/s": "  in ", "processed/s": "  out ", "wait p99": "  wait "}
    label = "past".ljust(max(len(name) for name, _ in rows) + 2)
    return Card(Group(Labelled(rows), _Curve(label, trail, names)), "Flow")


def _flowing(seen: Snapshot) -> Text:
    rates = seen.rates
    return facts(
        ("offered", rate(rates.offered_per_s)),
        ("confirmed", rate(rates.confirmed_per_s)),
        ("processed", rate(rates.processed_per_s)),
        ("refused", rate(rates.nacked_per_s), "red" if rates.nacked_per_s else ""),
    )


def _lasting(seen: Snapshot) -> Text:
    wait, limit = seen.queue_wait, _threshold(seen, "queue wait p99")
    colour = severity(limit.value, limit.limit)[1] if limit and limit.value is not None else ""
    return facts(
        ("p50", duration(wait.p50_s)),
        ("p95", duration(wait.p95_s)),
        ("p99", duration(wait.p99_s), colour),
        ("work", duration(seen.service.mean_s)),
        ("confirm", duration(seen.confirm_latency.p50_s)),
    )


def law_card(seen: Snapshot) -> list[Card]:
    """Return what the law allows and why; nothing without a producer."""
    law = seen.law
    if law is None:
        return []
    allowed, target = seen.pacing_rate_per_s or 0.0, seen.target_rate_per_s or 0.0
    share = min(1.0, allowed / target) if target else 1.0
    filled = round(share * _BAR_CELLS)
    text = Text().append(f"{printable(law.strategy)} ", "bold")
    text.append(f"allows {rate(allowed)} of {rate(target)} offered ")
    text.append("█" * filled, "green").append("░" * (_BAR_CELLS - filled), "dim")
    text.append(f" {percent(share)}")
    if seen.bottleneck_per_s is not None:
        text.append(f"  bottleneck {rate(seen.bottleneck_per_s)}")
    if law.reason:
        text.append(f"\n{printable(law.id)}{_of_queue(seen)}: {printable(law.reason)}")
    return [Card(text, "Law")]


def _of_queue(seen: Snapshot) -> str:
    """Return to which queue the producer sends that is held back most, where there are several."""
    several = len({producer.queue for producer in seen.producers}) > 1
    return f" of {printable(seen.law.queue)}" if several and seen.law is not None else ""


def _brokerfacts(seen: Snapshot) -> Text:
    broker = seen.broker
    assert broker is not None
    memory = UNKNOWN
    if broker.memory_bytes is not None:
        memory = f"{binary_bytes(broker.memory_bytes)} of {binary_bytes(broker.memory_limit_bytes)}"
    limit = _threshold(seen, "broker memory")
    colour = severity(limit.value, limit.limit)[1] if limit and limit.value is not None else ""
    alarms = [name for name, on in (("memory", broker.memory_alarm), ("disk", broker.disk_alarm)) if on]
    told = facts(("memory", memory, colour))
    return told.append(f"  ■ {' and '.join(alarms)} alarm", "bold red") if alarms else told


def _limit(threshold: Threshold) -> Text:
    sign, colour = severity(threshold.value, threshold.limit)
    value, limit = (_quantity(number, threshold.unit) for number in (threshold.value or 0.0, threshold.limit))
    return Text.assemble((f"{sign} ", colour), (f"{threshold.name} ", "dim"), (f"{value} of {limit}", colour))


def _quantity(value: float, unit: str) -> str:
    if unit == "ms":
        return duration(value / 1000)
    return percent(value / 100) if unit == "%" else amount(value)


def _threshold(seen: Snapshot, name: str) -> Threshold | None:
    return next((threshold for threshold in seen.thresholds if threshold.name == name), None)


def facts(*pairs: tuple[str, ...]) -> Text:
    """Return "name value" pairs in a line; a third element is the value's colour."""
    return Text("  ").join(
        Text.assemble((f"{name} " if name else "", "dim"), (value, style[0] if style else ""))
        for name, value, *style in pairs
    )
