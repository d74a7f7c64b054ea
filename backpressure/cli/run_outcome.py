"""How a run ends, for all commands that conduct one: verdict and report on the terminal, and the exit code."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from backpressure.dashboards.lines import RunLines
from backpressure.dashboards.run_view import verdict
from backpressure.errors import ExperimentError
from backpressure.experiments.brokers import BrokerChoice
from backpressure.experiments.document import to_toml
from backpressure.experiments.recording import Recording
from backpressure.experiments.regression import USUAL_CHANGE, Difference, told
from backpressure.experiments.report import conclude
from backpressure.experiments.rundir import create
from backpressure.experiments.runner import Runner
from backpressure.experiments.scenario import Scenario
from backpressure.experiments.summary import Summary, Verdict
from backpressure.presentation.numbers import UNKNOWN
from backpressure.presentation.terminal import new_console
from backpressure.presentation.terms import metric_name, quantity

EXIT_CODES: Mapping[Verdict, int] = {"passed": 0, "failed": 1, "interrupted": 3, "error": 3}
"""How a command that judges a run ends."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One run or its repeats, and how they compare with a baseline, if there is one.

    ``reason`` says why the last run ended early, if it did. ``allowed`` is the share by which a figure may be worse,
    ``baseline`` says which runs it is compared with.
    """

    runs: Sequence[Summary]
    reason: str = ""
    compared: Sequence[Difference] = ()
    allowed: float = USUAL_CHANGE
    baseline: str = ""

    @property
    def deciding(self) -> Summary:
        """The run that decides the verdict: the last one if it did not finish, else the first that failed."""
        if self.runs[-1].verdict in {"interrupted", "error"}:
            return self.runs[-1]
        return next((run for run in self.runs if run.verdict == "failed"), self.runs[0])

    @property
    def worse(self) -> list[Difference]:
        """What became worse than in the baseline."""
        return [difference for difference in self.compared if difference.direction == "worse"]

    @property
    def verdict(self) -> Verdict:
        """The verdict over all runs and the comparison."""
        own = self.deciding.verdict
        return "failed" if own == "passed" and self.worse else own

    @property
    def sentence(self) -> str:
        """What decided the verdict."""
        own = self.deciding.sentence
        if len(self.runs) > 1:
            word, _, rest = own.partition(": ")
            own = f"{word}: run {self.runs.index(self.deciding) + 1} of {len(self.runs)}: {rest}"
        if not self.compared:
            return own
        if not self.worse:
            return f"{own}; nothing worse than the baseline"
        against = "; ".join(told(difference) for difference in self.worse[:3])
        more = f"; {len(self.worse) - 3} more figures are worse" if len(self.worse) > 3 else ""
        allowance = f" (allowed: {100 * self.allowed:g} %)"
        if self.deciding.verdict == "passed":
            return f"failed: {against}{more}{allowance}; every expectation held"
        return f"{own}; {against}{more}{allowance}"


def print_outcome(summary: Summary, report: Path, *, quiet: bool) -> None:
    """Print the verdict, with all figures unless ``quiet``, and the path of the report."""
    output = new_console(highlight=False)
    if quiet:
        why = summary.sentence.removeprefix(f"{summary.verdict}: ")
        output.print(f"{summary.verdict}: {summary.scenario}: {why}", soft_wrap=True, markup=False)
    else:
        for part in verdict(summary.model_dump()).renderables:  # a log has the sentence in one line
            output.print(part, soft_wrap=isinstance(part, Text) and not output.is_terminal)
    output.print(f"report: {from_here(report)}", soft_wrap=True, markup=False)


def print_compared(outcome: Judgement, *, quiet: bool) -> None:
    """Print the verdict over several runs or against a baseline, with the figures that changed unless ``quiet``."""
    if len(outcome.runs) == 1 and not outcome.compared:
        return
    output = new_console(highlight=False)
    changed = [difference for difference in outcome.compared if difference.direction != "same"]
    if changed and not quiet:
        table = Table(box=None, header_style="dim", padding=(0, 1))
        table.add_column("against the baseline")
        for column in ("baseline", "now", "change", "noise", ""):
            table.add_column(column, justify="right")
        for difference in changed:
            colour = {"worse": "red", "better": "green"}.get(difference.direction, "")
            table.add_row(*compared_cells(difference), difference.direction, style=colour)
        output.print(table)
    same = len(outcome.compared) - len(changed)
    if outcome.compared and not quiet:
        output.print(f"{same} of {len(outcome.compared)} figures are as in the baseline", soft_wrap=True, markup=False)
        if outcome.baseline:
            output.print(f"baseline: {outcome.baseline}", soft_wrap=True, markup=False)
    output.print(outcome.sentence, soft_wrap=True, markup=False)


def compared_cells(difference: Difference) -> tuple[str, str, str, str, str]:
    """Return name, both values, change and noise of a figure, as people read them."""
    metric = difference.metric
    where = f", {metric.split('.')[1]}" if metric.startswith("phases.") else ""
    change = UNKNOWN if difference.change is None else f"{100 * difference.change:+.0f} %"
    values = (quantity(metric, value) for value in (difference.before, difference.after))
    before, after = values
    return f"{metric_name(metric)}{where}", before, after, change, f"± {quantity(metric, difference.noise)}"


class RealRuns:
    """Runs scenarios with real processes, each in its own folder below that of the command."""

    def __init__(self, choice: BrokerChoice, folder: Path) -> None:
        """``folder`` is the one of the command."""
        self._choice = choice
        self._folder = folder

    def __call__(self, plan: Scenario) -> tuple[Summary, Recording]:
        """Conduct one run and return what came of it; raises `ExperimentError` if it did not finish."""
        law = plan.settings.producer.strategy
        directory = create(self._folder, f"{plan.name}-{law.replace(':', '-')}", datetime.now().astimezone())
        directory.write_scenario(to_toml(plan.document))
        command = shlex.join(["pace", "run", str(directory.path / "scenario.toml"), "--broker", self._choice.label])
        outcome = Runner(plan, directory, self._choice, RunLines(lambda _: None), command).conduct()
        summary = conclude(directory)
        if outcome != "finished":
            raise ExperimentError(f"{outcome} during the run of {law}; what was measured is in {self._folder}")
        return summary, directory.recording()


def from_here(path: Path) -> Path:
    """Return ``path`` as one would type it in this folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def command_line(words: Sequence[str], assignments: Sequence[str], strategy: str) -> str:
    """Return what to type to run it again: ``words``, and the overrides that were given."""
    typed = [*words]
    for assignment in assignments:
        typed += ["--set", assignment]
    return shlex.join([*typed, "--strategy", strategy] if strategy else typed)
