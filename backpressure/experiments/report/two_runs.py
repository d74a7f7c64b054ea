"""Two runs side by side: ``compare.html``, in one table and on one time axis, with what differs in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backpressure.experiments.analysis import summarise
from backpressure.experiments.comparison import TOO_LONG, Comparison, oracles, rank
from backpressure.experiments.regression import differences, versus
from backpressure.experiments.report.comparison_page import render_runs
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.summary import Summary

__all__ = ["SideBySide", "write_comparison"]

_SEVERAL = "The runs differ in what could be achieved: each is held against the oracle of its own scenario"


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
