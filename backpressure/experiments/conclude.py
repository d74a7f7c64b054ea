"""From a run directory to its ``summary.json`` and ``report.html``; at the end of a run, and again whenever asked."""

from __future__ import annotations

from backpressure.experiments.analysis import summarise
from backpressure.experiments.document import to_toml
from backpressure.experiments.events import Note, RunEnded
from backpressure.experiments.report import render
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.summary import Summary

__all__ = ["conclude"]


def conclude(directory: RunDirectory) -> Summary:
    """Analyse the run, write both files, return the summary; raises `ConfigError` when there is no run to analyse."""
    recording, scenario = directory.recording(), directory.scenario()
    summary = summarise(recording)
    directory.write_summary(summary)
    events = directory.events()
    notes = [event for event in events if isinstance(event, Note)]
    notes += [
        Note(at_ns=e.at_ns, text=f"the run ended: {e.reason}") for e in events if isinstance(e, RunEnded) and e.reason
    ]
    page = render(
        summary,
        recording,
        directory.facts(),
        notes,
        scenario_toml=to_toml(scenario.document),
        description=scenario.summary,
    )
    directory.write_report(page)
    return summary
