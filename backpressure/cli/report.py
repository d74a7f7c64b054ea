"""``pace report``: a run analysed again, and two runs side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from backpressure.cli.run_outcome import EXIT_CODES, from_here, print_outcome
from backpressure.errors import ConfigError
from backpressure.experiments.report import conclude
from backpressure.experiments.report.comparison_page import run_label
from backpressure.experiments.report.two_runs import write_comparison
from backpressure.experiments.rundir import RunDirectory
from backpressure.presentation.terminal import new_console

__all__ = ["report"]


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
