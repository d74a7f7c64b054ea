"""Single runs in columns: verdict, what was expected, and where every message ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from backpressure.experiments.report.tables import beside, demand, escape, mark, table
from backpressure.experiments.summary import Held, Summary, Totals
from backpressure.presentation.numbers import figure

__all__ = ["side_by_side"]


def side_by_side(summaries: Mapping[str, Summary]) -> str:
    """Return a table with a column for each of ``summaries``, which go by the runs' names."""
    runs = summaries.values()
    facts = [
        ["verdict", *(f'<span class="{_VERDICT[run.verdict]}">{run.verdict}</span>' for run in runs)],
        ["law", *(escape(run.strategy) for run in runs)],
        ["broker", *(escape(f"{run.broker} {run.broker_version}") for run in runs)],
        ["duration", *(figure(run.duration_s, "s") for run in runs)],
    ]
    totals = [
        [name.replace("_", " "), *(figure(getattr(run.totals, name)) for run in runs)] for name in Totals.model_fields
    ]
    found = table(["", *(escape(name) for name in summaries)], [*facts, *_expectations(runs), *totals])
    return f'<div class="side">{found}</div>'


_VERDICT = {"passed": "ok", "failed": "bad", "interrupted": "bad", "error": "bad"}


def _expectations(runs: Iterable[Summary]) -> list[list[str]]:
    """Return a row for everything that any of the runs demands, with what each measured."""
    checks = [(run, {(held.metric, demand(held)): held for held in run.expectations}) for run in runs]
    rows = dict.fromkeys(key for _, found in checks for key in found)
    return [
        [
            f"<code>{escape(metric)}</code> {escape(text)}",
            *(_measured(run, found.get((metric, text))) for run, found in checks),
        ]
        for metric, text in rows
    ]


def _measured(run: Summary, held: Held | None) -> str:
    if held is None:
        return "not demanded"
    return f"{mark(held, run)} {figure(held.value)}{beside(held, run)}"
