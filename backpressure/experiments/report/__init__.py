"""The report of a run: one self-contained HTML file, offline, light or dark, for a screen or a phone.

`sections` writes what can be read without JavaScript, `chart_data` what ``page.js`` draws, `comparison_page` the
pages of several runs. `conclude` makes the report at the end of a run, and again for `pace report`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from backpressure.experiments.analysis import percentiles_over_time, summarise
from backpressure.experiments.document import to_toml
from backpressure.experiments.events import LoadChanged, Note, RunEnded
from backpressure.experiments.recording import Recording, Sample
from backpressure.experiments.report import sections
from backpressure.experiments.rundir import RunDirectory, RunFacts
from backpressure.experiments.summary import Percentiles, PhaseSummary, Summary

_MOST_POINTS = 1500
_MOST_NOTES = 500


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
        "title": escape(f"{summary.scenario}: {summary.verdict}"),
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


def chart_data(recording: Recording, phases: Sequence[PhaseSummary], notes: Sequence[Note] = ()) -> dict[str, Any]:
    """Return what ``page.js`` draws: seconds since the start, messages, msg/s, milliseconds, megabytes, events.

    It is thinned, so that the page of a day's run opens as fast as a minute's.
    """
    bounded = [phase for phase in phases if phase.wait_bound_ms is not None]
    start_ns, end_ns = recording.start_ns, recording.end_ns
    length_s = max(1.0, (end_ns - start_ns) / 1e9)
    samples = thinned(recording.measured)
    wait_t, waits = _waits(recording, step_s=max(1.0, round(length_s / _MOST_POINTS)))
    loads = [load for load in recording.loads if load.at_ns <= end_ns]
    processes = list(dict.fromkeys(name for sample in samples for name in sample.rss_mb))
    return {
        "length_s": length_s,
        "phases": [
            {
                "name": phase.name,
                "start": (phase.start_ns - start_ns) / 1e9,
                "end": (phase.end_ns - start_ns) / 1e9,
                "law": phase.strategy or recording.strategy,
            }
            for phase in recording.phases
        ],
        "faults": [
            {"name": fault.name, "start": (fault.start_ns - start_ns) / 1e9, "end": (fault.end_ns - start_ns) / 1e9}
            for fault in recording.faults
        ],
        "t": [sample.t_s for sample in samples],
        "ready": [sample.ready for sample in samples],
        "unacked": [sample.unacked for sample in samples],
        "depth": [sample.depth for sample in samples],
        "offered": [sample.offered_per_s for sample in samples],
        "published": [sample.published_per_s for sample in samples],
        "processed": [sample.processed_per_s for sample in samples],
        "allowed": [sample.allowed_per_s for sample in samples],
        "reason": [sample.reason for sample in samples],
        "in_flight": [sample.in_flight for sample in samples],
        "refused": [sample.nacked_per_s for sample in samples],
        "dead_letters": [sample.dead_letters for sample in samples],
        "blocked": [sample.blocked for sample in samples],
        "max_length": [sample.max_length for sample in samples],
        "processes": [
            [process.role, (process.start_ns - start_ns) / 1e9, (process.end_ns - start_ns) / 1e9]
            for process in recording.processes
            if process.role in {"producer", "consumer"}
        ],
        "exchange": "Kafka" not in recording.broker,
        "notes": [
            {"t": (note.at_ns - start_ns) / 1e9, "text": note.text}
            for note in notes
            if start_ns <= note.at_ns <= end_ns
        ][:_MOST_NOTES],
        "capacity_t": [*((load.at_ns - start_ns) / 1e9 for load in loads), length_s],
        "capacity": capacities(loads),
        "wait_t": wait_t,
        "wait": {name: [getattr(figures, name) for figures in waits] for name in ("p50", "p95", "p99", "max")},
        "bound_t": [at_s for phase in bounded for at_s in (phase.start_s, phase.end_s, phase.end_s)],
        "bound": [ms for phase in bounded for ms in (phase.wait_bound_ms, phase.wait_bound_ms, None)],
        "memory": {name: [sample.rss_mb.get(name) for sample in samples] for name in processes},
    }


def capacities(loads: Sequence[LoadChanged]) -> list[float | None]:
    """Return the consumers' capacity at each change and at the end; None where nobody knows it."""
    known = [load.capacity_per_s if load.capacity_known else None for load in loads]
    return [*known, known[-1] if known else None]


def _waits(recording: Recording, *, step_s: float) -> tuple[list[float], list[Percentiles]]:
    """Return times and percentiles; where no work began for a while, one without figures makes a gap."""
    times: list[float] = []
    figures: list[Percentiles] = []
    for t_s, found in percentiles_over_time(recording.accounts.waits, recording.start_ns, step_s):
        if times and t_s > times[-1] + 1.5 * step_s:
            times.append(times[-1] + step_s)
            figures.append(Percentiles())
        times.append(t_s)
        figures.append(found)
    return times, figures


def thinned(samples: Sequence[Sample], most: int = _MOST_POINTS) -> list[Sample]:
    """Return at most ``most`` samples; of neighbours the one with the deepest queue, so that no peak is lost."""
    step = -(-len(samples) // most) if samples else 1
    return [
        max(samples[first : first + step], key=lambda sample: sample.depth or 0)
        for first in range(0, len(samples), step)
    ]
