"""The end of a run on the terminal: the verdict first, then what was expected, then the figures people ask for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backpressure.presentation.numbers import figure

__all__ = ["verdict"]

_figure = partial(figure, group="")  # what stands in a terminal may be searched and copied
_COLOURS = {"passed": "bold green", "failed": "bold red", "interrupted": "bold yellow", "error": "bold red"}


def verdict(summary: Mapping[str, Any]) -> RenderableType:
    """Return the table for a dumped summary."""
    title = Text.assemble(
        (f" {summary['verdict']} ".upper(), _COLOURS[summary["verdict"]] + " reverse"),
        f" {summary['scenario']} · {summary['strategy']} · {summary['broker']} {summary['broker_version']}",
        f" · {summary['duration_s']:.1f} s",
    )
    return Group(title, _expectations(summary), _phases(summary["phases"]), _totals(summary))


def _expectations(summary: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    discarded = _discarded(summary["totals"])
    for held in summary["expectations"]:
        limit = held["limit"]
        bound = f"{limit[0]:g} … {limit[1]:g}" if held["op"] == "between" else f"{held['op']} {limit:g}"
        mark = Text("✔", "green") if held["held"] else Text("✘", "bold red")
        note = Text(f"expected {bound}", "dim")
        if held["metric"].rpartition(".")[2] == "lost" and discarded:
            mark = Text("▲", "yellow") if held["held"] else mark
            note.append(f", but {discarded}", "yellow")
        table.add_row(mark, held["metric"], _figure(held["value"]), note)
    return table


def _discarded(totals: Mapping[str, Any]) -> str:
    """Return what is neither processed nor lost nor in a queue: the broker refused it or dropped it, and said so."""
    return ", ".join(f"{_figure(totals[name])} {name}" for name in ("rejected", "dropped", "returned") if totals[name])


def _phases(phases: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1))
    table.add_column("phase")
    for column in ("sent/s", "done/s", "used", "wait p50", "p99 ms", "depth max", "settled s"):
        table.add_column(column, justify="right")
    for phase in phases:
        wait = phase["wait_ms"]
        keys = ("publish_rate", "process_rate", "utilisation")
        figures = [*(phase[key] for key in keys), wait["p50"], wait["p99"], phase["depth_max"], phase["settle_s"]]
        table.add_row(phase["name"], *(_figure(value) for value in figures))
    return table


def _totals(summary: Mapping[str, Any]) -> Text:
    totals = summary["totals"]
    lines = (
        ("confirmed", "processed", "left_in_queue", "dead_lettered"),
        ("rejected", "dropped", "returned", "duplicates", "lost"),
    )
    return Text("\n".join(" " + _named(totals, names) for names in lines))


def _named(totals: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return "".join(f"{name.replace('_', ' ')} {_figure(totals[name])}  " for name in names).rstrip()
