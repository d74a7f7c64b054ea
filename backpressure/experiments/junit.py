"""A verdict as JUnit XML, the one format every CI server shows: a run is a suite, an expectation is a test case."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, tostring

from backpressure.experiments.summary import Held, Summary

__all__ = ["junit_error", "to_junit"]

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
    """Return the document of a run of which there is no summary, for the ``reason``."""
    suite = _suite(scenario, tests=1, failures=0, errors=1)
    _error(suite, scenario, reason)
    return _document(suite)


def _suite(scenario: str, tests: int, failures: int, errors: int) -> Element:
    counts = {"tests": tests, "failures": failures, "errors": errors}
    return Element("testsuite", {"name": f"pace.{scenario}"} | {name: str(count) for name, count in counts.items()})


def _case(suite: Element, scenario: str, name: str) -> Element:
    return SubElement(suite, "testcase", {"classname": f"pace.{scenario}", "name": name})


def _error(suite: Element, scenario: str, reason: str) -> None:
    text = _NOT_XML.sub("?", reason)  # the last words of a process may be anything
    SubElement(_case(suite, scenario, "the run finishes"), "error", {"message": text})


def _document(suite: Element) -> str:
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def _sentence(held: Held) -> str:
    if isinstance(held.limit, tuple):
        return f"{held.metric} between {held.limit[0]:g} and {held.limit[1]:g}"
    return f"{held.metric} {held.op} {held.limit:g}"
