"""The page of many runs: for each scenario, law and broker the trend of the main figures, and the runs that broke it.

The trends are drawn here as SVG: they need no script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from backpressure.experiments.past_runs import Judged, Series
from backpressure.experiments.report.sections import asset, fill, prose, styles, table
from backpressure.experiments.summary import Summary
from backpressure.presentation.numbers import figure, percent
from backpressure.presentation.terms import label

_WIDTH, _HEIGHT = 240.0, 64.0
_MARGIN = 6.0
_TRENDS: Sequence[tuple[str, str, Callable[[Summary], float | None]]] = (
    ("wait p99", "ms", lambda run: run.wait_ms.p99),
    ("longest wait", "ms", lambda run: run.wait_ms.max),
    ("capacity used", "%", lambda run: None if run.utilisation is None else 100 * run.utilisation),
    ("deepest queue", "", lambda run: run.depth.max),
)


def render_history(series: Sequence[Series], folder: Path, *, command: str) -> str:
    """Return the page, to be written into ``folder``; ``command`` makes it again."""
    runs = sum(len(one.runs) for one in series)
    broken = sum(any(judged.broke for judged in one.runs) for one in series)
    sentence = f"{broken} of {len(series)} became worse at one of its runs" if broken else "nothing became worse"
    parts = {
        "style": styles(),
        "facts": f"runs: {runs} · combinations of scenario, law and broker: {len(series)}",
        "sentence": prose(f"{sentence}."),
        "series": "".join(_section(one, folder) for one in reversed(series)),
        "command": escape(command),
    }
    return fill(asset("history.html"), parts)


def _section(series: Series, folder: Path) -> str:
    several = len(series.runs) > 1
    trends = "".join(_trend(series.runs, name, unit, value) for name, unit, value in _TRENDS if several)
    last = series.runs[-1]
    mood = "bad" if last.run.summary.verdict != "passed" or any(judged.broke for judged in series.runs) else ""
    return (
        f"<section><h2>{escape(series.name)}</h2><p class='sentence {mood}'>{prose(series.sentence)}</p>"
        f"<div class=trends>{trends}</div>{_table(series.runs, folder)}</section>"
    )


def _trend(runs: Sequence[Judged], name: str, unit: str, value: Callable[[Summary], float | None]) -> str:
    """Return one figure over the runs as a small picture; what broke is marked."""
    values = [value(judged.run.summary) for judged in runs]
    known = [number for number in values if number is not None]
    if not known:
        return ""
    top = max(known) or 1.0
    step = (_WIDTH - 2 * _MARGIN) / max(1, len(values) - 1)
    points = [
        (_MARGIN + index * step, _HEIGHT - _MARGIN - number / top * (_HEIGHT - 2 * _MARGIN), judged)
        for index, (number, judged) in enumerate(zip(values, runs, strict=True))
        if number is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    marks = "".join(
        f'<circle class="{"broke" if judged.broke else judged.run.summary.verdict}" cx="{x:.1f}" cy="{y:.1f}" '
        f'r="{4 if judged.broke else 2.5}"><title>{escape(judged.run.time)}: '
        f"{figure(value(judged.run.summary), unit)}</title></circle>"
        for x, y, judged in points
    )
    told = f"{name}: {figure(known[-1], unit)}, of {figure(min(known))} to {figure(max(known), unit)}"
    size = f'viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(told)}"'
    picture = f'<svg {size}><polyline points="{line}"/>{marks}</svg>'
    return f"<figure><figcaption>{name} <small>{figure(known[-1], unit)}</small></figcaption>{picture}</figure>"


_HEADS = ("began", "verdict", "used", "wait p50 ms", "p99 ms", "max ms", "deepest")


def _table(runs: Sequence[Judged], folder: Path) -> str:
    counts = ("refused", "discarded", "lost")
    broke = ' <span class="bad">▼ broke</span>'
    rows = []
    for judged in reversed(runs):
        run = judged.run.summary
        link = os.path.relpath(judged.run.folder / "report.html", folder)
        mood = "ok" if run.verdict == "passed" else "bad"
        why = judged.reason or ("" if run.verdict == "passed" else run.sentence)
        rows.append(
            [
                f'<a href="{escape(link)}">{escape(judged.run.time or judged.run.folder.name)}</a>',
                f'<span class="{mood}">{run.verdict}</span>{broke if judged.broke else ""}',
                percent(run.utilisation, 1),
                *(figure(value) for value in (run.wait_ms.p50, run.wait_ms.p99, run.wait_ms.max, run.depth.max)),
                *(figure(getattr(run.totals, name)) for name in counts),
                f"<small>{prose(why)}</small>",
            ]
        )
    heads = [*_HEADS, *map(label, counts), "why"]
    return f'<div class="history">{table(heads, rows, text_columns=2)}</div>'
