"""The report of a run: one self-contained HTML file, offline, light or dark, for a screen or a phone.

`sections` writes what can be read without JavaScript, `series` the data that ``page.js`` draws, `comparison_page` the
pages of several runs. `conclude` makes the report at the end of a run, and again for `pace report`.
"""

from __future__ import annotations

import json

from backpressure.experiments.analysis import summarise
from backpressure.experiments.document import to_toml
from backpressure.experiments.events import Note, RunEnded
from backpressure.experiments.recording import Recording
from backpressure.experiments.report import sections
from backpressure.experiments.report.series import chart_data
from backpressure.experiments.rundir import RunDirectory, RunFacts
from backpressure.experiments.summary import Summary

__all__ = ["conclude", "render"]


def conclude(directory: RunDirectory) -> Summary:
    """Analyse the run, write summary and report, return the summary; raises `ConfigError` when there is no run."""
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


def render(
    summary: Summary, recording: Recording, facts: RunFacts, notes: list[Note], *, scenario_toml: str, description: str
) -> str:
    """Return the page; ``description`` is the scenario's summary of itself."""
    data = json.dumps(chart_data(recording, summary.phases, notes), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": sections.escape(f"{summary.scenario}: {summary.verdict}"),
        "style": sections.styles(),
        "header": sections.header(summary, description),
        "expectations": sections.expectations(summary),
        "tiles": sections.tiles(summary),
        "phases": sections.phases(summary),
        "breakdown": sections.latency_breakdown(recording.accounts.breakdown.bands()),
        "ledger": sections.ledger(summary),
        "processes": sections.processes(summary),
        "notes": sections.notes(notes, recording.start_ns),
        "setup": sections.setup(facts, scenario_toml),
        "data": data,
        "script": sections.scripts("page.js"),
    }
    return sections.fill(sections.asset("page.html"), parts)
