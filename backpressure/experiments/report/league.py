"""The page of a league: the table first, then the trade-off, then every law over time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backpressure.experiments.league import League, Standing
from backpressure.experiments.recording import Recording
from backpressure.experiments.report.page import asset, fill, plotly_script
from backpressure.experiments.report.series import thinned
from backpressure.experiments.report.tables import escape

__all__ = ["render_comparison", "render_league"]

_MOST_POINTS = 600
_COLUMNS = (
    "law",
    "used",
    "of achievable",
    "wait p50 ms",
    "p95 ms",
    "p99 ms",
    "× oracle",
    "settle s",
    "depth max",
    "rejected",
    "lost",
    "producer CPU s",
)


def render_league(league: League, recordings: Mapping[str, Recording], *, description: str, command: str) -> str:
    """Return the page; ``recordings`` holds one run of each law."""
    runs = "1 run" if league.repeat == 1 else f"medians of {league.repeat} runs"
    facts = f"{league.broker} · {runs} a law · same seeds for all"
    return _page(f"League: {league.scenario}", facts, league, recordings, description, command)


def render_comparison(league: League, recordings: Mapping[str, Recording], *, description: str, command: str) -> str:
    """Return the page of single runs side by side; ``recordings`` and standings go by the runs' names."""
    title = " against ".join(recordings)
    return _page(title, league.broker, league, recordings, description, command)


def _page(
    title: str, facts: str, league: League, recordings: Mapping[str, Recording], description: str, command: str
) -> str:
    return fill(
        asset("league.html"),
        {
            "title": escape(title),
            "style": asset("page.css"),
            "description": escape(description),
            "facts": escape(facts),
            "standings": _table(league),
            "command": escape(command),
            "data": json.dumps(_data(league, recordings), separators=(",", ":")).replace("<", "\\u003c"),
            "plotly": plotly_script(),
            "script": asset("league.js"),
        },
    )


def _table(league: League) -> str:
    head = "".join(f"<th{'' if column == 'law' else ' class=n'}>{column}</th>" for column in _COLUMNS)
    rows = "".join(_row(standing) for standing in (*league.standings, league.oracle))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(standing: Standing) -> str:
    figures = (
        _percent(standing.utilisation),
        _percent(standing.of_achievable),
        _number(standing.wait_p50_ms),
        _number(standing.wait_p95_ms),
        _number(standing.wait_p99_ms),
        _number(standing.wait_ratio),
        _number(standing.settle_s),
        _number(standing.depth_max),
        str(standing.rejected),
        _number(standing.lost),
        _number(standing.producer_cpu_s),
    )
    name = escape(standing.law)
    first = f"<td>{f'<b>{name}</b>' if standing.on_front else name}</td>"
    return f"<tr>{first}{''.join(f'<td class=n>{figure}</td>' for figure in figures)}</tr>"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def _data(league: League, recordings: Mapping[str, Recording]) -> dict[str, Any]:
    some = next(iter(recordings.values()))
    length_s = (some.end_ns - some.start_ns) / 1e9
    return {
        "length_s": length_s,
        "capacity_t": [*((load.at_ns - some.start_ns) / 1e9 for load in some.loads), length_s],
        "capacity": [*(load.capacity_per_s for load in some.loads), some.loads[-1].capacity_per_s],
        "points": [
            {
                "law": standing.law,
                "used": 100 * (standing.utilisation or 0.0),
                "wait_ms": max(standing.wait_p99_ms or 0.0, 0.1),
                "on_front": standing.on_front,
            }
            for standing in (*league.standings, league.oracle.model_copy(update={"on_front": True}))
        ],
        "laws": [_series(standing.law, recordings[standing.law]) for standing in league.standings],
    }


def _series(law: str, recording: Recording) -> dict[str, Any]:
    samples = thinned(recording.samples, _MOST_POINTS)
    return {
        "law": law,
        "t": [sample.t_s for sample in samples],
        "depth": [None if sample.depth is None else max(sample.depth, 0.5) for sample in samples],
        "processed": [sample.processed_per_s for sample in samples],
        "allowed": [sample.allowed_per_s for sample in samples],
    }
