"""``pace run``: an experiment with real processes, its verdict and its report."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click

from backpressure.cli import options
from backpressure.cli.run_outcome import (
    EXIT_CODES,
    Judgement,
    command_line,
    from_here,
    print_compared,
    print_outcome,
)
from backpressure.cli.verdict_files import JUnitFile, MarkdownFile, VerdictFile
from backpressure.config import load
from backpressure.dashboards.lines import RunLines
from backpressure.dashboards.run_view import RunLive
from backpressure.errors import ExperimentError, PaceError
from backpressure.experiments import library, past_runs
from backpressure.experiments.agents.conversation import seal_of
from backpressure.experiments.agents.pool import AgentTerms
from backpressure.experiments.brokers import BrokerChoice, check_broker, parse_choice
from backpressure.experiments.document import to_toml
from backpressure.experiments.regression import differences, parse_share
from backpressure.experiments.report import conclude
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.experiments.runner import TOO_SOON, Runner, Watcher
from backpressure.experiments.scenario import Scenario
from backpressure.experiments.summary import Summary
from backpressure.presentation.terminal import new_console


@click.command()
@click.argument("scenario", default=library.DEFAULT_SCENARIO)
@options.broker_choice
@click.option(
    "--predeclared",
    default="",
    metavar="QUEUE",
    help="Use this queue of the broker at the URL as it is: empty, with no consumers, declared by somebody else.",
)
@click.option(
    "--agents",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1000),
    help='How many agents (`pace agent`) the run waits for, where the scenario has on = "agents".',
)
@click.option(
    "--agents-wait",
    default=60.0,
    show_default=True,
    type=options.FiniteRange(0.1, 86_400),
    metavar="SECONDS",
    help="How long it waits for them.",
)
@options.setting("--group", key="agent.group")
@options.runs_folder
@options.assignments
@options.strategy
@options.quiet
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the verdict, or why there is none, to this file as JUnit XML.",
)
@click.option(
    "--summary-md",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The same as Markdown, ready for the summary of a CI job.",
)
@click.option(
    "--repeat",
    default=1,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Number of runs, each with the next seed; the medians are compared with the baseline.",
)
@click.option(
    "--baseline",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="Fail if a figure is worse than in this summary.json, this run, or the passed runs of the same law and broker "
    "in this folder (repeatable).",
)
@click.option(
    "--max-regression",
    default="10%",
    show_default=True,
    metavar="SHARE",
    help="How much worse than the baseline a figure may be.",
)
def run(
    scenario: str,
    *,
    broker: str,
    predeclared: str,
    agents: int,
    agents_wait: float,
    group: str | None,
    runs: Path,
    assignments: tuple[str, ...],
    strategy: str,
    quiet: bool,
    junit: Path | None,
    summary_md: Path | None,
    repeat: int,
    baseline: tuple[Path, ...],
    max_regression: str,
) -> None:
    """Run SCENARIO, a name from `pace scenarios` or a TOML file, and judge it.

    Starts a broker, consumers and producers as real processes, goes through the phases, and writes a report. Exit code
    0: every expectation held; 1: one did not, or a figure is worse than in the baseline; 2: bad usage or configuration;
    3: it could not run or finish.
    """
    if predeclared:
        assignments = (*_predeclared(predeclared), *assignments)  # each of them can be overridden
    kinds = ((JUnitFile, junit), (MarkdownFile, summary_md))
    files: list[VerdictFile] = [kind(path, scenario) for kind, path in kinds if path is not None]
    directory: RunDirectory | None = None
    failure: PaceError | None = None
    found: list[Summary] = []
    try:
        allowed = parse_share(max_regression, "--max-regression")
        choice = parse_choice(broker)
        plan = library.load(scenario, assignments, strategy, defaults=choice.defaults)
        if plan.on_agents:
            choice = replace(choice, agents=_agents(agents, agents_wait, group))
        older = past_runs.baseline(baseline, plan.name, plan.settings.producer.strategy, "--baseline")
        check_broker(plan, choice)
        library.check_programs(plan)
        for number in range(repeat):
            seeded = (*assignments, f"seed={plan.seed + number}") if number else assignments
            part = library.load(scenario, seeded, strategy, defaults=choice.defaults)
            directory = create(runs, plan.name, datetime.now().astimezone())
            directory.write_scenario(to_toml(part.document))
            command = command_line(["pace", "run", scenario, "--broker", choice.label], seeded, strategy)
            failure = _conduct(part, directory, choice, command, quiet=quiet)
            found.append(_conclude(directory, failure))
            print_outcome(found[-1], directory.report, quiet=quiet)
            if found[-1].verdict in {"interrupted", "error"}:
                break
        older = older.on(found[0].broker)
        compared = differences(older.runs, found, allowed=allowed) if older.runs else ()
        outcome = Judgement(found, str(failure or found[-1].verdict), compared, allowed, older.told)
        for file in files:
            file.scenario = plan.name
            file.tell(outcome)
        print_compared(outcome, quiet=quiet)
    except (PaceError, OSError, KeyboardInterrupt) as caught:
        error = caught
        if isinstance(error, KeyboardInterrupt):
            measured = directory is not None and directory.has_begun
            error = ExperimentError("interrupted while the verdict was written" if measured else TOO_SOON)
        for file in files:
            file.tell_error(str(error))
        raise error from None
    if failure is not None:
        raise failure
    sys.exit(EXIT_CODES[outcome.verdict])


def _agents(count: int, wait_s: float, group: str | None) -> AgentTerms:
    """Return what the command line, and for the token the environment, say about agents; raises `ConfigError`."""
    settings = load({} if group is None else {"agent.group": group}).agent
    seal_of(settings)
    return AgentTerms(count, wait_s, settings)


def _predeclared(queue: str) -> Iterator[str]:
    """Yield the assignments that stand for ``--predeclared``."""
    names = {"exchange": "", "routing_key": queue, "work": queue, "dead_letter": f"{queue}.dlq"}
    yield "queue.predeclared=true"
    for key, name in names.items():
        yield f"queue.{key}={json.dumps(name)}"


def _conduct(
    plan: Scenario, directory: RunDirectory, choice: BrokerChoice, command: str, *, quiet: bool
) -> PaceError | None:
    """Run it, and return the error that ended it early, if any; raises that error if nothing was measured."""
    try:
        with _watching(quiet=quiet) as watcher, _logs_to(watcher):
            Runner(plan, directory, choice, watcher, command).conduct()
    except PaceError as error:
        if not directory.has_begun:
            raise
        return error
    except KeyboardInterrupt:  # outside the time in which signals end a run cleanly
        if not directory.has_begun:
            raise ExperimentError(TOO_SOON) from None
        return ExperimentError("interrupted while its processes were stopped")
    return None


def _conclude(directory: RunDirectory, failure: PaceError | None) -> Summary:
    """Write the report and return the summary; raises `ExperimentError` that says how to write it later."""
    try:
        return conclude(directory)
    except KeyboardInterrupt:
        problem = "interrupted while the report was made"
    except ExperimentError as error:  # such as a full disk: the measurements are kept, the report can be written later
        problem = str(error)
    reasons = "; ".join([*([str(failure)] if failure else []), problem])
    raise ExperimentError(f"{reasons}; once it can be: pace report {shlex.quote(str(from_here(directory.path)))}")


def _watching(*, quiet: bool) -> AbstractContextManager[Watcher]:
    if quiet:
        return nullcontext(RunLines(lambda _: None))
    output = new_console()
    return RunLive(output) if output.is_terminal else nullcontext(RunLines(click.echo))


@contextmanager
def _logs_to(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` show the log lines of this process: printed directly, they would break up its display."""

    class ToWatcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            watcher.noted(record.getMessage())

    logger, handler = logging.getLogger("backpressure"), ToWatcher(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
