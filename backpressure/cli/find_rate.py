"""``pace find-rate``: the highest offered load, or the fewest consumers, at which every expectation holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

import click
from rich.table import Table

from backpressure.cli import options
from backpressure.cli.run_outcome import RealRuns, command_line, from_here
from backpressure.errors import ConfigError, ExperimentError, PaceError
from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.brokers import BrokerChoice, check_broker, parse_choice
from backpressure.experiments.limits import (
    Limit,
    Search,
    Trial,
    Variation,
    Vary,
    find_limit,
    parse_demand,
    sentence_of,
    value_text,
)
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.experiments.simulate import simulate
from backpressure.presentation.numbers import figure, percent
from backpressure.presentation.terminal import new_console

_NEAR = 1.1  # on a broker, the next value tried is this much easier
_BROKER_CONFIRMATIONS = 2


@click.command("find-rate")
@click.argument("scenario", default="normal")
@click.option(
    "--expect",
    "demands",
    multiple=True,
    metavar="'METRIC OP LIMIT'",
    help="What has to hold, e.g. 'wait_ms.p99 <= 200' (repeatable), instead of what the scenario expects.",
)
@click.option(
    "--vary",
    type=click.Choice(["rate", "consumers", "prefetch"]),
    default="rate",
    show_default=True,
    help="What is looked for: the highest offered load, the fewest consumers, the smallest prefetch.",
)
@click.option("--from", "low", type=options.FiniteRange(min=0, min_open=True), help="The lowest value that is tried.")
@click.option("--to", "high", type=options.FiniteRange(min=0, min_open=True), help="The highest value that is tried.")
@click.option(
    "--precision",
    default=2.0,
    show_default=True,
    type=options.FiniteRange(min=0.1, max=100),
    help="How close to each other the value that holds and the one that fails are, in percent.",
)
@click.option(
    "--confirm",
    default=5,
    show_default=True,
    type=click.IntRange(1, 100),
    help="How many runs in virtual time must hold at the value that is found.",
)
@click.option("--broker", default="", help="Confirm it there too: embedded, rabbitmq, kafka or a URL.")
@click.option(
    "--broker-runs",
    default=12,
    show_default=True,
    type=click.IntRange(1, 100),
    help="At most so many runs on the broker.",
)
@options.runs_folder
@options.assignments
@options.strategy
def find_rate(
    scenario: str,
    *,
    demands: tuple[str, ...],
    vary: Vary,
    low: float | None,
    high: float | None,
    precision: float,
    confirm: int,
    broker: str,
    broker_runs: int,
    runs: Path,
    assignments: tuple[str, ...],
    strategy: str,
) -> None:
    """Find the highest offered load at which every expectation of SCENARIO holds, or the fewest consumers for its load.

    Searches in virtual time: doubles or halves until it has a value that holds and one that fails, halves the gap, and
    confirms the result with further seeds. With --broker it then runs the result there with real processes, and easier
    values where it does not hold. Programs that are not ours cannot be simulated: with them, the whole search runs on
    the broker. Writes limit.json.

    Exit code 0: found, or no limit up to --to; 1: no value holds; 2: bad usage or configuration; 3: could not finish.
    """
    choice = parse_choice(broker) if broker else None
    plan = library.load(scenario, assignments, strategy, defaults=choice.defaults if choice else None)
    variation = Variation.of(plan, vary, [parse_demand(text) for text in demands], scenario)
    library.check_programs(variation.plan)
    search = variation.search(low, high, precision / 100, confirm)
    variation.at(search.easiest, 0), variation.at(search.hardest, 0)  # reports an impossible value now
    if choice is not None:
        check_broker(variation.plan, choice)
    directory = create(runs, f"{plan.name}-limit", datetime.now().astimezone())
    if plan.can_be_simulated:
        limits = [_in_virtual_time(variation, search, directory)]
        if choice is not None and limits[0].held is not None:
            limits.append(_confirmed(variation, limits[0], choice, broker_runs, directory))
    elif choice is None:
        allowed = "is needed: a scenario with programs or faults that no model knows is searched on a broker"
        raise ConfigError("--broker", "", allowed)
    else:
        search.precision = max(search.precision, _NEAR - 1)
        search.confirmations = min(_BROKER_CONFIRMATIONS, confirm)
        search.most = broker_runs
        limits = [_on_broker(variation, search, choice, directory, before=[])]
    output = new_console(highlight=False)
    for limit in limits:
        demands_told = ", ".join(limit.expectations)
        output.print(
            f"{limit.scenario} · {limit.strategy} · {limit.where}: {demands_told}", soft_wrap=True, markup=False
        )
        output.print(_table(limit))
    for limit in limits:
        output.print(f"{limit.where}: {sentence_of(limit)}", soft_wrap=True, markup=False)
    if limits[-1].settings:
        again = command_line(["pace", "run", scenario], [*assignments, *limits[-1].settings], strategy)
        output.print(f"try it: {again}", soft_wrap=True, markup=False)
    output.print(f"all figures: {from_here(directory.path / 'limit.json')}", soft_wrap=True, markup=False)
    sys.exit(1 if limits[-1].held is None else 0)


def _in_virtual_time(variation: Variation, search: Search, directory: RunDirectory) -> Limit:
    with _progress() as (trying, tried):
        limit, failure = find_limit(
            variation, search, lambda plan: summarise(simulate(plan)), trying=trying, tried=tried
        )
    return _kept(directory, [limit], failure)


def _confirmed(variation: Variation, virtual: Limit, choice: BrokerChoice, most: int, directory: RunDirectory) -> Limit:
    """Run the limit of the simulation with real processes; where it does not hold, ease it by tenths until it does."""
    assert virtual.held is not None
    whole = variation.vary != "rate"
    easiest = virtual.held + most if whole else virtual.held / _NEAR**most
    search = Search(
        start=virtual.held,
        easiest=easiest,
        hardest=virtual.held,
        precision=_NEAR - 1,
        whole=whole,
        confirmations=min(_BROKER_CONFIRMATIONS, most),
        step=_NEAR,
        most=most,
    )
    return _on_broker(variation, search, choice, directory, before=[virtual])


def _on_broker(
    variation: Variation, search: Search, choice: BrokerChoice, directory: RunDirectory, *, before: list[Limit]
) -> Limit:
    """Search with real processes; ``before`` is what the simulation found, which is to be confirmed."""
    real = RealRuns(choice, directory.path)
    with _progress() as (trying, tried):
        limit, failure = find_limit(
            variation,
            search,
            lambda plan: real(plan)[0],
            trying=trying,
            tried=tried,
            stopping=(KeyboardInterrupt, PaceError),
            confirming=bool(before),
        )
    return _kept(directory, [*before, limit], failure)


def _kept(directory: RunDirectory, limits: list[Limit], failure: BaseException | None) -> Limit:
    """Write what is known, and return the last limit; raises `ExperimentError` where the search was cut short."""
    text = json.dumps([limit.model_dump() for limit in limits], indent=2, ensure_ascii=False)
    directory.write_page("limit.json", text + "\n")
    if failure is not None:
        new_console(highlight=False).print(_table(limits[-1]))
        reason = str(failure) if isinstance(failure, PaceError) else "interrupted"
        raise ExperimentError(
            f"{reason}; {sentence_of(limits[-1])}; all figures: {from_here(directory.path)}/limit.json"
        )
    return limits[-1]


@contextmanager
def _progress() -> Iterator[tuple[Callable[[float, int], None], Callable[[Trial], None]]]:
    """Yield what to call before and after each run: one line for each run, and on a terminal what is being tried."""
    output = new_console(highlight=False)
    with output.status("searching") if output.is_terminal else nullcontext() as status:

        def trying(value: float, number: int) -> None:
            if status is not None:
                status.update(f"trying {value_text(value)}, run {number + 1}")

        def tried(trial: Trial) -> None:
            sign, word = ("✔", "held") if trial.held == trial.runs else ("✘", "failed")
            told = trial.sentence.partition(": ")[2]
            line = f"{sign} {value_text(trial.value):>9} {word:<6} {told}"
            output.print(line, no_wrap=True, overflow="ellipsis", markup=False)

        yield trying, tried


def _table(limit: Limit) -> Table:
    table = Table(box=None, header_style="dim")
    heads = {"rate": "offered/s", "consumers": "consumers", "prefetch": "prefetch"}
    for column in (heads[limit.vary], "held", "used", "wait p99 ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for trial in limit.trials:
        all_held = trial.held == trial.runs
        style = "bold green" if trial.value == limit.held else "" if all_held else "red"
        cells = (f"{trial.held} of {trial.runs}", percent(trial.utilisation, 1), figure(trial.wait_p99_ms, group=" "))
        table.add_row(value_text(trial.value), *cells, style=style)
    return table
