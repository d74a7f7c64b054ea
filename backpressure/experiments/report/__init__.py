"""The report of a run: one HTML file that explains itself, offline, light or dark, on a screen or a phone.

`tables` writes what can be read without JavaScript, `series` the data that ``page.js`` draws. Plotly's script is read
from the installed package, never imported: that would cost seconds.
"""

from __future__ import annotations

import json

from backpressure.experiments.events import Note
from backpressure.experiments.recording import Recording
from backpressure.experiments.report import tables
from backpressure.experiments.report.anatomy import wait_anatomy
from backpressure.experiments.report.page import asset, fill, plotly_script
from backpressure.experiments.report.series import chart_data
from backpressure.experiments.rundir import RunFacts
from backpressure.experiments.summary import Summary

__all__ = ["render"]


def render(
    summary: Summary, recording: Recording, facts: RunFacts, notes: list[Note], *, scenario_toml: str, description: str
) -> str:
    """Return the page; ``description`` is the scenario's own sentence about itself."""
    data = json.dumps(chart_data(recording, summary.phases), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": tables.escape(f"{summary.scenario}: {summary.verdict}"),
        "style": asset("page.css"),
        "header": tables.header(summary, description),
        "expectations": tables.expectations(summary),
        "tiles": tables.tiles(summary),
        "phases": tables.phases(summary),
        "anatomy": wait_anatomy(recording.accounts.anatomy.bands()),
        "ledger": tables.ledger(summary),
        "processes": tables.processes(summary),
        "notes": tables.notes(notes, recording.start_ns),
        "setup": tables.setup(facts, scenario_toml),
        "data": data,
        "plotly": plotly_script(),
        "script": asset("page.js"),
    }
    return fill(asset("page.html"), parts)
