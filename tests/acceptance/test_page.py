"""The live page in a real browser: it shows the loop, and its controls change it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx

from backpressure.presentation.numbers import amount, binary_bytes, duration, percent, rate

if TYPE_CHECKING:
    from chromium import Chromium

Wait = Callable[[Callable[[], object], str], None]


def form(role: str) -> str:
    return f"[...document.querySelectorAll('#controls form')].find((f) => f.textContent.startsWith('{role}'))"


def choose(form: str) -> str:
    return f"{form}.querySelector('select').dispatchEvent(new Event('change'))"


def test_the_page_shows_the_loop_and_its_controls_change_it(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait
) -> None:
    where = ("--url", broker.url, "--queue", "paged")
    start("slow_consumer.py", *where, "--name", "slow", "--api-port", "0")
    start("slow_consumer.py", *where, "--name", "mute", "--rate", "1", "--no-api")
    control = start("fast_producer.py", *where, "--producer-id", "alice", "--api-port", "0").says(
        r"(http://127\.0\.0\.1:\d+)"
    )[1]
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui", PACE_QUEUE__WORK="paged")
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])

    def shows(element: str, text: str) -> None:
        script = f"document.getElementById('{element}')?.textContent"
        wait_until(lambda: text in (chromium.run(script) or ""), f"#{element} shows {text!r}")

    alice, slow, mute = map(form, ("producer alice", "consumer slow", "consumer mute"))
    shows("state", "live")
    shows("law", "pace:")
    shows("controls", "producer alice")
    shows("controls", "consumer slow")
    shows("controls", "Not controlled from here: it serves no control API.")
    enabled = "querySelector('fieldset').matches(':enabled')"
    wait_until(lambda: chromium.run(f"{alice}.{enabled} && {slow}.{enabled}"), "those with a control API are enabled")
    assert chromium.run(f"{mute}.querySelector('button').matches(':disabled') && {mute}.title && !{slow}.title")
    wait_until(lambda: chromium.run("document.querySelectorAll('.js-plotly-plot').length") == 5, "all charts are drawn")

    chromium.run(f"{slow}.querySelector('button').click()")
    shows("answer", "slow: pause  – done")
    shows("controls", "Resume")
    chromium.run(f"{slow}.querySelector('button').click()")
    shows("answer", "slow: resume  – done")

    chromium.run(f"{slow}.querySelector('select').value = '5', {choose(slow)}")
    shows("bottleneck", "of 21/s possible")
    chromium.run(f"{alice}.querySelector('select').value = 'aimd', {choose(alice)}")
    shows("law", "aimd:")
    chosen = "querySelector('select').value"
    wait_until(lambda: chromium.run(f"{slow}.{chosen}") == "5", "the consumer's own word for its slow-down shows")
    chromium.run(f"{slow}.querySelector('input').value = '100', {slow}.requestSubmit()")
    wait_until(lambda: chromium.run(f"{slow}.{chosen}") == "1", "a rate that is set ends the slow-down, and it shows")
    elsewhere = {"settings": {"producer.strategy": "pid"}}
    httpx.post(f"{control}/admin/config", json=elsewhere, trust_env=False).raise_for_status()
    wait_until(lambda: chromium.run(f"{alice}.{chosen}") == "pid", "a law that was chosen elsewhere shows")
    chromium.run(f"{alice}.querySelector('input').value = '77', {alice}.requestSubmit()")
    shows("offered", "of 77/s offered")
    chromium.run(f"{alice}.querySelector('input').value = '99999999999', {alice}.requestSubmit()")
    shows("answer", "expected a number ≥ 0")


def test_the_page_fits_a_phone_and_a_desk_light_and_dark(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait
) -> None:
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui")
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])
    wait_until(lambda: chromium.run("document.getElementById('state')?.textContent") == "live", "the page is live")
    grounds = set()
    for scheme in ("light", "dark"):
        chromium.prefer(scheme)
        grounds.add(chromium.run("getComputedStyle(document.body).backgroundColor"))
        for width in (400, 1100):
            chromium.resize(width, 900)
            wait_until(lambda: chromium.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out")
    assert len(grounds) == 2
    assert chromium.complaints == []


def test_numbers_are_written_in_a_browser_as_on_a_terminal(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait
) -> None:
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui")
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])
    wait_until(lambda: chromium.run("document.readyState === 'complete'"), "the page is there")
    values = [0, 0.4, 1, 7.24, 9.94, 9.96, 99.96, 950, 999.4, 999.6, 1500, 99_940, 999_500, 2.34e9]
    values += [
        0.000_25,
        0.000_999_51,
        0.012_5,
        0.099_96,
        0.12,
        0.999_9,
        3.21,
        45,
        119.7,
        240,
        7200,
        512,
        1536,
        48 << 20,
    ]
    names = {"amount": amount, "rate": rate, "duration": duration, "binaryBytes": binary_bytes, "percent": percent}
    for name, write in names.items():
        script = f"import('/assets/numbers.js').then((numbers) => {json.dumps([None, *values])}.map(numbers.{name}))"
        assert chromium.run(script) == [write(value) for value in (None, *values)]


def test_the_producers_own_reference_sends_what_its_forms_say(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait
) -> None:
    producer = start("fast_producer.py", "--url", broker.url, "--queue", "referred", "--api-port", "0")
    url = producer.says(r"control API (http://\S+)")[1]
    chromium.open(f"{url}/docs")
    document = httpx.get(f"{url}/openapi.json").json()
    operations = sum(len(methods) for methods in document["paths"].values())
    shown = "document.querySelectorAll('.opblock').length"
    wait_until(lambda: chromium.run(shown) == operations, "every operation is there")
    for path, answer in (("/health", '"healthy"'), ("/produce", '"order-1"'), ("/admin/pause", '"paused"')):
        block = f"""[...document.querySelectorAll('.opblock')].find(
            (one) => one.querySelector('.opblock-summary-path').dataset.path === '{path}')"""
        step = f"""(() => {{
            const block = {block}, said = block.querySelector('.live-responses-table');
            if (said) return said.textContent;
            if (Date.now() - (window.clickedAt ?? 0) < 1000) return '';  // each click makes the page forget the last
            window.clickedAt = Date.now();
            if (block.classList.contains('is-open')) block.querySelector('.execute')?.click();
            else block.querySelector('.opblock-summary-control').click();
        }})()"""
        wait_until(
            lambda step=step, answer=answer: answer in (chromium.run(step) or ""), f"{path} is answered with {answer}"
        )
    assert chromium.complaints == []
