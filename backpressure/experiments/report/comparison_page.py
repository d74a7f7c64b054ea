"""The pages that compare: several laws on one scenario, or single runs side by side.

Both begin with the table, then show the trade-off, then every law or run over time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from backpressure.experiments.analysis import summarise
from backpressure.experiments.comparison import ORACLE, TOO_LONG, Comparison, Spread, Standing, oracles, rank
from backpressure.experiments.recording import Recording
from backpressure.experiments.regression import Difference, differences, versus
from backpressure.experiments.report import capacities, sections, thinned, trade_off
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.summary import Held, MessageTotals, Summary, find_metric
from backpressure.presentation.numbers import figure, percent
from backpressure.presentation.terms import label, metric_name, quantity

_MOST_POINTS = 600
_COLUMNS = (
    "law",
    "used",
    "of achievable",
    "wait p50 ms",
    "p95 ms",
    "p99 ms",
    "p99 ÷ oracle's",
    "settle s",
    "depth max",
    "rejected",
    "lost",
    "producer CPU s",
)
_DIRECTIONS = {"better": ("ok", "✔ better"), "worse": ("bad", "✘ worse"), "same": ("", ""), "unknown": ("warn", "?")}
_VERDICT = {"passed": "ok", "failed": "bad", "interrupted": "bad", "error": "bad"}
_SEVERAL = "The runs differ in what could be achieved: each is held against the oracle of its own scenario"


def render_laws(comparison: Comparison, recordings: Mapping[str, Recording], *, description: str, command: str) -> str:
    """Return the page; ``recordings`` holds one run of each law."""
    runs = "1 run" if comparison.repeat == 1 else f"medians of {comparison.repeat} runs"
    facts = f"{comparison.broker} · {runs} per law · same seeds for all"
    capacities = {"capacity": next(iter(recordings.values()))}  # all had the same consumers
    parts = {
        "title": f"Comparison: {comparison.scenario}",
        "facts": facts,
        "shown": "Of several runs the first." if comparison.repeat > 1 else "",
        "description": description,
        "command": command,
    }
    return _page(parts, comparison, recordings, capacities)


def render_runs(
    comparison: Comparison,
    recordings: Mapping[str, Recording],
    summaries: Mapping[str, Summary],
    found: Sequence[Difference] = (),
    *,
    command: str,
) -> str:
    """Return the page of single runs side by side; all mappings have the runs' names as keys.

    ``found`` is how the second differs from the first.
    """
    parts = {
        "title": _title(summaries) or " against ".join(recordings),
        "facts": comparison.broker,
        "shown": "",
        "description": " – ".join(f"{name}: {run_label(run)}" for name, run in summaries.items()),
        "command": command,
    }
    capacities = {f"capacity of {name}": recording for name, recording in recordings.items()}
    return _page(parts, comparison, recordings, capacities, side_by_side(summaries, found))


def run_label(run: Summary) -> str:
    """Return how a run is called: by scenario, law, broker and time."""
    time = f"{run.started_at.replace('T', ' ')[:19]} UTC" if run.started_at else ""
    parts = (run.scenario, run.strategy, f"{run.broker} {run.broker_version}".rstrip(), time)
    return " · ".join(part for part in parts if part)


def _title(summaries: Mapping[str, Summary]) -> str:
    """Return the first thing in which the runs differ."""
    runs = list(summaries.values())
    for part in (
        lambda run: run.scenario,
        lambda run: run.strategy,
        lambda run: f"{run.broker} {run.broker_version}".rstrip(),
        lambda run: run.started_at.replace("T", " ")[:19],
    ):
        names = [part(run) for run in runs]
        if len(set(names)) > 1:
            same = "" if names[0] == runs[0].scenario else f"{runs[0].scenario}: "
            return same + " against ".join(names)
    return ""


def _page(
    parts: Mapping[str, str],
    comparison: Comparison,
    recordings: Mapping[str, Recording],
    capacities: Mapping[str, Recording],
    runs: str = "",
) -> str:
    return sections.fill(
        sections.asset("comparison.html"),
        {name: escape(text) for name, text in parts.items()}
        | {
            "style": sections.styles(),
            "sentence": sections.prose(comparison.sentence),
            "trade_off": trade_off.svg(comparison)
            or "<p>Nothing to compare: capacity used or queue wait was not measured.</p>",
            "runs": f"<section><h2>Runs</h2>{runs}</section>" if runs else "",
            "standings": _table(comparison) + f"<p><small>{escape(comparison.oracle_note or ORACLE)}.</small></p>",
            "data": json.dumps(_data(comparison, recordings, capacities), separators=(",", ":")).replace(
                "<", "\\u003c"
            ),
            "script": sections.scripts("comparison.js"),
        },
    )


def _table(comparison: Comparison) -> str:
    rows = [_row(standing) for standing in (*comparison.standings, comparison.oracle)]
    return sections.table(_COLUMNS, rows)


def _row(standing: Standing) -> list[str]:
    cells = (
        percent(standing.utilisation, 1) + _spread(standing.utilisation_range, 100),
        percent(standing.of_achievable, 1),
        figure(standing.wait_p50_ms),
        figure(standing.wait_p95_ms),
        figure(standing.wait_p99_ms) + _spread(standing.wait_p99_range, 1),
        figure(standing.wait_ratio),
        figure(standing.settle_s),
        figure(standing.depth_max),
        figure(standing.rejected),
        figure(standing.lost),
        figure(standing.producer_cpu_s),
    )
    name = escape(standing.law)
    return [f"<b>{name}</b>" if standing.on_front else name, *cells]


def _spread(spread: Spread | None, factor: float) -> str:
    """Return how far the runs differed, in small print."""
    return "" if spread is None else f" <small>{figure(spread[0] * factor)} – {figure(spread[1] * factor)}</small>"


def _data(
    comparison: Comparison, recordings: Mapping[str, Recording], capacities: Mapping[str, Recording]
) -> dict[str, Any]:
    length_s = max((recording.end_ns - recording.start_ns) / 1e9 for recording in recordings.values())
    return {
        "length_s": length_s,
        "capacities": [_capacity(name, recording) for name, recording in capacities.items()],
        "laws": [_series(standing.law, recordings[standing.law]) for standing in comparison.standings],
    }


def _capacity(name: str, recording: Recording) -> dict[str, Any]:
    """Return the steps of the consumers' capacity up to the end; none when the run ended before they were known."""
    loads = [load for load in recording.loads if load.at_ns <= recording.end_ns]
    length_s = (recording.end_ns - recording.start_ns) / 1e9
    return {
        "law": name,
        "t": [*((load.at_ns - recording.start_ns) / 1e9 for load in loads), length_s],
        "capacity": capacities(loads),
    }


def _series(law: str, recording: Recording) -> dict[str, Any]:
    samples = thinned(recording.measured, _MOST_POINTS)
    return {
        "law": law,
        "t": [sample.t_s for sample in samples],
        "depth": [sample.depth for sample in samples],
        "processed": [sample.processed_per_s for sample in samples],
        "allowed": [sample.allowed_per_s for sample in samples],
    }


def side_by_side(summaries: Mapping[str, Summary], found: Sequence[Difference] = ()) -> str:
    """Return a table with a column for each run, and one for the differences ``found`` between two of them.

    ``summaries`` has the runs' names as keys.
    """
    runs = summaries.values()
    facts = [
        ["verdict", *(f'<span class="{_VERDICT[run.verdict]}">{run.verdict}</span>' for run in runs)],
        ["scenario", *(escape(run.scenario) for run in runs)],
        ["law", *(escape(run.strategy) for run in runs)],
        ["broker", *(escape(f"{run.broker} {run.broker_version}") for run in runs)],
        ["began", *(escape(run.started_at.replace("T", " ")[:19] or "in virtual time") for run in runs)],
        ["duration", *(figure(run.duration_s, "s") for run in runs)],
    ]
    figures = [
        [
            f"{metric_name(one.metric)}{_place(one.metric)}",
            *(quantity(one.metric, find_metric(run.model_dump(), one.metric)) for run in runs),
            _delta(one),
        ]
        for one in found
        if not one.metric.startswith(("totals.", "duration_s"))
    ]
    deltas = {one.metric: _delta(one) for one in found}
    totals = [
        [label(name), *(figure(getattr(run.totals, name)) for run in runs), deltas.get(f"totals.{name}", "")]
        for name in MessageTotals.model_fields
    ]
    heads = ["", *(escape(name) for name in summaries), "difference"]
    rows = [*facts, *figures, *_expectations(runs), *totals]
    whole = [[*row, *([""] * (len(heads) - len(row)))][: len(heads) if found else len(heads) - 1] for row in rows]
    return f'<div class="side">{sections.table(heads if found else heads[:-1], whole)}</div>'


def _place(metric: str) -> str:
    return f", {metric.split('.')[1]}" if metric.startswith("phases.") else ""


def _delta(difference: Difference) -> str:
    """Return the change and which way it goes, in the words and colours of a verdict."""
    style, sign = _DIRECTIONS[difference.direction]
    change = "" if difference.change is None else f"{100 * difference.change:+.0f} %"
    return f'<span class="{style}">{sign} {change}</span>' if style else change


def _expectations(runs: Iterable[Summary]) -> list[list[str]]:
    """Return a row for each expectation of any run, with what each run measured."""
    checks = [(run, {(held.metric, sections.demand(held)): held for held in run.expectations}) for run in runs]
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
        return "not expected"
    return f"{sections.mark(held, run)} {figure(held.value)}{sections.beside(held, run)}"


@dataclass(frozen=True, slots=True)
class SideBySide:
    """A page about two runs, A and B: where it is, what it says in a sentence, and the runs' summaries."""

    page: Path
    sentence: str
    summaries: Mapping[str, Summary]


def write_comparison(directory: RunDirectory, other: RunDirectory, command: str) -> SideBySide:
    """Write the page of both runs into the first; ``command`` makes it again. Raises `ConfigError` if one is no run."""
    runs = dict(zip("AB", (directory, other), strict=True))
    recordings = {name: run.recording() for name, run in runs.items()}
    summaries = {name: summarise(recording) for name, recording in recordings.items()}
    found = differences([summaries["A"]], [summaries["B"]]) if all(run.phases for run in summaries.values()) else []
    sentence = versus(found) if found else "nothing was measured in one of them"
    page = render_runs(
        _compared(runs, summaries).model_copy(update={"sentence": f"{sentence}."}),
        recordings,
        summaries,
        found,
        command=command,
    )
    target = directory.path / "compare.html"
    directory.write_page(target.name, page)
    return SideBySide(target, sentence, summaries)


def _compared(runs: dict[str, RunDirectory], summaries: dict[str, Summary]) -> Comparison:
    """Rank the runs, each against what was achievable in it: they may be of different scenarios."""
    own = {name: oracles([run.scenario()]) for name, run in runs.items()}
    figures = [found.model_copy(update={"scenario": ""}) for best in own.values() for found in best]
    known, shared = len(figures) == len(runs), all(best == figures[0] for best in figures)
    return rank(
        " and ".join(dict.fromkeys(summary.scenario for summary in summaries.values())),
        " and ".join(dict.fromkeys(summary.broker for summary in summaries.values())),
        {name: [summary] for name, summary in summaries.items()},
        figures[:1] if known and shared else [],
        own=own,
        oracle_note="" if known and shared else _SEVERAL if known else TOO_LONG,
    )
