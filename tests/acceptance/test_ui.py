"""`pace ui` in a real browser: a run is started, steered, disturbed, judged and compared, and Ctrl-C leaves nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    from chromium import Chromium

Wait = Callable[[Callable[[], object], str], None]


def text(chromium: Chromium, element: str) -> str:
    return str(chromium.run(f"document.getElementById('{element}')?.textContent ?? ''"))


def start_run(chromium: Chromium, duration_s: float) -> None:
    chromium.run("document.getElementById('scenario').value = 'normal'")
    chromium.run(f"document.getElementById('settings').value = 'phase.normal.duration_s={duration_s}'")
    chromium.run("document.getElementById('start').requestSubmit()")


def set_value(chromium: Chromium, key: str, value: object) -> None:
    form = f"document.querySelector('[data-keys=\"{key}\"]')"
    chromium.run(f"{form}.querySelector('input, select').value = {json.dumps(str(value))}, {form}.requestSubmit()")


@pytest.mark.slow
def test_runs_are_started_steered_disturbed_judged_and_compared_from_the_page(
    chromium: Chromium, start: Any, tmp_path: Path, wait_until: Wait, violations: Callable[[], list[str]]
) -> None:
    served = start("ui", "--port", "0", "--runs", str(tmp_path / "runs"))
    url = served.says(r"ui: (\S+)")[1]
    chromium.open(url)
    wait_until(lambda: text(chromium, "state") == "no run", "the page is there")
    wait_until(lambda: text(chromium, "about"), "the scenarios are known")
    start_run(chromium, 60)
    wait_until(lambda: text(chromium, "state") == "running", "the run goes on")
    refused = httpx.post(f"{url}api/run", json={"scenario": "normal"}, trust_env=False, timeout=60)
    assert (refused.status_code, refused.json()["detail"]) == (
        409, "normal is under way: stop it first, or wait for its end",
    )  # fmt: skip
    other = httpx.post(
        f"{url}api/run/stop", json={}, headers={"Origin": "http://evil.example"}, trust_env=False, timeout=60
    )
    assert other.status_code == 403
    set_value(chromium, "consumer.rate", 40)
    wait_until(lambda: "by hand: consumer.rate = 40" in text(chromium, "notes"), "the change is noted")
    wait_until(lambda: "pace: " in text(chromium, "flow"), "the flow shows the law")
    chromium.run("document.getElementById('fault').value = 'consumer-stop'")
    chromium.run("document.getElementById('fault-s').value = '1', document.getElementById('disturb').requestSubmit()")
    wait_until(lambda: "continues (SIGCONT)" in text(chromium, "notes"), "the fault is over")
    set_value(chromium, "producer.strategy", "aimd")
    wait_until(lambda: "normal under aimd" in text(chromium, "title"), "the law is another")
    assert violations() == []
    chromium.run("document.getElementById('stop').click()")
    wait_until(lambda: "open the report" in text(chromium, "verdict"), "the run is judged")
    assert "interrupted" in text(chromium, "verdict")
    start_run(chromium, 1)
    wait_until(lambda: text(chromium, "state") != "no run", "another run begins")
    wait_until(lambda: text(chromium, "state") == "no run", "it is over")
    wait_until(lambda: chromium.run("document.querySelectorAll('#runs input').length") == 2, "two runs are listed")
    chromium.run("document.querySelectorAll('#runs input').forEach((tick) => tick.click())")
    chromium.run("document.getElementById('compare').requestSubmit()")
    link = "document.querySelector('#compared a')?.href"
    wait_until(lambda: chromium.run(link), "the runs are compared")
    assert chromium.complaints == []
    chromium.open(chromium.run(link))
    wait_until(lambda: chromium.run("document.querySelectorAll('canvas').length") > 0, "the comparison is drawn")


def test_ctrl_c_ends_a_run_that_is_under_way_and_leaves_no_process(
    start: Any, tmp_path: Path, wait_until: Wait
) -> None:
    served = start("ui", "--port", "0", "--runs", str(tmp_path / "runs"))
    url = served.says(r"ui: (\S+)")[1]
    httpx.post(f"{url}api/run", json={"scenario": "recovery"}, trust_env=False, timeout=60).raise_for_status()

    def state() -> str:
        return str(httpx.get(f"{url}api/run", trust_env=False, timeout=60).json()["state"])

    wait_until(lambda: state() == "running", "the run goes on")
    children = psutil.Process(served.pid).children(recursive=True)
    assert len(children) >= 4
    served.signal(signal.SIGINT)
    served.says("stopping the run: producers, then consumers")
    assert served.ends() == 0
    wait_until(lambda: not any(child.is_running() for child in children), "no process is left")
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["verdict"] == "interrupted"
