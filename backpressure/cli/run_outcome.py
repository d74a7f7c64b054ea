"""How a run ends, whoever conducted it: the verdict on the terminal, where its report is, and JUnit XML."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backpressure.dashboards.run_view import verdict
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.junit import junit_error, to_junit
from backpressure.experiments.summary import Summary, Verdict
from backpressure.presentation.terminal import new_console

__all__ = ["EXIT_CODES", "JUnitFile", "command_line", "from_here", "print_outcome"]

EXIT_CODES: Mapping[Verdict, int] = {"passed": 0, "failed": 1, "interrupted": 3, "error": 3}
"""How a command ends that judges a run, whenever it does."""


def print_outcome(summary: Summary, report: Path, *, quiet: bool) -> None:
    """Print the verdict, with all figures unless ``quiet``, and the path of the report."""
    output = new_console(highlight=False)
    if quiet:
        output.print(f"{summary.verdict}: {summary.scenario}", soft_wrap=True)
    else:
        output.print(verdict(summary.model_dump()))
    output.print(f"report: {from_here(report)}", soft_wrap=True, markup=False)


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


class JUnitFile:
    """The verdict for a CI server. Whatever happens, the file tells of this run and never of the one before."""

    def __init__(self, path: Path, scenario: str) -> None:
        """``path`` can be written to, or this raises `ConfigError`; ``scenario`` is what was asked for."""
        self._path = path
        self._told = False
        self.scenario = scenario
        if not path.absolute().parent.is_dir():
            raise ConfigError("--junit", str(path), "there is no such folder")
        try:
            self._write(junit_error(scenario, "the run did not come to its end"))
        except OSError as error:
            raise ConfigError("--junit", str(path), f"cannot be written: {error.strerror}") from None

    def tell(self, summary: Summary, reason: str) -> None:
        """Write the verdict; ``reason``: why the run did not finish, if it did not. Raises `ExperimentError`."""
        self._told = True
        try:
            self._write(to_junit(summary, reason))
        except OSError as error:
            raise ExperimentError(f"{self._path} cannot be written: {error.strerror}") from None

    def tell_error(self, reason: str) -> None:
        """Write that there is no verdict, and why; not after `tell`."""
        if not self._told:
            with suppress(OSError):  # the reason itself is the one to tell
                self._write(junit_error(self.scenario, reason))

    def _write(self, text: str) -> None:
        self._path.write_text(text, encoding="utf-8")
