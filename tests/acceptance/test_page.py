"""The live page in a real browser: it shows the loop, and its controls change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chromium import Chromium

Wait = Callable[[Callable[[], object], str], None]


def form(role: str) -> str:
    return f"[...document.querySelectorAll('#controls form')].find((f) => f.textContent.startsWith('{role}'))"


def test_the_page_shows_the_loop_and_its_controls_change_it(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait
) -> None:
    where = ("--url", broker.url, "--queue", "paged")
    start("slow_consumer.py", *where, "--name", "slow", "--api-port", "0")
    start("fast_producer.py", *where, "--producer-id", "alice", "--api-port", "0")
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui", PACE_QUEUE__WORK="paged")
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])

    def shows(element: str, text: str) -> None:
        script = f"document.getElementById('{element}').textContent"
        wait_until(lambda: text in (chromium.run(script) or ""), f"#{element} shows {text!r}")

    def press(script: str) -> None:
        wait_until(lambda: chromium.run(f"{script}, true"), f"{script} is possible")

    shows("state", "live")
    shows("law", "pace:")
    shows("controls", "producer alice")
    shows("controls", "consumer slow")
    wait_until(lambda: chromium.run("document.querySelectorAll('.js-plotly-plot').length") == 5, "all charts are drawn")

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
