"""``pace run`` and ``pace scenarios``: experiments from the command line."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from backpressure.cli.run_outcome import from_here, print_outcome
from backpressure.dashboards.palette import PALETTE
from backpressure.dashboards.run_lines import RunLines
from backpressure.dashboards.run_live import RunLive
from backpressure.errors import ConfigError, ExperimentError, PaceError
from backpressure.experiments import library
from backpressure.experiments.brokers import parse_choice
from backpressure.experiments.conclude import conclude
from backpressure.experiments.document import to_toml
from backpressure.experiments.faults import check as check_faults
from backpressure.experiments.junit import to_junit
from backpressure.experiments.rundir import create
from backpressure.experiments.runner import Runner, Watcher

__all__ = ["run", "scenarios"]

_EXIT_CODES = {"passed": 0, "failed": 1, "interrupted": 3, "error": 3}


@click.command()
@click.argument("scenario", default=library.DEFAULT_SCENARIO)
@click.option(
    "--broker", default="embedded", show_default=True, help="embedded, rabbitmq, kafka (private ones) or a URL."
)
@click.option(
    "--runs", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where the run's folder is made."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override, e.g. producer.rate=500 (repeatable)."
)
@click.option("--strategy", default="", metavar="LAW", help="Rate-control law; `pace laws` lists them.")
@click.option("--quiet", is_flag=True, help="Print nothing but the verdict.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write the verdict here as JUnit XML.")
def run(
    scenario: str,
    *,
    broker: str,
    runs: Path,
    assignments: tuple[str, ...],
    strategy: str,
    quiet: bool,
    junit: Path | None,
) -> None:
    """Run SCENARIO, a name from `pace scenarios` or a TOML file, and judge it.

    Starts a broker, consumers and producers as real processes, goes through the phases, and writes a report. Exit code
    0: every expectation held; 1: one did not; 2: bad usage or configuration; 3: it could not run or finish.
    """
    plan = library.load(scenario, assignments, strategy)
    choice = parse_choice(broker)
    check_faults(plan.faults, choice.kind, choice.url)
    if junit is not None and not junit.absolute().parent.is_dir():
        raise ConfigError("--junit", str(junit), "there is no such folder")
    directory = create(runs, plan.name, datetime.now().astimezone())
    directory.write_scenario(to_toml(plan.document))
    failure: PaceError | None = None
    with _watching(quiet=quiet) as watcher, _logs_to(watcher):
        runner = Runner(plan, directory, choice, watcher, _command(scenario, choice.label, assignments, strategy))
        try:
            asyncio.run(runner.run())
        except PaceError as error:
            failure = error
            if not directory.has_begun:
                raise
    try:
        summary = conclude(directory)
    except ExperimentError as error:  # a full disk: what the run has measured is there, its report can wait
        reasons = "; ".join(str(problem) for problem in (failure, error) if problem is not None)
        raise ExperimentError(f"{reasons}; once it can be: pace report {from_here(directory.path)}") from None
    if junit is not None:
        junit.write_text(to_junit(summary), encoding="utf-8")
    print_outcome(summary, directory.report, quiet=quiet)
    if failure is not None:
        raise failure
    sys.exit(_EXIT_CODES[summary.verdict])


@click.group(invoke_without_command=True)
@click.pass_context
def scenarios(context: click.Context) -> None:
    """List the scenarios that ship; `pace scenarios show NAME` prints one, to start your own from."""
    if context.invoked_subcommand is None:
        for name in library.shipped():
            plan = library.load(name)
            default = " (default)" if name == library.DEFAULT_SCENARIO else ""
            click.echo(f"{name:<16} {plan.duration_s:>4.0f} s  {plan.summary}{default}")


@scenarios.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the scenario NAME."""
    click.echo(library.read(name), nl=False)


def _watching(*, quiet: bool) -> AbstractContextManager[Watcher]:
    console = Console(theme=PALETTE)
    if quiet:
        return nullcontext(RunLines(lambda _: None))
    return RunLive(console) if console.is_terminal else nullcontext(RunLines(click.echo))


@contextmanager
def _logs_to(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` show what our own connections log: printed by themselves, such lines would tear its picture."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            watcher.noted(record.getMessage())

    logger, handler = logging.getLogger("backpressure"), Handler(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _command(scenario: str, broker: str, assignments: tuple[str, ...], strategy: str) -> str:
    words = ["pace", "run", scenario, "--broker", broker]
    for assignment in assignments:
        words += ["--set", assignment]
    return shlex.join([*words, "--strategy", strategy] if strategy else words)
