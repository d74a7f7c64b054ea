"""``pace report`` and ``pace history``: recorded runs, analysed again, side by side, or one after the other."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
from rich.table import Table

from backpressure.cli import options
from backpressure.cli.run_outcome import EXIT_CODES, from_here, print_outcome
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.past_runs import Series, past_runs, series_of
from backpressure.experiments.report import conclude
from backpressure.experiments.report.comparison_page import run_label, write_comparison
from backpressure.experiments.report.history_page import render_history
from backpressure.experiments.rundir import RunDirectory
from backpressure.presentation.numbers import figure, percent
from backpressure.presentation.terminal import new_console

_PIPED_WIDTH = 100
_COLOURS = {"passed": "green", "failed": "red", "interrupted": "yellow", "error": "red"}


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
    found = write_comparison(directory, other, shlex.join(["pace", "report", str(run_folder), str(other_folder)]))
    output = new_console(highlight=False)
    for (name, summary), run in zip(found.summaries.items(), (directory, other), strict=True):
        output.print(f"{name}: {run_label(summary)} · {from_here(run.path)}", soft_wrap=True, markup=False)
    output.print(found.sentence, soft_wrap=True, markup=False)
    output.print(f"side by side: {from_here(found.page)}", soft_wrap=True, markup=False)


@click.command()
@click.argument("scenario", default="")
@options.runs_folder
@click.option(
    "--last",
    default=50,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Show at most so many runs, the latest.",
)
def history(scenario: str, *, runs: Path, last: int) -> None:
    """Show the runs in the folder `--runs`, those of SCENARIO if it is given, and what broke them.

    Each is held against the runs before it of the same scenario, law and broker that passed: against the median of the
    last five, with the noise of these. Where one became worse, or failed after one that passed, the settings, the
    commit and the versions that changed with it are named. Writes history.html, with trends, into the folder.
    """
    found = past_runs(runs, scenario)[-last:]
    series = series_of(found)
    output = new_console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    for one in series:
        output.print(one.name, style="bold", soft_wrap=True, markup=False)
        output.print(_table(one))
        output.print(one.sentence, soft_wrap=True, markup=False)
        output.print()
    target = runs / "history.html"
    try:
        target.write_text(render_history(series, runs, command=_command(scenario, runs)), encoding="utf-8")
    except OSError as error:
        raise ExperimentError(f"{target} cannot be written: {error.strerror}") from None
    output.print(f"page: {from_here(target.absolute())}", soft_wrap=True, markup=False)


def _command(scenario: str, runs: Path) -> str:
    return shlex.join(["pace", "history", *([scenario] if scenario else []), "--runs", str(runs)])


def _table(series: Series) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for column in ("began", "verdict"):
        table.add_column(column, no_wrap=True)
    for column in ("used", "p50 ms", "p99 ms", "max ms", "deepest", "discarded", "lost"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for judged in series.runs:
        run = judged.run.summary
        figures = (
            run.wait_ms.p50,
            run.wait_ms.p99,
            run.wait_ms.max,
            run.depth.max,
            run.totals.discarded,
            run.totals.lost,
        )
        table.add_row(
            judged.run.time or judged.run.folder.name,
            f"[{_COLOURS[run.verdict]}]{run.verdict}[/]",
            percent(run.utilisation, 1),
            *(figure(value, group="") for value in figures),
            "[bold red]▼ broke[/]" if judged.broke else "",
        )
    return table
