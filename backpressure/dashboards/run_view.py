"""A run on a terminal: while it lasts, redrawn in place, and its verdict at the end.

The live view shows the phase, the loop, and what the law decided and why. At the end come the verdict, the
expectations, and the main figures.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.cards_loop import CURVES, Card, Trail
from backpressure.presentation.numbers import amount, duration, figure, percent
from backpressure.presentation.terms import label
from backpressure.program import printable

_CELL_S = 0.5  # one column of a sparkline
_REDRAW_S = 0.2
_EVENTS = 4
_CLOCK_WIDTH = 30  # it does not move the bar while it counts
_NARROWEST_BAR = 6  # columns for each phase; otherwise the clock has a line of its own


def progress_bar(phases: Sequence[tuple[str, float]], current: int, share: float, width: int) -> Text:
    """Return the phases side by side, as long as they last; ``share`` of the current one is over.

    A phase has its name where the whole name fits.
    """
    total = sum(duration_s for _, duration_s in phases)
    bar = Text()
    for index, (name, duration_s) in enumerate(phases):
        cells = max(3, round(width * duration_s / total) - 1)
        done = cells if index < current else round(cells * share) if index == current else 0
        label = (f" {name}" if len(name) < cells else "").ljust(cells)
        bar.append(label[:done], "black on green" if index < current else "black on cyan")
        bar.append(label[done:], "reverse dim" if index == current else "grey85 on grey37")
        bar.append(" ")
    return bar


class RunLive:
    """Watches a run; a context manager that owns the terminal meanwhile."""

    def __init__(self, console: Console) -> None:
        """``console`` must be a terminal."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._title = ""
        self._broker = ""
        self._queue = ""
        self._phases: Sequence[tuple[str, float]] = ()
        self._phase = -1
        self._phase_began = 0.0
        self._share_done: Callable[[Snapshot], float | None] = lambda _: None
        self._drawn_at = 0.0
        self._snapshot: Snapshot | None = None
        self._trail = Trail(_CELL_S)
        self._events: deque[str] = deque(maxlen=_EVENTS)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def began(self, title: str, broker: str, queue: str, phases: Sequence[tuple[str, float]]) -> None:
        """Name the run."""
        self._title, self._broker, self._queue, self._phases = printable(title), broker, queue, phases

    def phase_began(self, index: int, share_done: Callable[[Snapshot], float | None]) -> None:
        """Begin the next phase; ``share_done`` returns how much of it is done, or None when only time counts."""
        self._phase, self._phase_began, self._share_done = index, time.monotonic(), share_done

    def sampled(self, snapshot: Snapshot) -> None:
        """Take in a snapshot; redraw a few times a second."""
        self._snapshot = snapshot
        self._trail.note(snapshot, self._queue)
        self._draw()

    def noted(self, text: str) -> None:
        """Show it among the latest events."""
        self._events.append(printable(text))
        self._draw(now=True)

    def _draw(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        if now or moment - self._drawn_at >= _REDRAW_S:
            self._drawn_at = moment
            self._live.update(self._picture(moment), refresh=True)

    def _picture(self, moment: float) -> RenderableType:
        events = Text("\n".join(f"· {event}" for event in self._events), "dim", no_wrap=True, overflow="ellipsis")
        if self._snapshot is None:
            return events
        width = self._console.width - 4
        return Card(
            Group(self._progress(moment, width), "", self._loop(self._snapshot, width), "", self._law(), "", events),
            f"{self._title.partition(':')[0]} on {self._broker}",
        )

    def _progress(self, moment: float, width: int) -> Text:
        if self._phase < 0:
            return Text("starting", "dim")
        name, duration_s = self._phases[self._phase]
        elapsed_s = min(moment - self._phase_began, duration_s)
        share = self._share_done(self._snapshot) if self._snapshot else None
        state = f"{elapsed_s:.0f} of {duration_s:g} s" if share is None else f"{percent(share)}, {elapsed_s:.0f} s"
        clock = Text(f"{name} {state}", "bold")
        beside = width - max(_CLOCK_WIDTH, len(clock) + 1)
        over = beside < _NARROWEST_BAR * len(self._phases)
        done = elapsed_s / duration_s if share is None else share
        bar = progress_bar(self._phases, self._phase, done, width if over else beside)
        return Text.assemble(bar, "\n" if over else " ", clock, no_wrap=True, overflow="ellipsis")

    def _loop(self, snapshot: Snapshot, width: int) -> Table:
        table = Table.grid(padding=(0, 1))
        for name, colour in CURVES.items():
            latest = self._trail.latest(name)
            if name == "allowed/s" and snapshot.pacing_rate_per_s is not None:
                latest = amount(snapshot.pacing_rate_per_s)
            line = Text(self._trail.line(name, width - 24), colour, no_wrap=True)
            table.add_row(Text(name, "dim"), Text(f"{latest:>7}", "bold"), line)
        totals = snapshot.totals
        queue_wait = snapshot.queue_wait
        counted = {
            "offered": totals.offered,
            "confirmed": totals.confirmed,
            "processed": totals.processed,
            "refused": totals.nacked,
            "discarded": totals.discarded,
            "redelivered": totals.redelivered,
            "dead_lettered": totals.dead_lettered,
        }
        facts = " · ".join(f"{label(name)} {amount(count)}" for name, count in counted.items())
        alive = (
            f"producers {len(snapshot.producers)} · consumers {len(snapshot.consumers)} · "
            f"{label('wait_ms')} p50 {duration(queue_wait.p50_s)} (last 2 s) · "
            f"{label('confirm_ms')} p99 {duration(snapshot.confirm_latency.p99_s)}"
        )
        grid = Table.grid()
        for row in (table, "", Text(facts, no_wrap=True, overflow="ellipsis"), Text(alive, "dim")):
            grid.add_row(row)
        return grid

    def _law(self) -> Text:
        law = self._snapshot.law if self._snapshot else None
        if law is None:
            return Text("no producer", "dim")
        decision = f"allows {amount(law.pacing_rate_per_s)} of {amount(law.target_rate_per_s)} msg/s"
        parts: list[str | tuple[str, str]] = [
            (f"law {printable(law.strategy)} ", "bold"),
            f"{decision}: {printable(law.reason)}",
        ]
        if law.blocked:
            parts.append(("  the broker blocks publishing", "bold red"))
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


_UNLIMITED = 1000  # columns, for finding out how wide a table would like to be
_figure = partial(figure, group="")  # without thin spaces: people search and copy terminal output
_VERDICT_COLOURS = {"passed": "bold green", "failed": "bold red", "interrupted": "bold yellow", "error": "bold red"}


def verdict(summary: Mapping[str, Any]) -> Group:
    """Return the verdict of a dumped summary, what decided it, and the tables."""
    title = Text.assemble(
        (f" {summary['verdict']} ".upper(), _VERDICT_COLOURS[summary["verdict"]] + " reverse"),
        f" {summary['scenario']} · {summary['strategy']} · {summary['broker']} {summary['broker_version']}",
        f" · {summary['duration_s']:.1f} s",
    )
    return Group(
        title,
        Text(summary["sentence"]),
        *_sources(summary.get("sources", {})),
        _expectations(summary),
        _Phases(summary["phases"]),
        _totals(summary),
    )


def _sources(sources: Mapping[str, str]) -> list[RenderableType]:
    """Return how each figure was obtained, figures of the same origin in one line; nothing where all is ours."""
    alike: dict[str, list[str]] = {}
    for name, how in sources.items():
        alike.setdefault(how, []).append(name)
    table = Table(box=None, show_header=False, padding=(0, 1), style="dim")
    for how, names in alike.items():
        table.add_row(", ".join(names), Text(how))
    return [table] if alike else []


def _expectations(summary: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for _ in range(4):
        table.add_column(overflow="fold")  # where it is narrow, a name goes on in the next line
    discarded = _discarded(summary["totals"])
    for held in summary["expectations"]:
        limit = held["limit"]
        bound = f"{limit[0]:g} … {limit[1]:g}" if held["op"] == "between" else f"{held['op']} {limit:g}"
        mark = Text("✔", "green") if held["held"] else Text("✘", "bold red")
        note = Text(f"expected {bound}", "dim")
        if held.get("uncertainty") is not None:
            note.append(f", for any clock within ± {_figure(held['uncertainty'])} ms")
        if held["metric"].rpartition(".")[2] == "lost" and discarded:
            mark = Text("▲", "yellow") if held["held"] else mark
            note.append(f", but {discarded}", "yellow")
        table.add_row(mark, held["metric"], _figure(held["value"]), note)
    return table


def _discarded(totals: Mapping[str, Any]) -> str:
    """Return the messages that the broker refused or dropped: neither processed, nor in a queue, nor lost."""
    return ", ".join(f"{_figure(totals[name])} {name}" for name in ("rejected", "dropped", "returned") if totals[name])


_COLUMNS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], float | None]]] = {
    "confirmed": (label("publish_rate").replace("/s", "\n/s"), lambda phase: phase["publish_rate"]),
    "processed": (label("process_rate").replace("/s", "\n/s"), lambda phase: phase["process_rate"]),
    "used": (label("utilisation"), lambda phase: phase["utilisation"]),
    "p50": (f"{label('wait_ms')}\np50 ms", lambda phase: phase["wait_ms"]["p50"]),
    "p99": (f"{label('wait_ms')}\np99 ms", lambda phase: phase["wait_ms"]["p99"]),
    "max": (f"{label('wait_ms')}\nmax ms", lambda phase: phase["wait_ms"]["max"]),
    "deepest": (label("depth_max"), lambda phase: phase["depth_max"]),
    "settled": (f"{label('settle_s')}\ns", lambda phase: phase["settle_s"]),
}
_LEAST_MISSED = ("settled", "p50", "confirmed", "deepest", "max", "processed")


class _Phases:
    """The table of the phases; where it is narrow, it has fewer columns, and the names of the phases stay whole."""

    def __init__(self, phases: Sequence[Mapping[str, Any]]) -> None:
        self._phases = phases

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for left_out in range(len(_LEAST_MISSED) + 1):
            table = self._table([name for name in _COLUMNS if name not in _LEAST_MISSED[:left_out]])
            if Measurement.get(console, options.update(width=_UNLIMITED), table).maximum <= options.max_width:
                break
        yield table

    def _table(self, names: Sequence[str]) -> Table:
        table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
        table.add_column("\n phase", overflow="fold")
        for name in names:
            table.add_column(_COLUMNS[name][0], justify="right")
        for phase in self._phases:
            table.add_row(f" {phase['name']}", *(_figure(_COLUMNS[name][1](phase)) for name in names))
        return table


def _totals(summary: Mapping[str, Any]) -> Text:
    totals = summary["totals"]
    lines = (
        ("confirmed", "processed", "left_in_queue", "dead_lettered", "duplicates"),
        ("rejected", "dropped", "returned", "refused", "discarded", "lost"),
    )
    wait = summary["wait_ms"]
    spread = "  ".join(f"{name} {_figure(wait[name])}" for name in ("p50", "p95", "p99", "max"))
    population = f" {label('wait_ms')} of {_figure(wait['count'])} processed messages: {spread} ms"
    if (apart := summary.get("clock_uncertainty_ms")) is not None:
        population += f", each ± {_figure(apart)} ms (clocks of {len(summary['agents'])} agents)"
    return Text("\n".join([population, *(" " + _named(totals, names) for names in lines)]))


def _named(totals: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return "".join(f"{label(name)} {_figure(totals[name])}  " for name in names).rstrip()
