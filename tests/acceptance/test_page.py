"""The live page in a real browser: it shows the loop, and its controls change it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Wait = Callable[[Callable[[], object], str], None]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--remote-debugging-pipe")

RENUMBER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""The browser reads commands from file 3 and writes answers to file 4, whatever the numbers of ours are."""


class Browser:
    """A headless Chromium that is told what to do in its DevTools protocol, over two pipes: no port, no driver."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", RENUMBER, str(commands), str(answers), *command],
            pass_fds=[commands, answers],
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._read = b""
        self._asked = 0
        self._session: dict[str, str] = {}
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def open(self, url: str) -> None:
        """Go to ``url``."""
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of an expression on the page; None where it fails."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._commands)
        os.close(self._answers)

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._asked:
            pass  # an event
        result: dict[str, Any] = answer["result"]
        return result

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            received = os.read(self._answers, 1 << 16)
            assert received, "the browser has ended"
            self._read += received
        text, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    started = Browser(tmp_path / "profile")
    yield started
    started.close()


def form(role: str) -> str:
    return f"[...document.querySelectorAll('#controls form')].find((f) => f.textContent.startsWith('{role}'))"


def test_the_page_shows_the_loop_and_its_controls_change_it(
    browser: Browser, start: Any, broker: Any, wait_until: Wait
) -> None:
    where = ("--url", broker.url, "--queue", "paged")
    start("slow_consumer.py", *where, "--name", "slow", "--api-port", "0")
    start("fast_producer.py", *where, "--producer-id", "alice", "--api-port", "0")
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui", PACE_QUEUE__WORK="paged")
    browser.open(monitor.says(r"live page and metrics at (\S+)")[1])

    def shows(element: str, text: str) -> None:
        script = f"document.getElementById('{element}').textContent"
        wait_until(lambda: text in (browser.run(script) or ""), f"#{element} shows {text!r}")

    def press(script: str) -> None:
        wait_until(lambda: browser.run(f"{script}, true"), f"{script} is possible")

    shows("state", "live")
    shows("law", "pace:")
    shows("controls", "producer alice")
    shows("controls", "consumer slow")
    wait_until(lambda: browser.run("document.querySelectorAll('.js-plotly-plot').length") == 5, "all charts are drawn")

    press(f"{form('consumer')}.querySelector('button').click()")
    shows("answer", "slow: pause  – done")
    shows("controls", "Resume")
    press(f"{form('consumer')}.querySelector('button').click()")
    shows("answer", "slow: resume  – done")

    press(f"{form('consumer')}.querySelector('select').value = '5', {choose('consumer')}")
    shows("bottleneck", "of 20/s possible")
    press(f"{form('producer')}.querySelector('select').value = 'aimd', {choose('producer')}")
    shows("law", "aimd:")
    press(f"{form('producer')}.querySelector('input').value = '77', {form('producer')}.requestSubmit()")
    shows("offered", "of 77/s offered")
    press(f"{form('producer')}.querySelector('input').value = '99999999999', {form('producer')}.requestSubmit()")
    shows("answer", "expected a number > 0")


def choose(role: str) -> str:
    return f"{form(role)}.querySelector('select').dispatchEvent(new Event('change'))"
