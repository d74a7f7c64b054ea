"""``pace compare``: several control laws on identical traces."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import product
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from backpressure.cli import options
from backpressure.cli.run_outcome import RealRuns, from_here
from backpressure.core.controllers import LAWS
from backpressure.errors import ConfigError, ExperimentError, PaceError
from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.brokers import check_broker, parse_choice
from backpressure.experiments.comparison import TOO_LONG, Comparison, Standing, oracles, rank
from backpressure.experiments.recording import Recording
from backpressure.experiments.report.comparison_page import render_laws
from backpressure.experiments.rundir import create
from backpressure.experiments.scenario import Scenario
from backpressure.experiments.simulate import simulate
from backpressure.experiments.summary import Summary
from backpressure.presentation.numbers import figure
from backpressure.presentation.terminal import new_console

_TRIAL_S = 0.5
_PIPED_WIDTH = 110


@click.command()
@click.argument("scenario", default="steps")
@click.option("--laws", default=",".join(LAWS), show_default=True, metavar="A,B,…", help="Which laws to compare.")
@click.option(
    "--repeat",
    default=1,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Runs per law; the medians are compared.",
)
@click.option("--simulate", "virtual", is_flag=True, help="In virtual time: seconds instead of minutes, no broker.")
@options.broker_choice
@options.runs_folder
@options.assignments
def compare(
    scenario: str, *, laws: str, repeat: int, virtual: bool, broker: str, runs: Path, assignments: tuple[str, ...]
) -> None:
    """Run SCENARIO under several laws with the same seeds and rank them beside the oracle.

    Writes league.html (table, trade-off, every law over time) and league.json, and every single run beside them. Run
    number n of every law has the scenario's seed plus n, so all see the same service times.
    """
    names = _law_names(laws)
    choice = parse_choice(broker)
    base = library.load(scenario, assignments, names[0], defaults=choice.defaults)

    def plan(law: str, number: int) -> Scenario:
        seeded = (*assignments, f"seed={base.seed + number}")
        return library.load(scenario, seeded, law, defaults=choice.defaults)

    for law in names:
        library.check_programs(plan(law, 0))
        simulate(plan(law, 0).shortened(_TRIAL_S))  # reports an unknown law or parameter now, not an hour later
    if not virtual:
        check_broker(base, choice)
    directory = create(runs, f"{base.name}-league", datetime.now().astimezone())
    folder = directory.path
    play = _simulated if virtual else RealRuns(choice, folder)
    found: dict[str, list[tuple[Summary, Recording]]] = {}
    failure: PaceError | None = None
    try:
        with _progress(len(names) * repeat) as advance:
            for number, law in product(range(repeat), names):
                advance(f"{law}, run {number + 1} of {repeat}")
                result = play(plan(law, number))
                found.setdefault(law, []).append(result)
    except (PaceError, KeyboardInterrupt) as error:  # hours may have been measured: they are worth a table
        failure = error if isinstance(error, PaceError) else ExperimentError("interrupted")
        if not found:
            raise failure from None
    comparison = _ranked(base, found, oracles(plan(names[0], number) for number in range(repeat)))
    page = render_laws(
        comparison,
        {law: results[0][1] for law, results in found.items()},
        description=base.summary,
        command=shlex.join(["pace", *sys.argv[1:]]),
    )
    directory.write_page("league.json", comparison.model_dump_json(indent=2) + "\n")
    directory.write_page("league.html", page)
    _print(comparison, folder / "league.html")
    if failure is not None:
        raise ExperimentError(f"{failure}; the table is of the runs that were finished") from failure


def _ranked(base: Scenario, found: Mapping[str, list[tuple[Summary, Recording]]], best: list[Summary]) -> Comparison:
    sample = next(iter(found.values()))[0][0]
    return rank(
        base.name,
        f"{sample.broker} {sample.broker_version}".rstrip(),
        {law: [summary for summary, _ in results] for law, results in found.items()},
        best,
        oracle_note="" if best else TOO_LONG,
    )


def _print(comparison: Comparison, page: Path) -> None:
    output = new_console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    output.print(comparison.sentence, soft_wrap=True, markup=False)
    output.print(_table(comparison))
    if comparison.oracle_note:
        output.print(comparison.oracle_note, soft_wrap=True)
    output.print(f"page: {from_here(page)}", soft_wrap=True, markup=False)


def _law_names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError("--laws", text, f"expected names separated by commas, for example {','.join(LAWS[-3:])}")
    return names


def _simulated(plan: Scenario) -> tuple[Summary, Recording]:
    recording = simulate(plan)
    return summarise(recording), recording


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Yield a function to call at the start of each run: it moves a bar on a terminal, or prints a line."""
    if not sys.stdout.isatty():
        yield lambda text: click.echo(f"running {text}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("", total=total, completed=-1)

        def advance(text: str) -> None:
            progress.update(task, advance=1, description=text)

        yield advance


def _table(comparison: Comparison) -> Table:
    table = Table(
        box=None, header_style="dim", title=f"{comparison.scenario} · {comparison.broker}", title_justify="left"
    )
    table.add_column("law", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for standing in (*comparison.standings, comparison.oracle):
        table.add_row(standing.law, *_figures(standing), style="bold" if standing.on_front else None)
    return table


_COLUMNS = ("used %", "of best %", "p50 ms", "p99 ms", "settle s", "depth", "rejected", "lost", "CPU s")


def _figures(standing: Standing) -> list[str]:
    shares = [standing.utilisation, standing.of_achievable]
    numbers = [
        standing.wait_p50_ms,
        standing.wait_p99_ms,
        standing.settle_s,
        standing.depth_max,
        standing.rejected,
        standing.lost,
        standing.producer_cpu_s,
    ]
    return ["–" if share is None else f"{100 * share:.1f}" for share in shares] + [
        figure(number, group="") for number in numbers
    ]
