"""A verdict as JUnit XML, the one format every CI server shows: a run is a suite, an expectation is a test case."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

from backpressure.experiments.summary import Held, Summary

__all__ = ["to_junit"]


def to_junit(summary: Summary) -> str:
    """Return the XML document. A run that did not finish is one more case, in error."""
    failures = sum(not held.held for held in summary.expectations)
    unfinished = summary.verdict in {"interrupted", "error"}
    counts = {"tests": len(summary.expectations) + unfinished, "failures": failures, "errors": int(unfinished)}
    suite = Element(
        "testsuite",
        {"name": f"pace.{summary.scenario}", "time": f"{summary.duration_s:.3f}", "timestamp": summary.started_at}
        | {name: str(count) for name, count in counts.items()},
    )
    for held in summary.expectations:
        case = SubElement(suite, "testcase", {"classname": f"pace.{summary.scenario}", "name": _sentence(held)})
        if not held.held:
            SubElement(case, "failure", {"message": f"{held.metric} is {held.value}"})
    if unfinished:
        case = SubElement(suite, "testcase", {"classname": f"pace.{summary.scenario}", "name": "the run finishes"})
        SubElement(case, "error", {"message": summary.verdict})
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def _sentence(held: Held) -> str:
    if isinstance(held.limit, tuple):
        return f"{held.metric} between {held.limit[0]:g} and {held.limit[1]:g}"
    return f"{held.metric} {held.op} {held.limit:g}"
