"""The pages of a league and of two runs side by side: complete, offline, and true to the figures."""

import json
import re

from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.league import League, rank
from backpressure.experiments.oracle import oracle
from backpressure.experiments.report.league import render_comparison, render_league
from backpressure.experiments.simulate import simulate

CHANGES = ("phase.normal.duration_s=3",)


def played() -> tuple[League, dict[str, object]]:
    scenario = library.load("normal", CHANGES)
    recordings = {law: simulate(library.load("normal", CHANGES, law)) for law in ("pace", "bounded")}
    runs = {law: [summarise(recording)] for law, recording in recordings.items()}
    return rank("normal", "simulation", runs, [oracle(scenario)]), recordings


def data_of(page: str) -> dict[str, list[dict[str, object]]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_league_page_draws_every_law_and_the_oracle() -> None:
    league, recordings = played()
    page = render_league(league, recordings, description="a sentence", command="pace compare normal")
    data = data_of(page)
    assert {point["law"] for point in data["points"]} == {"pace", "bounded", "oracle"}
    assert {law["law"] for law in data["laws"]} == {"pace", "bounded"}
    assert all(len(law["t"]) == len(law["depth"]) == len(law["processed"]) for law in data["laws"])
    assert "a sentence" in page
    assert "pace compare normal" in page


def test_the_page_needs_nothing_from_the_network() -> None:
    league, recordings = played()
    page = render_league(league, recordings, description="", command="")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)


def test_markup_in_a_name_stays_text() -> None:
    league, recordings = played()
    page = render_comparison(league, recordings, description="<b>bold</b>", command="<i>")
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def test_a_comparison_is_titled_by_its_runs() -> None:
    league, recordings = played()
    page = render_comparison(league, recordings, description="", command="")
    assert "<h1>pace against bounded</h1>" in page
