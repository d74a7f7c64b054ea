"""The report of a run: one HTML file that explains itself, offline, light or dark, on a screen or a phone.

`tables` writes what can be read without JavaScript, `series` the data that ``page.js`` draws. Plotly's script is read
from the installed package, never imported: that would cost seconds.
"""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

from backpressure.errors import ExperimentError
from backpressure.experiments.analysis import Recording
from backpressure.experiments.events import Note
from backpressure.experiments.report import tables
from backpressure.experiments.report.series import chart_data
from backpressure.experiments.rundir import RunFacts
from backpressure.experiments.summary import Summary

__all__ = ["render"]

_HERE = Path(__file__).parent
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def render(
    summary: Summary, recording: Recording, facts: RunFacts, notes: list[Note], *, scenario_toml: str, description: str
) -> str:
    """Return the page; ``description`` is the scenario's own sentence about itself."""
    data = json.dumps(chart_data(recording), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": tables.escape(f"{summary.scenario}: {summary.verdict}"),
        "style": _asset("page.css"),
        "header": tables.header(summary, description),
        "expectations": tables.expectations(summary),
        "tiles": tables.tiles(summary),
        "phases": tables.phases(summary),
        "ledger": tables.ledger(summary),
        "processes": tables.processes(summary),
        "notes": tables.notes(notes, recording.start_ns),
        "setup": tables.setup(facts, scenario_toml),
        "data": data,
        "plotly": _plotly(),
        "script": _asset("page.js"),
    }
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _plotly() -> str:
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ExperimentError("plotly is not installed, so there is no script for the charts: pip install plotly")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
