"""``pace simulate``: any scenario in virtual time, with the same laws and the same summary."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click
from rich.progress import Progress

from backpressure.cli import options
from backpressure.cli.run_outcome import EXIT_CODES, command_line, print_outcome
from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.document import to_toml
from backpressure.experiments.recording import Recording
from backpressure.experiments.report import render
from backpressure.experiments.rundir import RunDirectory, RunFacts, create
from backpressure.experiments.scenario import Scenario
from backpressure.experiments.simulate import simulate as simulate_scenario
from backpressure.experiments.summary import Summary
from backpressure.version import __version__


@click.command()
@click.argument("scenario", default=library.DEFAULT_SCENARIO)
@options.runs_folder
@options.assignments
@options.strategy
@options.quiet
def simulate(scenario: str, *, runs: Path, assignments: tuple[str, ...], strategy: str, quiet: bool) -> None:
    """Simulate SCENARIO in virtual time: a minute takes less than a second, and no broker is needed.

    Laws, scenario and summary.json are those of `pace run`; broker, consumers, feedback and faults are a model. What it
    leaves out (processor time, memory) is absent from the summary. Exit codes are those of `pace run`.
    """
    plan = library.load(scenario, assignments, strategy)
    library.check_programs(plan)
    directory = create(runs, f"{plan.name}-simulated", datetime.now().astimezone())
    with Progress(disable=quiet or not sys.stdout.isatty(), transient=True) as progress:
        task = progress.add_task(f"simulating {plan.name}", total=plan.duration_s)
        recording = simulate_scenario(plan, progress=lambda now: progress.update(task, completed=now))
    summary = summarise(recording)
    command = command_line(["pace", "simulate", scenario], assignments, strategy)
    _write(directory, plan, recording, summary, command)
    print_outcome(summary, directory.report, quiet=quiet)
    sys.exit(EXIT_CODES[summary.verdict])


def _write(directory: RunDirectory, plan: Scenario, recording: Recording, summary: Summary, command: str) -> None:
    facts = RunFacts(
        strategy=recording.strategy,
        broker=recording.broker,
        broker_version="",
        broker_address="virtual time",
        started_at="",
        start_ns=0,
        command=command,
        environment={"pace": __version__},
    )
    directory.write_scenario(to_toml(plan.document))
    for sample in recording.samples:
        directory.append_sample(sample)
    directory.write_summary(summary)
    directory.write_report(
        render(summary, recording, facts, [], scenario_toml=to_toml(plan.document), description=plan.summary)
    )
