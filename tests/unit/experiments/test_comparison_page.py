"""The pages of a comparison of laws and of two runs side by side: complete, offline, and true to the figures."""

import html
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.comparison import TOO_LONG, Comparison, oracle, oracles, rank
from backpressure.experiments.recording import Recording
from backpressure.experiments.report.comparison_page import render_laws, render_runs, side_by_side
from backpressure.experiments.simulate import simulate

CHANGES = ("phase.normal.duration_s=3",)


def played() -> tuple[Comparison, dict[str, Recording]]:
    scenario = library.load("normal", CHANGES)
    recordings = {law: simulate(library.load("normal", CHANGES, law)) for law in ("pace", "bounded")}
    runs = {law: [summarise(recording)] for law, recording in recordings.items()}
    return rank("normal", "simulation", runs, [oracle(scenario)]), recordings


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_comparison_page_draws_every_law_and_the_oracle() -> None:
    comparison, recordings = played()
    page = render_laws(comparison, recordings, description="a sentence", command="pace compare normal")
    data = data_of(page)
    assert {f">{law}</text>" in page for law in ("pace", "bounded", "oracle")} == {True}
    assert comparison.sentence.replace(" ", "") in re.sub(r"\s", "", html.unescape(page))
    assert {law["law"] for law in data["laws"]} == {"pace", "bounded"}
    assert all(len(law["t"]) == len(law["depth"]) == len(law["processed"]) for law in data["laws"])
    assert "a sentence" in page
    assert "pace compare normal" in page


def test_the_page_needs_nothing_from_the_network() -> None:
    comparison, recordings = played()
    page = render_laws(comparison, recordings, description="", command="")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)


def test_markup_in_a_name_stays_text() -> None:
    comparison, recordings = played()
    page = render_runs(comparison, recordings, {}, command="<b>bold</b>")
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def test_a_comparison_is_titled_by_its_runs() -> None:
    comparison, recordings = played()
    summaries = {law: summarise(recording) for law, recording in recordings.items()}
    page = render_runs(comparison, recordings, summaries, command="")
    assert "<h1>normal: pace against bounded</h1>" in page
    data = data_of(page)
    assert [capacity["law"] for capacity in data["capacities"]] == ["capacity of pace", "capacity of bounded"]


def test_a_comparison_lays_verdicts_expectations_and_totals_side_by_side() -> None:
    _, recordings = played()
    pace, bounded = (summarise(recording) for recording in recordings.values())
    failed = bounded.model_copy(update={"verdict": "failed", "expectations": bounded.expectations[1:]})
    text = re.sub(r"<[^>]+>", " ", side_by_side({"a": pace, "<b>": failed}).replace("</tr>", "\n"))
    rows = [line.split() for line in text.splitlines()]
    assert ["verdict", "passed", "failed"] in rows
    assert ["a", "&lt;b&gt;"] in rows
    assert ["lost", "0", "0"] in rows
    assert any(row[-2:] == ["not", "expected"] for row in rows)


def test_the_time_axis_of_a_comparison_ends_with_the_longer_run() -> None:
    comparison, recordings = played()
    recordings["bounded"] = simulate(library.load("normal", ("phase.normal.duration_s=9",), "bounded"))
    page = render_runs(comparison, recordings, {}, command="")
    assert data_of(page)["length_s"] == pytest.approx(9)


def test_a_run_that_was_killed_before_anything_was_measured_is_shown_without_figures() -> None:
    comparison, recordings = played()
    empty = comparison.standings[0].model_copy(update={"utilisation": None, "wait_p99_ms": None})
    comparison = comparison.model_copy(update={"standings": [empty, *comparison.standings[1:]]})
    recordings[empty.law] = replace(recordings[empty.law], loads=(), phases=(), samples=())
    page = render_runs(comparison, recordings, {}, command="")
    data = data_of(page)
    assert f">{empty.law}</text>" not in page  # not at a wait of 0.1 ms
    assert {tuple(capacity["capacity"]) for capacity in data["capacities"]} == {(100, 100), (None,)}


def test_without_an_oracle_the_page_says_why_and_compares_with_nothing() -> None:
    _, recordings = played()
    runs = {law: [summarise(recording)] for law, recording in recordings.items()}
    comparison = rank("normal", "simulation", runs, oracles([library.load("stress-1m")]), oracle_note=TOO_LONG)
    page = render_laws(comparison, recordings, description="", command="")
    assert TOO_LONG in page
    assert {standing.of_achievable for standing in (*comparison.standings, comparison.oracle)} == {None}
    assert [f">{law}</text>" in page for law in ("pace", "bounded", "oracle")] == [True, True, False]
