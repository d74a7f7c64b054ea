"""The consumer's window on its own display (Xvfb): bounded, controllable, closed cleanly."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NoReturn

import psutil
import pytest

from backpressure.dashboards import window

Wait = Callable[[Callable[[], object], str], None]


@pytest.fixture(scope="module")
def tk(go_without: Callable[[str, str], NoReturn]) -> None:
    """Tk, and an X server without a screen."""
    if find_spec("tkinter") is None or find_spec("_tkinter") is None or shutil.which("Xvfb") is None:
        go_without("tk", "python3-tk or xvfb is not installed")


@pytest.fixture(scope="module")
def display(tk: None) -> Iterator[str]:
    """The name of an X display that nobody sees."""
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1100x700x24", "-nolisten", "tcp"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as announced:
            yield f":{announced.readline().strip()}"
    finally:
        server.terminate()
        server.wait(60)


def update(*rows: list[str], paused: bool = False, notice: str = "") -> dict[str, Any]:
    return {"title": "slow takes work.queue", "facts": "processed 7", "paused": paused, "notice": notice, "rows": rows}


def row(number: int, outcome: str = "processed") -> list[str]:
    return ["12:00:00.000", outcome, "alice", str(number), "1.0 ms", "{braces} and $dollars"]


@pytest.fixture
def shown(display: str) -> Iterator[tuple[window.ConsumerWindow, list[dict[str, Any]]]]:
    """A window, and the requests that it has sent."""
    import tkinter as tk

    asked: list[dict[str, Any]] = []
    root = tk.Tk(screenName=display)
    try:
        yield window.ConsumerWindow(root, asked.append), asked
    finally:
        root.destroy()


def test_the_window_keeps_the_latest_rows_however_many_come(shown: Any) -> None:
    view, _ = shown
    for first in range(0, 5000, 200):
        view.show(update(*(row(n) for n in range(first, first + 200))))
        view.root.update()
    numbers = [view.rows.set(item, "number") for item in view.rows.get_children()]
    assert numbers == [str(n) for n in range(5000 - window.MOST_ROWS, 5000)]
    assert view.rows.yview()[1] == 1.0
    assert view.rows.set(view.rows.get_children()[-1], "body") == "{braces} and $dollars"


def test_the_text_stays_where_the_user_has_scrolled_to(shown: Any) -> None:
    view, _ = shown
    view.show(update(*(row(n) for n in range(100))))
    view.root.update()
    view.rows.yview_moveto(0)
    view.show(update(row(100)))
    view.root.update()
    assert view.rows.yview()[0] == 0


def test_buttons_ask_for_pause_resume_and_prefetch(shown: Any) -> None:
    view, asked = shown
    view.show(update())
    view.pause.invoke()
    view.show(update(paused=True, notice="lots is not possible"))
    assert view.pause.cget("text") == "Resume"
    view.pause.invoke()
    view.prefetch.set(" 17 ")
    view.prefetch.event_generate("<<ComboboxSelected>>")
    view.root.update()
    assert asked == [{"do": "pause"}, {"do": "resume"}, {"do": "prefetch", "value": "17"}]


def test_closing_the_window_ends_the_consumer_cleanly(start: Any, broker: Any, display: str, wait_until: Wait) -> None:
    where = ("--url", broker.url, "--queue", "windowed", "--no-api")
    producer = start("fast_producer.py", *where, "--count", "3000", "--strategy", "unbounded", "--rate", "2000")
    assert producer.ends() == 0
    consumer = start(
        "slow_consumer.py", *where, "--rate", "1000", "--progress-every", "500", "--window", DISPLAY=display
    )
    consumer.says("consumed=500")
    (child,) = psutil.Process(consumer.pid).children()
    child.send_signal(signal.SIGTERM)
    assert consumer.ends() == 0
    balance = consumer.says(r"consumed=(\d+), time=")
    wait_until(lambda: broker.depth("windowed") == 3000 - int(balance[1]), "what was not consumed is in the queue")
    assert not child.is_running()


def test_a_window_that_hangs_holds_up_no_message(start: Any, broker: Any, display: str) -> None:
    where = ("--url", broker.url, "--queue", "windowed-hung", "--no-api")
    consumer = start(
        "slow_consumer.py", *where, "--rate", "2000", "--progress-every", "1000", "--window", DISPLAY=display
    )
    consumer.says("takes windowed-hung")
    (child,) = psutil.Process(consumer.pid).children()
    child.suspend()  # it reads nothing any more: what is written to it fills the pipe within a second
    start("fast_producer.py", *where, "--count", "3000", "--strategy", "bounded", "--rate", "1000")
    consumer.says("consumed=3000")
    consumer.signal(signal.SIGINT)
    assert consumer.ends() == 0
    assert not child.is_running()


def test_the_window_goes_when_the_consumer_is_stopped(start: Any, broker: Any, display: str) -> None:
    where = ("--url", broker.url, "--queue", "windowed-too", "--no-api")
    consumer = start("slow_consumer.py", *where, "--window", DISPLAY=display)
    consumer.says("takes windowed-too")
    (child,) = psutil.Process(consumer.pid).children()
    consumer.signal(signal.SIGINT)
    assert consumer.ends() == 0
    assert not child.is_running()


@pytest.mark.usefixtures("tk")
def test_without_a_display_the_consumer_says_so_and_does_not_start(start: Any, broker: Any) -> None:
    consumer = start("slow_consumer.py", "--url", broker.url, "--no-api", "--window", DISPLAY="")
    assert consumer.ends() == 3
    assert "cannot open a window: there is no display" in consumer.text
    assert "Traceback" not in consumer.text
