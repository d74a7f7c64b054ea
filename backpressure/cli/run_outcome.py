"""How a run ends, for all commands that conduct one: verdict and report on the terminal, exit code, and JUnit XML.

JUnit XML is the one format that every CI server shows: a run is a suite, an expectation is a test case.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from backpressure.dashboards.run_view import verdict
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.summary import Held, Summary, Verdict
from backpressure.presentation.terminal import new_console

__all__ = ["EXIT_CODES", "JUnitFile", "command_line", "from_here", "junit_error", "print_outcome", "to_junit"]

EXIT_CODES: Mapping[Verdict, int] = {"passed": 0, "failed": 1, "interrupted": 3, "error": 3}
"""How a command that judges a run ends."""


def print_outcome(summary: Summary, report: Path, *, quiet: bool) -> None:
    """Print the verdict, with all figures unless ``quiet``, and the path of the report."""
    output = new_console(highlight=False)
    if quiet:
        why = summary.sentence.removeprefix(f"{summary.verdict}: ")
        output.print(f"{summary.verdict}: {summary.scenario}: {why}", soft_wrap=True, markup=False)
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


_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def to_junit(summary: Summary, reason: str = "") -> str:
    """Return the XML document. A run that did not finish is one more case, in error for the ``reason``."""
    failures = sum(not held.held for held in summary.expectations)
    unfinished = summary.verdict in {"interrupted", "error"}
    suite = _suite(summary.scenario, len(summary.expectations) + unfinished, failures, int(unfinished))
    suite.attrib |= {"time": f"{summary.duration_s:.3f}", "timestamp": summary.started_at}
    for held in summary.expectations:
        case = _case(suite, summary.scenario, _sentence(held))
        if not held.held:
            measured = "was not measured" if held.value is None else f"is {held.value:g}"
            SubElement(case, "failure", {"message": f"{held.metric} {measured}"})
    if unfinished:
        _error(suite, summary.scenario, reason or summary.verdict)
    return _document(suite)


def junit_error(scenario: str, reason: str) -> str:
    """Return the document of a run that has no summary, with the ``reason``."""
    suite = _suite(scenario, tests=1, failures=0, errors=1)
    _error(suite, scenario, reason)
    return _document(suite)


def _suite(scenario: str, tests: int, failures: int, errors: int) -> Element:
    counts = {"tests": tests, "failures": failures, "errors": errors}
    return Element("testsuite", {"name": f"pace.{scenario}"} | {name: str(count) for name, count in counts.items()})


def _case(suite: Element, scenario: str, name: str) -> Element:
    return SubElement(suite, "testcase", {"classname": f"pace.{scenario}", "name": name})


def _error(suite: Element, scenario: str, reason: str) -> None:
    text = _NOT_XML.sub("?", reason)  # the last output of a process may be anything
    SubElement(_case(suite, scenario, "the run finishes"), "error", {"message": text})


def _document(suite: Element) -> str:
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def _sentence(held: Held) -> str:
    if isinstance(held.limit, tuple):
        return f"{held.metric} between {held.limit[0]:g} and {held.limit[1]:g}"
    return f"{held.metric} {held.op} {held.limit:g}"
