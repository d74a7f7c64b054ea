"""The pages of a run, of a comparison of laws and of two runs side by side, in a real browser and without a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from keyboard import assert_all_can_be_reached, tab_to

if TYPE_CHECKING:
    from chromium import Chromium

Wait = Callable[[Callable[[], object], str], None]

DRAWN = "document.querySelectorAll('.time-chart [aria-valuetext]').length"
SHORT = ("--set", "phase.normal.duration_s=3")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> dict[str, Path]:
    """Write every kind of page there is, of runs of a few seconds, and return them by their kind."""
    folder = tmp_path_factory.mktemp("pages")

    def pace(*arguments: str) -> None:
        command = [sys.executable, "-m", "backpressure", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=280
        )
        assert done.returncode in {0, 1}, done.stdout + done.stderr

    pace("run", "normal", *SHORT, "--quiet")
    pace("compare", "normal", *SHORT, "--simulate", "--laws", "pace,aimd,bounded")
    pace("run", "normal", *SHORT, "--quiet", "--strategy", "threshold")
    [league] = (folder / "runs").glob("*-league")
    one, other = sorted((folder / "runs").glob("*-normal"))
    pace("report", str(one), str(other))
    pace("history")
    return {
        "report": one / "report.html",
        "comparison": one / "compare.html",
        "league": league / "league.html",
        "history": folder / "runs" / "history.html",
    }


@pytest.mark.parametrize(("kind", "charts"), [("report", 5), ("comparison", 3), ("league", 3), ("history", 0)])
def test_a_page_fits_a_phone_and_a_desk_light_and_dark_and_draws_all_it_has(
    chromium: Chromium, pages: dict[str, Path], wait_until: Wait, kind: str, charts: int
) -> None:
    chromium.open(pages[kind].as_uri())
    wait_until(lambda: chromium.run(DRAWN) == charts, "all charts are drawn")
    grounds = set()
    for scheme in ("light", "dark"):
        chromium.prefer(scheme)
        grounds.add(chromium.run("getComputedStyle(document.body).backgroundColor"))
        for width in (390, 1200):
            chromium.resize(width, 900)
            wait_until(lambda: chromium.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out")
    assert len(grounds) == 2
    assert chromium.complaints == []


@pytest.mark.parametrize("kind", ["report", "comparison", "league", "history"])
def test_a_page_is_accessible_and_small(
    chromium: Chromium, pages: dict[str, Path], wait_until: Wait, violations: Callable[[], list[str]], kind: str
) -> None:
    chromium.open(pages[kind].as_uri())
    if kind != "history":  # its trends are drawn without a script
        wait_until(lambda: chromium.run(DRAWN), "the charts are drawn")
    assert violations() == []
    assert pages[kind].stat().st_size < 300_000


def test_the_flow_picture_of_a_report_shows_the_moment_under_the_cursor(
    chromium: Chromium, pages: dict[str, Path], wait_until: Wait
) -> None:
    chromium.open(pages["report"].as_uri())
    wait_until(lambda: chromium.run(DRAWN), "the charts are drawn")
    act = "document.querySelector('#{} [role=slider]').dispatchEvent(new KeyboardEvent('keydown', {{key: '{}'}}))"
    moments = set()
    chromium.run("document.querySelector('.flow-words').open = true")
    for chart, key in (("depth", "Home"), ("rates", "End")):
        chromium.run(act.format(chart, key))
        moments.add(chromium.run("document.getElementById('flow-time').textContent.split(',')[0]"))
    assert len(moments) == 2
    assert "at 0 s" in moments
    cells = "[...document.querySelectorAll('.flow-words tr')].map((row) => [...row.children].map((c) => c.textContent))"
    facts = dict(chromium.run(cells))
    assert (facts["producers"], facts["consumers"]) == ("1", "1")
    charted = "document.querySelector('#rates [role=slider]').getAttribute('aria-valuetext')"
    rates = {name: f"{name} {facts[name]}" for name in ("offered", "published", "processed")}
    wait_until(lambda: all(told in chromium.run(charted) for told in rates.values()), "picture and chart agree")
    chromium.run("document.getElementById('replay').click()")
    wait_until(lambda: chromium.run("document.getElementById('replay').textContent") == "stop", "it plays")
    shown = "document.getElementById('moment').value"
    wait_until(lambda: 0.3 < float(chromium.run(shown)) < 3, "the run is played from its start")
    chromium.run("document.getElementById('replay').click()")
    assert chromium.complaints == []


@pytest.mark.parametrize("kind", ["report", "comparison", "league", "history"])
def test_a_page_of_results_is_read_by_keyboard(
    chromium: Chromium, pages: dict[str, Path], wait_until: Wait, kind: str
) -> None:
    chromium.resize(1100, 900)
    chromium.open(pages[kind].as_uri())
    wait_until(lambda: chromium.run("document.readyState") == "complete", "the page is there")
    if kind == "report":
        wait_until(lambda: chromium.run("!!document.querySelector('.legend button')"), "the charts are drawn")
        tab_to(chromium, "summary What happened")
        chromium.press("Enter")
        wait_until(lambda: not chromium.run("document.activeElement.parentElement.open"), "it folds")
        tab_to(chromium, "input Time of the flow picture")
        at = chromium.run("document.getElementById('flow-time').textContent")
        chromium.press("Home")
        wait_until(
            lambda: chromium.run("document.getElementById('flow-time').textContent") != at,
            "the picture shows another moment",
        )
    assert_all_can_be_reached(chromium)
    assert chromium.complaints == []
