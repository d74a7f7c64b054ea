"""One definition for each name: live line, live view, verdict and report say the same words for the same counts."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from backpressure.core.snapshot import Snapshot, Totals
from backpressure.dashboards.lines import RunLines
from backpressure.dashboards.run_view import RunLive, verdict
from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.recording import Recorder
from backpressure.experiments.report.sections import ledger, phases, tiles
from backpressure.experiments.simulate import simulate
from backpressure.experiments.summary import MessageTotals, PhaseSummary, Summary
from backpressure.presentation.numbers import amount, figure
from backpressure.presentation.terms import TERMS, label

Make = Callable[..., Snapshot]

PAGE = (Path(__file__).parents[3] / "docs/summary.md").read_text()


@pytest.fixture(scope="module")
def refusing() -> Summary:
    """Return a run in which the queue refused messages that nobody sent again."""
    plan = library.load("burst", ("queue.max_length=300", "phase.after.duration_s=2"), "bounded")
    return summarise(simulate(plan))


@pytest.mark.parametrize(
    "name", [*MessageTotals.model_fields, "offered_rate", "publish_rate", "process_rate", "capacity"]
)
def test_the_documentation_defines_a_figure_in_the_words_of_the_report(name: str) -> None:
    assert f"| `{name}` | {TERMS[name].documented} |" in PAGE


def test_the_charts_of_every_page_explain_a_name_in_the_words_of_the_report() -> None:
    script = (Path(__file__).parents[3] / "backpressure/presentation/words.js").read_text(encoding="utf-8")
    words = dict(re.findall(r'^  "?([\w ]+)"?: \["\w+", "(.*)"\],$', script, re.MULTILINE))
    shared = words.keys() & TERMS.keys()
    assert {"offered", "allowed", "published", "processed", "capacity", "depth"} <= shared
    assert {name: words[name] for name in shared} == {name: TERMS[name].meaning for name in shared}


def test_every_count_of_messages_has_a_term() -> None:
    assert set(MessageTotals.model_fields) <= set(TERMS)
    assert {"wait_ms", "depth_max", "settle_s", "utilisation"} <= set(TERMS) & set(PhaseSummary.model_fields)


def test_live_line_live_view_and_verdict_say_the_same_of_the_same_counts(refusing: Summary, snapshot: Make) -> None:
    totals = refusing.totals
    live = Totals(nacked=totals.refused or 0, rejected=totals.rejected, returned=totals.returned)
    seen = snapshot(totals=live)
    lines: list[str] = []
    watcher = RunLines(lines.append)
    watcher.began("t: t", "b", "work.queue", [("only", 1.0)])
    watcher.phase_began(0, lambda _: None)
    watcher.sampled(seen)
    console = Console(file=io.StringIO(), force_terminal=True, width=150, height=40, color_system=None)
    with RunLive(console) as view:
        view.began("t: t", "b", "work.queue", [("only", 1.0)])
        view.sampled(seen)
    ended = Console(file=io.StringIO(), width=150, color_system=None)
    ended.print(verdict(refusing.model_dump()))
    assert isinstance(console.file, io.StringIO)
    assert isinstance(ended.file, io.StringIO)
    for name in ("refused", "discarded"):
        count = getattr(totals, name)
        assert count > 0
        assert f"{label(name)} {amount(count)}" in lines[-1]
        assert f"{label(name)} {amount(count)}" in console.file.getvalue()
        assert f"{label(name)} {figure(count, group='')}" in ended.file.getvalue()
        assert f"<dt>{label(name)}</dt><dd>{figure(count)}</dd>" in tiles(refusing)
    for name in ("published", "processed", "wait_ms", "depth"):
        assert label(name) in lines[-1]
        assert label(name) in console.file.getvalue()


def test_a_live_total_of_discarded_messages_is_the_same_sum_as_in_the_verdict() -> None:
    assert Totals(rejected=3, returned=2, nacked=9).discarded == 5


def test_lost_refused_and_discarded_stand_side_by_side_in_tiles_and_totals(refusing: Summary) -> None:
    shown = [tiles(refusing).index(f"<dt>{label(name)}</dt>") for name in ("refused", "discarded", "lost")]
    assert shown == sorted(shown)
    for name in ("refused", "discarded", "lost"):
        assert f">{label(name)}</span>" in ledger(refusing)


def test_a_wait_names_how_many_messages_it_is_of_and_its_longest(refusing: Summary) -> None:
    population = f"of {figure(refusing.wait_ms.count)} processed"
    assert f"<dt>wait p99</dt><dd>{figure(refusing.wait_ms.p99, 'ms')} <small>{population}</small>" in tiles(refusing)
    assert f"<dt>longest wait</dt><dd>{figure(refusing.wait_ms.max, 'ms')}" in tiles(refusing)
    assert refusing.wait_ms.count - refusing.totals.processed in {0, 1}  # a simulation ends while one is worked on


def test_a_queue_that_never_settled_leaves_the_figure_empty(refusing: Summary) -> None:
    burst = next(phase for phase in refusing.phases if phase.name == "burst")
    assert burst.utilisation == pytest.approx(1.0, abs=0.02)  # the consumers had come to their capacity at once
    assert burst.settle_s is None
    assert phases(refusing).count("<td class=n>–</td>") >= 3
    paced = summarise(simulate(library.load("burst")))
    assert next(phase for phase in paced.phases if phase.name == "burst").settle_s == pytest.approx(0.0, abs=1.0)


def test_a_recorded_sample_has_what_the_broker_refused_so_far(snapshot: Make) -> None:
    sample = Recorder("work.queue").sample(0.0, snapshot(totals=Totals(nacked=7)), {})
    assert sample.nacked_total == 7
