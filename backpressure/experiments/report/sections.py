"""The sections of a report that are text and tables, as HTML, and the template that they fill.

Everything that comes from outside is escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from backpressure.experiments.accounts import PARTS, Band
from backpressure.experiments.events import Note
from backpressure.experiments.rundir import RunFacts
from backpressure.experiments.summary import Held, MessageTotals, Percentiles, Summary
from backpressure.presentation import SHARED, inlined
from backpressure.presentation.numbers import figure
from backpressure.presentation.terms import TERMS, label

_MOST_NOTES = 500
_HERE = Path(__file__).parent
_SHEETS = ("theme.css", "flow.css", "charts.css")
_MODULES = ("elements.js", "numbers.js", "words.js", "flow.js", "charts.js")  # each after those that it imports
_INSEPARABLE = re.compile(r"(?<=\d) (?=\d{3}\b|ms\b|s\b|%|msg/s|MB\b)")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_HUES = ("orange", "grey", "blue", "violet", "green")


def prose(text: str) -> str:
    """Return a sentence as HTML in which no number is torn from its thousands or its unit."""
    return _INSEPARABLE.sub("\u00a0", escape(text))


def header(summary: Summary, description: str) -> str:
    """Return the verdict with what decided it, the name and the circumstances."""
    held = sum(check.held for check in summary.expectations)
    why = summary.sentence.removeprefix(f"{summary.verdict}: ")
    circumstances = (
        f"{held} of {len(summary.expectations)} expectations held",
        f"law {summary.strategy}",
        f"{summary.broker} {summary.broker_version}".rstrip(),
        figure(summary.duration_s, "s"),
        *([summary.started_at.replace("T", " ")[:19] + " UTC"] if summary.started_at else []),
    )
    return (
        f'<p class="verdict {summary.verdict}"><b>{summary.verdict}</b> <span>{prose(why)}</span></p>'
        f"<h1>{escape(summary.scenario)}</h1><p class=lead>{escape(description)}</p>"
        f"<p class=facts>{' · '.join(escape(fact) for fact in circumstances)}</p>" + _sources(summary)
    )


def expectations(summary: Summary) -> str:
    """Return what was expected and what was measured."""
    if not summary.expectations:
        return "<p>The scenario states none.</p>"
    rows = [
        [
            mark(check, summary, words=True),
            f"<code>{escape(check.metric)}</code>",
            escape(demand(check)),
            figure(check.value) + within(check) + beside(check, summary),
        ]
        for check in summary.expectations
    ]
    return table(["", "figure", "expected", "measured"], rows, text_columns=3)


def mark(check: Held, summary: Summary, *, words: bool = False) -> str:
    """Return the sign of an expectation's result; "lost 0" is not a success while messages were given up."""
    sign, word, style = ("✔", "held", "ok") if check.held else ("✘", "not held", "bad")
    if check.held and beside(check, summary):
        sign, style = "▲", "warn"
    return f'<span class="{style}">{sign}{f" {word}" if words else ""}</span>'


def within(check: Held) -> str:
    """Return how wrong a value may be, where the clocks of several machines were involved."""
    return "" if check.uncertainty is None else f" ± {figure(check.uncertainty)}"


def beside(check: Held, summary: Summary) -> str:
    """Return what is shown beside the number of lost messages: those refused, dropped or returned."""
    totals = summary.totals
    counts = {"rejected": totals.rejected, "dropped": totals.dropped, "returned": totals.returned}
    told = ", ".join(f"{figure(count)} {name}" for name, count in counts.items() if count)
    return f" ({told})" if told and check.metric.rpartition(".")[2] == "lost" else ""


def _sources(summary: Summary) -> str:
    """Return how each figure was obtained, where programs are not ours; nothing otherwise."""
    if not summary.sources:
        return ""
    rows = [[f"<code>{escape(figure)}</code>", escape(how)] for figure, how in summary.sources.items()]
    listed = table(["figure", "how"], rows, text_columns=2)
    return f"<details><summary>How each figure was obtained</summary>{listed}</details>"


def tiles(summary: Summary) -> str:
    """Return the most important figures, each with its meaning as a tooltip."""
    share = None if summary.utilisation is None else summary.utilisation * 100
    totals, wait = summary.totals, summary.wait_ms
    population = f"of {figure(wait.count)} processed" if wait.count else ""
    if summary.clock_uncertainty_ms is not None:
        population += f" ± {figure(summary.clock_uncertainty_ms, 'ms')}"
    figures = [
        ("utilisation", "capacity used", figure(share, "%"), ""),
        ("wait_ms", f"{label('wait_ms')} p50", figure(wait.p50, "ms"), population),
        ("wait_ms", f"{label('wait_ms')} p99", figure(wait.p99, "ms"), population),
        ("wait_ms", f"longest {label('wait_ms')}", figure(wait.max, "ms"), population),
        ("depth_max", "deepest queue", figure(summary.depth.max), ""),
        ("processed", label("processed"), figure(totals.processed), f"of {figure(totals.offered)} offered"),
        *((name, label(name), figure(getattr(totals, name)), "") for name in ("refused", "discarded", "lost")),
    ]
    return "".join(
        f'<div title="{escape(TERMS[name].meaning)}"><dt>{head}</dt><dd>{value}{_small(note)}</dd></div>'
        for name, head, value, note in figures
    )


def _small(note: str) -> str:
    return f" <small>{note}</small>" if note else ""


def phases(summary: Summary) -> str:
    """Return one row for each phase; with fairness where there are several producers."""
    shared = sum(process.role == "producer" for process in summary.processes) > 1
    rows = [
        [
            escape(phase.name),
            f"{figure(phase.start_s)} – {figure(phase.end_s, 's')}",
            figure(phase.offered_rate),
            figure(phase.capacity),
            figure(phase.publish_rate),
            figure(phase.process_rate),
            figure(None if phase.utilisation is None else phase.utilisation * 100, "%"),
            figure(phase.wait_ms.p50),
            figure(phase.wait_ms.p99),
            figure(phase.wait_ms.max),
            figure(phase.wait_bound_ms),
            figure(phase.depth_max),
            figure(phase.settle_s, "s"),
            *([figure(phase.fairness_jain)] if shared else []),
        ]
        for phase in summary.phases
    ]
    heads = [
        "phase",
        "time",
        *map(label, ("offered_rate", "capacity", "publish_rate", "process_rate", "utilisation")),
        f"{label('wait_ms')} p50 ms",
        "p99 ms",
        "max ms",
        f"{label('wait_bound_ms')} ms",
        *map(label, ("depth_max", "settle_s")),
        *([label("fairness_jain")] if shared else []),
    ]
    return table(heads, rows)


def latency_breakdown(bands: Sequence[Band]) -> str:
    """Return one bar for each band of messages, as long as its mean time, in the colours of its parts."""
    if not bands:
        return "<p>No message was processed whose times are known.</p>"
    longest_ms = max(band.total_ms for band in bands) or 1.0
    legend = "".join(
        f'<span><i style="background:var(--{hue})"></i>{part}</span>' for part, hue in zip(PARTS, _HUES, strict=True)
    )
    rows = "".join(
        f"<tr><td>p{100 * band.lower:g} – p{100 * band.upper:g}</td><td class=n>{figure(band.total_ms, 'ms')}</td>"
        f"<td class=bars>{_bar(band, longest_ms)}</td></tr>"
        for band in bands
    )
    breakdown = (
        "<table class=breakdown><thead><tr><th>messages</th><th class=n>end to end, mean</th>"
        f"<th>where the time went</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    return (
        f"<p class=legend>{legend}</p>{scrolling(breakdown, 'where the time went')}"
        f"<p><small>A sample of {figure(sum(band.messages for band in bands))} messages, sorted by their end-to-end "
        "time. Held back: by pace and confirm window. Taken: until the broker confirmed (or delivered) it. Prefetched: "
        "in the consumer's buffer.</small></p>"
    )


def _bar(band: Band, longest_ms: float) -> str:
    return "".join(
        f'<i style="width:{100 * part_ms / longest_ms:.2f}%;background:var(--{hue})" '
        f'title="{part}: {figure(part_ms, "ms")}"></i>'
        for part, part_ms, hue in zip(PARTS, band.parts_ms, _HUES, strict=True)
    )


_EACH = "<p>Each of {} published messages, followed by its id, ended in one state:</p>"


def ledger(summary: Summary) -> str:
    """Return where every message ended, the counters and the latencies."""
    totals = summary.totals
    states = ("processed", "dead_lettered", "dropped", "left_in_queue", "rejected", "returned", "lost")
    rows = [
        [_term(name), figure(getattr(totals, name)), _share(getattr(totals, name), totals.published)] for name in states
    ]
    counted = [name for name in MessageTotals.model_fields if name not in {*states, "published"}]
    other = [[_term(name), figure(getattr(totals, name))] for name in counted]
    spreads: list[tuple[str, Percentiles]] = [
        (name, getattr(summary, name))
        for name in ("wait_ms", "end_to_end_ms", "confirm_ms", "signal_age_ms", "tick_lateness_ms")
    ]
    latency = [[_term(name), *(figure(n) for n in (p.p50, p.p95, p.p99, p.max, p.count))] for name, p in spreads]
    fairness = f"<p>Fairness between producers (Jain): {figure(summary.fairness_jain)}</p>"
    return (
        ("" if summary.sources else _EACH.format(figure(totals.published)))
        + table(["state", "messages", "share"], rows)
        + table(["counted", "messages"], other)
        + table(["milliseconds", "p50", "p95", "p99", "max", "of how many"], latency)
        + fairness
    )


def _term(name: str) -> str:
    """Return the label of a figure, with its meaning as a tooltip."""
    return f'<span title="{escape(TERMS[name].meaning)}">{label(name)}</span>'


def processes(summary: Summary) -> str:
    """Return what every process cost, and which machines took part."""
    rows = [
        [
            escape(process.id + (f" on {process.agent}" if process.agent else "")),
            str(process.pid),
            figure(process.cpu_s, "s"),
            figure(process.rss_max_mb, "MB"),
        ]
        for process in summary.processes
    ]
    return table(["process", "pid", "processor time", "memory, largest"], rows) + _agents(summary)


def _agents(summary: Summary) -> str:
    """Return the agents, and what their clocks mean for the figures; nothing where there are none."""
    if not summary.agents:
        return ""
    rows = [
        [
            escape(agent.name + (" (lost)" if agent.lost else "")),
            escape(agent.host),
            str(agent.processes),
            figure(agent.round_trip_ms, "ms"),
            f"± {figure(agent.clock_uncertainty_ms, 'ms')}",
        ]
        for agent in summary.agents
    ]
    listed = table(["agent", "host", "processes", "round trip, shortest", "its clock"], rows, text_columns=2)
    apart = figure(summary.clock_uncertainty_ms, "ms")
    return f"{listed}<p>Waits and end-to-end times are between clocks of several machines: each ± {apart}.</p>"


def notes(events: Sequence[Note], start_ns: int) -> str:
    """Return what happened, in order of time."""
    if not events:
        return "<p>Nothing worth a line.</p>"
    shown = [[figure(max(0.0, (event.at_ns - start_ns) / 1e9), "s"), escape(event.text)] for event in events]
    more = f"<p>… and {len(shown) - _MOST_NOTES} more in events.jsonl</p>" if len(shown) > _MOST_NOTES else ""
    return table(["time", "event"], shown[:_MOST_NOTES], text_columns=2) + more


def setup(facts: RunFacts, scenario_toml: str) -> str:
    """Return the command that runs it again, the scenario, and the environment."""
    environment = [[escape(name), escape(value)] for name, value in facts.environment.items()]
    environment.append(["broker", escape(f"{facts.broker} {facts.broker_version} at {facts.broker_address}")])
    return (
        f"<p>Run it again:</p><pre tabindex=0>{escape(facts.command)}</pre>"
        "<p>This very scenario, overrides included, is scenario.toml beside this file; every setting it does not name "
        f"had its default:</p><pre tabindex=0>{escape(scenario_toml)}</pre>"
        + table(["environment", ""], environment, text_columns=2)
    )


def demand(check: Held) -> str:
    """Return the expected value, as people write it."""
    if isinstance(check.limit, tuple):
        return f"between {check.limit[0]:g} and {check.limit[1]:g}"
    signs = {"<=": "≤", ">=": "≥", "==": "=", "!=": "≠"}
    return f"{signs.get(check.op, check.op)} {figure(check.limit)}"


def _share(value: int | None, whole: int | None) -> str:
    return "–" if value is None or not whole else figure(100 * value / whole, "%")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """Return a table of cells that are HTML already; the first ``text_columns`` are text, the others figures."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = ("" if column < text_columns else " class=n" for column in range(len(row)))
        tags = (tag if cell else "td" for cell in row)  # a heading that is empty is none
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for tag, kind, cell in zip(tags, kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    about = escape(re.sub(r"<[^>]*>", "", ", ".join(filter(None, heads))))
    return scrolling(f"<table><thead><tr>{cells('th', heads)}</tr></thead><tbody>{body}</tbody></table>", about)


def scrolling(content: str, about: str) -> str:
    """Return ``content`` in a frame that scrolls where it is too wide, also by the keyboard."""
    return f'<div class=scroll tabindex=0 role=group aria-label="{about}">{content}</div>'


def asset(name: str) -> str:
    """Return the text of a file of this folder."""
    return (_HERE / name).read_text(encoding="utf-8")


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Return ``template`` with every ``{{name}}`` replaced; what is filled in is not searched again."""
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], template)


def styles() -> str:
    """Return the style sheets of a page: the shared ones, then its own."""
    return "".join(SHARED[name].read_text(encoding="utf-8") for name in _SHEETS) + asset("page.css")


def scripts(name: str) -> str:
    """Return a page's script after the shared ones that it imports."""
    return inlined(*(SHARED[module] for module in _MODULES), _HERE / name)
