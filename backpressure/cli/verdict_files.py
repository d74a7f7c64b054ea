"""The verdict for a CI server: JUnit XML, which all of them show, and Markdown, ready for a job summary.

A file exists from the start, as the error of a run that did not come to its end, so it never tells of the run before.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from xml.etree.ElementTree import Element, SubElement, tostring

from backpressure.cli.run_outcome import Judgement, compared_cells
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.summary import Held, PhaseSummary, Summary
from backpressure.presentation.numbers import figure
from backpressure.presentation.terms import label


class VerdictFile(ABC):
    """Tells how a run ended, whatever happens."""

    option: ClassVar[str]

    def __init__(self, path: Path, scenario: str) -> None:
        """``path`` can be written to, or this raises `ConfigError`; ``scenario`` is what was asked for."""
        self._path = path
        self._told = False
        self.scenario = scenario
        if not path.absolute().parent.is_dir():
            raise ConfigError(self.option, str(path), "there is no such folder")
        try:
            self._before = self._keep(path)
            self._write(self._error(scenario, "the run did not come to its end"))
        except OSError as error:
            raise ConfigError(self.option, str(path), f"cannot be written: {error.strerror}") from None

    def tell(self, outcome: Judgement) -> None:
        """Write the verdict; raises `ExperimentError`."""
        self._told = True
        try:
            self._write(self._verdict(outcome))
        except OSError as error:
            raise ExperimentError(f"{self._path} cannot be written: {error.strerror}") from None

    def tell_error(self, reason: str) -> None:
        """Write that there is no verdict, and why; not after `tell`."""
        if not self._told:
            with suppress(OSError):  # the reason itself is the one to tell
                self._write(self._error(self.scenario, reason))

    def _keep(self, path: Path) -> str:  # noqa: ARG002 - a subclass looks at it
        """Return what stays in front of the verdict."""
        return ""

    @abstractmethod
    def _verdict(self, outcome: Judgement) -> str: ...

    @abstractmethod
    def _error(self, scenario: str, reason: str) -> str: ...

    def _write(self, text: str) -> None:
        self._path.write_text(self._before + text, encoding="utf-8")


class JUnitFile(VerdictFile):
    """JUnit XML: a run is a suite, an expectation a test case."""

    option = "--junit"

    def _verdict(self, outcome: Judgement) -> str:
        return to_junit(outcome)

    def _error(self, scenario: str, reason: str) -> str:
        return junit_error(scenario, reason)


class MarkdownFile(VerdictFile):
    """Markdown. GitHub's file for the summary of a job may hold that of other steps, which stays."""

    option = "--summary-md"

    def _keep(self, path: Path) -> str:
        shared = os.environ.get("GITHUB_STEP_SUMMARY")
        if not shared or not path.exists() or not path.samefile(shared):
            return ""
        before = path.read_text(encoding="utf-8", errors="replace")
        return f"{before.rstrip()}\n\n" if before.strip() else ""

    def _verdict(self, outcome: Judgement) -> str:
        return to_markdown(outcome)

    def _error(self, scenario: str, reason: str) -> str:
        return markdown_error(scenario, reason)


# --- JUnit ------------------------------------------------------------------------------------------------------------

_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def to_junit(outcome: Judgement) -> str:
    """Return the XML document. Every case has the measured value; a run that did not finish is one more, in error."""
    first = outcome.runs[0]
    cases: list[Element] = []
    for number, run in enumerate(outcome.runs, start=1):
        classname = f"pace.{first.scenario}" + (f".run-{number}" if len(outcome.runs) > 1 else "")
        cases += [_expected(classname, held) for held in run.expectations]
        if run.verdict in {"interrupted", "error"}:
            cases.append(_error_case(classname, outcome.reason or run.sentence or run.verdict))
    cases += _against_baseline(f"pace.{first.scenario}.baseline", outcome)
    suite = _suite(first.scenario, cases)
    suite.attrib |= {"time": f"{sum(run.duration_s for run in outcome.runs):.3f}", "timestamp": first.started_at}
    properties = SubElement(suite, "properties")
    for name in ("sentence", "verdict", *(["baseline"] if outcome.baseline else [])):
        SubElement(properties, "property", {"name": name, "value": _xml(str(getattr(outcome, name)))})
    suite.extend(cases)
    return _document(suite)


def junit_error(scenario: str, reason: str) -> str:
    """Return the document of a run that has no summary, with the ``reason``."""
    cases = [_error_case(f"pace.{scenario}", reason)]
    suite = _suite(scenario, cases)
    suite.extend(cases)
    return _document(suite)


def _suite(scenario: str, cases: Sequence[Element]) -> Element:
    counts = {"tests": len(cases)} | {
        f"{kind}s": sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error")
    }
    counts["failures"] = counts.pop("failures")
    return Element("testsuite", {"name": f"pace.{scenario}"} | {name: str(count) for name, count in counts.items()})


def _case(classname: str, name: str, measured: str) -> Element:
    case = Element("testcase", {"classname": classname, "name": name})
    properties = SubElement(case, "properties")
    SubElement(properties, "property", {"name": "measured", "value": measured})
    SubElement(case, "system-out").text = f"measured: {measured}"
    return case


def _expected(classname: str, held: Held) -> Element:
    measured = "not measured" if held.value is None else f"{held.value:g}"
    case = _case(classname, _demand(held), measured)
    if not held.held:
        verb = "was" if held.value is None else "is"
        case.insert(1, Element("failure", {"message": f"{held.metric} {verb} {measured}"}))
    return case


def _against_baseline(classname: str, outcome: Judgement) -> Iterator[Element]:
    for difference in outcome.compared:
        name = f"{difference.metric} within {100 * outcome.allowed:g} % of the baseline"
        _, before, after, change, noise = compared_cells(difference)
        case = _case(classname, name, f"{after} (baseline {before}, {change}, noise {noise})")
        if difference.direction == "worse":
            message = f"{difference.metric} is {after}; the baseline has {before} ({change}, noise {noise})"
            case.insert(1, Element("failure", {"message": message}))
        yield case


def _error_case(classname: str, reason: str) -> Element:
    case = Element("testcase", {"classname": classname, "name": "the run finishes"})
    SubElement(case, "error", {"message": _xml(reason)})
    return case


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)  # the last output of a process may be anything


def _document(suite: Element) -> str:
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def _demand(held: Held) -> str:
    if isinstance(held.limit, tuple):
        return f"{held.metric} between {held.limit[0]:g} and {held.limit[1]:g}"
    return f"{held.metric} {held.op} {held.limit:g}"


# --- Markdown ---------------------------------------------------------------------------------------------------------

_SIGNS = {"passed": "✅", "failed": "❌", "interrupted": "⚠️", "error": "❌"}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")


def to_markdown(outcome: Judgement) -> str:
    """Return the verdict with its sentence, the expectations, the phases, the totals, and the baseline."""
    run = outcome.deciding
    rest = outcome.sentence.removeprefix(f"{outcome.verdict}: ")
    several = f" · {len(outcome.runs)} runs" if len(outcome.runs) > 1 else ""
    facts = f"law {run.strategy} · {run.broker} {run.broker_version} · {figure(run.duration_s)} s{several}"
    parts = [
        f"### {_SIGNS[outcome.verdict]} {outcome.verdict}: {_plain(run.scenario)}",
        f"**{_plain(rest)}**",
        _plain(facts),
        _sources(run),
        _table(["", "figure", "expected", "measured"], [*_expected_rows(outcome)], text_columns=3),
        _table(_PHASE_HEADS, (_phase_row(phase) for phase in run.phases), text_columns=1),
        _totals(run),
    ]
    if outcome.compared:
        rows = ([*map(_plain, compared_cells(one)), one.direction] for one in outcome.compared)
        heads = ["figure", "baseline", "now", "change", "noise", "verdict"]
        table = _table(heads, rows, text_columns=1)
        which = f": {_plain(outcome.baseline)}" if outcome.baseline else ""
        parts.append(f"Against the baseline ({100 * outcome.allowed:g} % allowed){which}\n\n{table}")
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_error(scenario: str, reason: str) -> str:
    """Return the summary of a run that has no figures, with the ``reason``."""
    return f"### {_SIGNS['error']} error: {_plain(scenario)}\n\n**{_plain(reason)}**\n"


def _sources(run: Summary) -> str:
    """Return how each figure was obtained, where programs are not ours."""
    listed = _table(
        ["figure", "how"], ([f"`{name}`", _plain(how)] for name, how in run.sources.items()), text_columns=2
    )
    return f"<details><summary>How each figure was obtained</summary>\n\n{listed}\n\n</details>" if listed else ""


def _expected_rows(outcome: Judgement) -> Iterator[list[str]]:
    for held in outcome.deciding.expectations:
        demand = _demand(held).removeprefix(held.metric).strip()
        measured = figure(held.value, group=" ")
        if held.uncertainty is not None:
            measured += f" ± {figure(held.uncertainty)}"
        yield ["✔" if held.held else "✘", f"`{held.metric}`", f"`{demand}`", measured]


_PHASE_HEADS = [
    "phase",
    *map(label, ("offered_rate", "capacity", "process_rate", "utilisation")),
    "wait p99 ms",
    "max ms",
    label("depth_max"),
    f"{label('settle_s')} s",
]


def _phase_row(phase: PhaseSummary) -> list[str]:
    used = "–" if phase.utilisation is None else f"{100 * phase.utilisation:.1f} %"
    rates = [phase.offered_rate, phase.capacity, phase.process_rate]
    rest = [phase.wait_ms.p99, phase.wait_ms.max, phase.depth_max, phase.settle_s]
    return [_plain(phase.name), *(figure(rate, group=" ") for rate in rates), used, *(_figure(n) for n in rest)]


def _figure(value: float | None) -> str:
    return figure(value, group=" ")


def _totals(run: Summary) -> str:
    counts = ("offered", "confirmed", "processed", "dead_lettered", "left_in_queue", "duplicates")
    names = (*counts, "refused", "discarded", "lost")
    return _table(
        [label(name) for name in names], [[_figure(getattr(run.totals, name)) for name in names]], text_columns=0
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int) -> str:
    body = [f"| {' | '.join(row)} |" for row in rows]
    if not body:
        return ""
    rule = ("---" if column < text_columns else "---:" for column in range(len(heads)))
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'|'.join(rule)}|", *body])


def _plain(text: str) -> str:
    """Return ``text`` on one line, with nothing in it that Markdown or HTML would take for its own."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
