"""The classroom in a real browser: lessons change the model, the laws are compared, and one file is all it needs."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backpressure.dashboards.classroom import LESSONS

if TYPE_CHECKING:
    from chromium import Chromium

Wait = Callable[[Callable[[], object], str], None]


def text(chromium: Chromium, element: str) -> str:
    return str(chromium.run(f"document.getElementById('{element}')?.textContent ?? ''"))


def press(chromium: Chromium, words: str) -> None:
    chromium.run(f"[...document.querySelectorAll('button')].find((b) => b.textContent.startsWith('{words}')).click()")


def faster(chromium: Chromium) -> None:
    chromium.run("document.getElementById('speed').selectedIndex = 3")
    chromium.run("document.getElementById('speed').dispatchEvent(new Event('change'))")


def test_a_lesson_overloads_the_queue_and_a_law_relieves_it(
    chromium: Chromium, start: Any, wait_until: Wait, violations: Callable[[], list[str]]
) -> None:
    served = start("classroom", "2", "--port", "0")
    chromium.open(served.says(r"classroom: (\S+)")[1])
    wait_until(lambda: "five times as long" in text(chromium, "goal"), "the lesson is there")
    assert chromium.run("document.getElementById('lesson').options.length") == 1 + LESSONS
    faster(chromium)
    press(chromium, "Let the work take 500 ms")
    depth = "Number(document.getElementById('depth').textContent)"
    wait_until(lambda: chromium.run(f"{depth} > 100"), "the queue grows")
    assert "unbounded: no control" in text(chromium, "flow")
    law = "document.getElementById('knob-law')"
    chromium.run(f"{law}.value = 'pace', {law}.dispatchEvent(new Event('change'))")
    wait_until(lambda: chromium.run(f"{depth} < 10"), "the law lets the queue become short")
    slider = "document.getElementById('knob-consumers')"
    chromium.run(f"{slider}.value = 3, {slider}.dispatchEvent(new Event('input'))")
    assert chromium.run(f"{slider}.ariaValueText") == "4"
    assert re.search(
        "lesson=2.*workMs=500.*consumers=4.*law=pace", chromium.run("document.getElementById('link').href")
    )
    press(chromium, "Compare the laws")
    wait_until(lambda: "at a p99 wait of" in text(chromium, "comparing"), "the laws are compared")
    assert chromium.run("document.querySelectorAll('#laws tr').length") == 8
    assert violations() == []
    assert chromium.complaints == []
    served.signal(signal.SIGINT)
    assert served.ends() == 0


def test_a_full_memory_blocks_the_producer_and_a_bound_refuses(
    chromium: Chromium, start: Any, wait_until: Wait
) -> None:
    served = start("classroom", "3", "--port", "0")
    url = served.says(r"classroom: (\S+)")[1]
    chromium.open(url)
    wait_until(lambda: "200 MB" in text(chromium, "goal"), "the lesson is there")
    faster(chromium)
    press(chromium, "Let the work take 500 ms")
    wait_until(lambda: "the broker blocks" in text(chromium, "memory-parts"), "the memory is full")
    chromium.open(url.replace("lesson=3", "lesson=4&maxLength=50"))
    wait_until(lambda: "takes 50 messages" in text(chromium, "goal"), "another lesson is there")
    wait_until(lambda: re.search("^[1-9].* refused, 0 dropped", text(chromium, "lost-parts")), "the bound refuses")


def test_the_page_as_one_file_needs_no_server_and_fits_a_phone(
    chromium: Chromium, start: Any, tmp_path: Path, wait_until: Wait, violations: Callable[[], list[str]]
) -> None:
    page = tmp_path / "classroom.html"
    assert start("classroom", "--save", str(page)).ends() == 0
    chromium.open(f"{page.as_uri()}#lesson=9")
    wait_until(lambda: "sends 1000 messages" in text(chromium, "goal"), "the page works from a folder")
    press(chromium, "Burst of 1000")
    wait_until(lambda: "were taken" in text(chromium, "said"), "the burst is taken")
    grounds = set()
    for scheme in ("light", "dark"):
        chromium.prefer(scheme)
        grounds.add(chromium.run("getComputedStyle(document.body).backgroundColor"))
        for width in (390, 1600):
            chromium.resize(width, 900)
            wait_until(lambda: chromium.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out")
    assert len(grounds) == 2
    assert violations() == []  # of this file `make site` makes the hosted classroom
    assert chromium.complaints == []
