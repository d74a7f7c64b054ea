"""Every page by keyboard alone: real key events reach, show and work all that a mouse can, and nothing holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import eventually
from keyboard import assert_all_can_be_reached, here, tab_to

if TYPE_CHECKING:
    from chromium import Chromium

Wait = Callable[[Callable[[], object], str], None]


def text(chromium: Chromium, element: str) -> str:
    return str(chromium.run(f"document.getElementById('{element}')?.textContent ?? ''"))


def skip(chromium: Chromium) -> None:
    """Press the first Tab and Enter: past the header."""
    chromium.press("Tab")
    assert here(chromium).startswith("a to the ")
    chromium.press("Enter")
    eventually(lambda: chromium.run("document.activeElement.id") == "main", "the header is skipped")


def test_the_live_page_is_worked_by_keyboard(chromium: Chromium, start: Any, broker: Any, wait_until: Wait) -> None:
    where = ("--url", broker.url, "--queue", "keyed")
    start("slow_consumer.py", *where, "--name", "slow", "--api-port", "0")
    start("fast_producer.py", *where, "--producer-id", "alice", "--api-port", "0")
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui", PACE_QUEUE__WORK="keyed")
    chromium.resize(1100, 900)
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])
    enabled = "document.querySelectorAll('#controls fieldset:enabled').length"
    wait_until(lambda: chromium.run(enabled) == 2, "both processes can be controlled")
    wait_until(
        lambda: chromium.run("document.querySelectorAll('.time-chart .legend button').length > 8"), "it is drawn"
    )
    skip(chromium)
    tab_to(chromium, "summary as a table")
    chromium.press("Enter")
    wait_until(lambda: chromium.run("document.querySelectorAll('.flow-words tr').length > 10"), "the table unfolds")
    chromium.press(" ")
    wait_until(lambda: not chromium.run("document.querySelector('.flow-words').open"), "it folds")
    tab_to(chromium, "button Pause")
    chromium.press(" ")
    wait_until(lambda: "pause  – done" in text(chromium, "answer"), "Space pauses")
    wait_until(lambda: here(chromium) == "button Resume", "the button keeps the keyboard")
    chromium.press("Enter")
    wait_until(lambda: "resume  – done" in text(chromium, "answer"), "Enter resumes")
    tab_to(chromium, "select")
    chosen = "document.activeElement.value"
    before = chromium.run(chosen)
    chromium.press("ArrowUp")
    wait_until(lambda: "– done" in text(chromium, "answer") and "resume" not in text(chromium, "answer"), "it is set")
    assert chromium.run(chosen) != before  # and the list keeps the keyboard
    tab_to(chromium, "div Rates: time of the cursor")
    told = "document.activeElement.ariaValueText"
    now = chromium.run(told)
    chromium.press("Home")
    wait_until(lambda: chromium.run(told) != now, "the chart tells of another moment")
    chromium.press("+")
    wait_until(lambda: not chromium.run("document.querySelector('#cursor button').hidden"), "the charts are zoomed")
    chromium.press("Escape")
    wait_until(lambda: chromium.run("document.querySelector('#cursor button').hidden"), "Escape shows everything")
    assert_all_can_be_reached(chromium)
    assert chromium.complaints == []


@pytest.mark.slow
def test_a_run_is_started_steered_stopped_and_compared_by_keyboard(
    chromium: Chromium, start: Any, tmp_path: Path, wait_until: Wait, violations: Callable[[], list[str]]
) -> None:
    served = start("ui", "--port", "0", "--runs", str(tmp_path / "runs"))
    chromium.resize(1100, 900)
    chromium.open(served.says(r"ui: (\S+)")[1])
    wait_until(lambda: text(chromium, "about"), "the scenarios are known")
    wait_until(lambda: text(chromium, "state") == "no run", "a run can be started")
    assert_all_can_be_reached(chromium)
    tab_to(chromium, "a to the runs")
    chromium.press("Enter")
    tab_to(chromium, "select")
    for character in "norm":
        chromium.press(character)
    assert chromium.run("document.getElementById('scenario').value") == "normal"
    wait_until(lambda: "normal 20 s" in text(chromium, "about"), "it is described")
    tab_to(chromium, "input settings")
    chromium.type("nonsense=1")
    tab_to(chromium, "button Start")
    chromium.press("Enter")
    wait_until(lambda: "nonsense" in text(chromium, "answer"), "the error names the setting")
    wait_until(lambda: here(chromium) == "button Start", "what was pressed keeps the keyboard")
    assert violations() == []
    chromium.resize(1100, 900)
    tab_to(chromium, "input settings", shift=True)
    chromium.run("document.activeElement.select()")
    chromium.type("phase.normal.duration_s=60")
    tab_to(chromium, "button Start")
    chromium.press("Enter")
    wait_until(lambda: text(chromium, "state") == "running", "the run goes on")
    wait_until(lambda: here(chromium) == "button Stop", "the keyboard is at what can be pressed now")
    tab_to(chromium, "input consumers can do")
    wait_until(lambda: chromium.run("document.activeElement.value"), "it shows the present rate")
    chromium.run("document.activeElement.select()")
    chromium.type("40")
    chromium.press("Enter")
    wait_until(lambda: "by hand: consumer.rate = 40" in text(chromium, "notes"), "the rate is changed")
    lines = "[...document.querySelectorAll('.time-chart .legend')].map((legend) => legend.childElementCount)"
    wait_until(lambda: chromium.run(lines) == [5, 3, 3], "every line of the charts has its button")
    tab_to(chromium, "div Rates: time of the cursor")
    chromium.press("ArrowLeft")
    assert_all_can_be_reached(chromium)
    tab_to(chromium, "button Stop", shift=True)
    chromium.press(" ")
    wait_until(lambda: "open the report" in text(chromium, "verdict"), "the run is stopped and judged")
    tab_to(chromium, "a open the report", shift=True)
    tab_to(chromium, "input compare ")
    chromium.press(" ")
    assert chromium.run("document.querySelectorAll('#runs input:checked').length") == 1
    assert ["422" in one["entry"]["text"] for one in chromium.complaints] == [True]  # the setting that is not there


def test_the_classroom_is_played_by_keyboard(chromium: Chromium, start: Any, tmp_path: Path, wait_until: Wait) -> None:
    page = tmp_path / "classroom.html"
    assert start("classroom", "--save", str(page)).ends() == 0
    chromium.resize(1100, 900)
    chromium.open(f"{page.as_uri()}#lesson=2")
    wait_until(lambda: "five times as long" in text(chromium, "goal"), "the lesson is there")
    skip(chromium)
    tab_to(chromium, "button Let the work take 500 ms")
    chromium.press("Enter")
    work = "document.getElementById('knob-workMs').ariaValueText"
    assert chromium.run(work) == "500 ms"
    tab_to(chromium, "summary What happens, and why")
    chromium.press(" ")
    wait_until(lambda: chromium.run("document.getElementById('answer').open"), "the answer unfolds")
    tab_to(chromium, "input work takes")
    chromium.press("ArrowLeft")
    assert chromium.run(work) == "400 ms"
    chromium.press("Home")
    assert chromium.run(work) == "1.0 ms"
    tab_to(chromium, "button Stop the consumers")
    chromium.press(" ")
    wait_until(lambda: here(chromium) == "button Let the consumers return", "the button says what it does next")
    chromium.press("Enter")
    tab_to(chromium, "button Pause", shift=True)
    chromium.press("Enter")
    wait_until(lambda: here(chromium) == "button Continue", "it is paused")
    assert_all_can_be_reached(chromium)
    assert chromium.complaints == []


def test_the_labs_page_is_worked_by_keyboard_and_accessible(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait, violations: Callable[[], list[str]]
) -> None:
    served = start("lab", "--url", broker.url, "--api-port", "0")
    chromium.resize(1100, 900)
    chromium.open(served.says(r"(http://\S+)")[1])
    wait_until(lambda: text(chromium, "state") == "live", "the page is live")
    skip(chromium)
    tab_to(chromium, "button Send")
    chromium.press("Enter")
    wait_until(lambda: "done" in text(chromium, "answer"), "a message is sent")
    tab_to(chromium, "button Consume")
    chromium.press(" ")
    wait_until(lambda: "1 received" in text(chromium, "rabbitmq"), "and received")
    assert_all_can_be_reached(chromium)
    assert violations() == []
