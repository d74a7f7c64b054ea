"""The pages of a run, of a comparison of laws and of two runs side by side, in a real browser and without a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chromium import Chromium

Wait = Callable[[Callable[[], object], str], None]

SHORT = ("--set", "phase.normal.duration_s=3")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> dict[str, Path]:
    """Write every kind of page there is, of runs of a few seconds, and return them by their kind."""
    folder = tmp_path_factory.mktemp("pages")

    def pace(*arguments: str) -> None:
        command = [sys.executable, "-m", "backpressure", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=90
        )
        assert done.returncode in {0, 1}, done.stdout + done.stderr

    pace("run", "normal", *SHORT, "--quiet")
    pace("compare", "normal", *SHORT, "--simulate", "--laws", "pace,aimd,bounded")
    pace("run", "normal", *SHORT, "--quiet", "--strategy", "threshold")
    [league] = (folder / "runs").glob("*-league")
    one, other = sorted((folder / "runs").glob("*-normal"))
    pace("report", str(one), str(other))
    return {"report": one / "report.html", "comparison": one / "compare.html", "league": league / "league.html"}


@pytest.mark.parametrize(("kind", "charts"), [("report", 5), ("comparison", 4), ("league", 4)])
def test_a_page_fits_a_phone_and_a_desk_light_and_dark_and_draws_all_it_has(
    chromium: Chromium, pages: dict[str, Path], wait_until: Wait, kind: str, charts: int
) -> None:
    chromium.open(pages[kind].as_uri())
    drawn = "document.querySelectorAll('.js-plotly-plot').length"
    wait_until(lambda: chromium.run(drawn) == charts, "all charts are drawn")
    grounds = set()
    for scheme in ("light", "dark"):
        chromium.prefer(scheme)
        grounds.add(chromium.run("getComputedStyle(document.body).backgroundColor"))
        for width in (390, 1200):
            chromium.resize(width, 900)
            wait_until(lambda: chromium.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out")
    assert len(grounds) == 2
    assert chromium.complaints == []
