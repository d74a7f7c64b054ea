"""``pace report``: a run analysed again, and two runs side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from backpressure.cli.run_outcome import EXIT_CODES, from_here, print_outcome
from backpressure.errors import ConfigError
from backpressure.experiments.analysis import summarise
from backpressure.experiments.comparison import TOO_LONG, Comparison, oracles, rank
from backpressure.experiments.regression import differences, versus
from backpressure.experiments.report import conclude
from backpressure.experiments.report.comparison_page import render_runs, run_label
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.summary import Summary
from backpressure.presentation.terminal import new_console

__all__ = ["report"]

_SEVERAL = "The runs differ in what could be achieved: each is held against the oracle of its own scenario"


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("other_folder", metavar="[OTHER]", required=False, type=click.Path(path_type=Path))
def report(run_folder: Path, other_folder: Path | None) -> None:
    """Analyse the run in folder RUN again and write its report, even if the run was killed.

    Exit code 0: every expectation held; 1: one did not; 2: RUN is not the folder of a run, or damaged; 3: the run did
    not finish.

    With OTHER, another run, say in a sentence how it differs, and write compare.html into RUN: both side by side, in
    one table with the differences and on one time axis. This judges neither of them.
    """
    directory = RunDirectory(run_folder)
    if other_folder is None:
        summary = conclude(directory)
        print_outcome(summary, directory.report, quiet=False)
        sys.exit(EXIT_CODES[summary.verdict])
    other = RunDirectory(other_folder)
    if directory.path == other.path:
        raise ConfigError("OTHER", str(other_folder), "is the same run: name another one")
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
        command=shlex.join(["pace", "report", str(run_folder), str(other_folder)]),
    )
    target = directory.path / "compare.html"
    directory.write_page(target.name, page)
    output = new_console(highlight=False)
    for name, summary in summaries.items():
        output.print(f"{name}: {run_label(summary)} · {from_here(runs[name].path)}", soft_wrap=True, markup=False)
    output.print(sentence, soft_wrap=True, markup=False)
    output.print(f"side by side: {from_here(target)}", soft_wrap=True, markup=False)


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
