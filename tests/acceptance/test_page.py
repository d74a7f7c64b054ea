"""The live page in a real browser: it shows the loop, and its controls change it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

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
    drawn = "document.querySelectorAll('.time-chart [aria-valuetext]').length"
    wait_until(lambda: chromium.run(drawn) == 4, "all charts are drawn")

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
    httpx.post(f"{control}/admin/config", json=elsewhere, trust_env=False, timeout=60).raise_for_status()
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


def test_the_live_page_is_accessible_and_its_charts_obey_the_keyboard(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait, violations: Callable[[], list[str]]
) -> None:
    where = ("--url", broker.url, "--queue", "accessible")
    start("slow_consumer.py", *where, "--name", "slow", "--api-port", "0")
    start("fast_producer.py", *where, "--producer-id", "alice", "--api-port", "0")
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui", PACE_QUEUE__WORK="accessible")
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])
    text = "document.querySelector('#chart-rates [role=slider]')?.getAttribute('aria-valuetext')"
    wait_until(lambda: re.search(r"processed [1-9]", chromium.run(text) or ""), "the rates are drawn")
    assert violations() == []
    chart = "document.querySelector('#chart-rates [role=slider]')"
    act = chart + ".dispatchEvent(new KeyboardEvent('keydown', {{key: '{}'}}))"
    times = "[...document.querySelectorAll('[role=slider]')].map((chart) => chart.ariaValueText.split(/[,:] /)[0])"
    for key in ("+", "Home"):
        chromium.run(act.format(key))
    wait_until(lambda: len(set(chromium.run(times))) == 1, "all charts are read at one time")
    wait_until(lambda: not chromium.run("document.querySelector('#cursor button').hidden"), "the charts are zoomed")
    chromium.run(act.format("Escape"))
    wait_until(lambda: chromium.run("document.querySelector('#cursor button').hidden"), "all the time shows again")


def test_the_flow_picture_shows_what_is_held_refused_blocked_and_dead(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait
) -> None:
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui")
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])
    wait_until(lambda: chromium.run("document.readyState === 'complete'"), "the page is there")
    state = {
        "producers": {"count": 2, "blocked": 0, "paused": 0},
        "law": {"name": "aimd", "reason": "<b>refused</b>"},
        "offered_per_s": 1000,
        "allowed_per_s": 100,
        "published_per_s": 100,
        "refused_per_s": 20,
        "returned_per_s": None,
        "queue": {"name": "q", "ready": 9_900, "unacked": 7, "bound": 10_000, "overflow": "reject-publish"},
        "consumers": {"count": 1, "paused": 0},
        "processed_per_s": 99,
        "capacity_per_s": 100,
        "dead_letters_per_s": 1,
        "dead_letters": 1234,
    }

    def show(**changes: Any) -> Any:
        return chromium.run(f"""import('/assets/flow.js').then(({{ FlowPicture }}) => {{
            window.shown ??= document.body.appendChild(document.createElement('div'));
            window.picture ??= new FlowPicture(window.shown);
            window.shown.querySelector('details').open = true;
            window.picture.show({json.dumps(state | changes)});
            const part = (name) => window.shown.querySelector('.' + name);
            const wide = (name) => parseFloat(getComputedStyle(part(name)).getPropertyValue('--w'));
            return {{
                words: part('flow').innerText, label: part('flow').ariaLabel, rows: part('flow-words').textContent,
                widths: ['offered-stream', 'valve', 'published-stream', 'processed-stream'].map(wide),
                level: parseFloat(getComputedStyle(part('level')).getPropertyValue('--level')),
                in_hand: part('unacked-cells').childElementCount, tank: part('tank').className,
            }};
        }})""")

    held = show()
    offered, opening, published, processed = held["widths"]
    assert offered == pytest.approx(10 * published)
    assert opening == published > processed > 0
    for text in ("allows 100/s", "20/s refused", "1.2K dead letters", "9.9K ready", "99/s of 100/s", "<b>refused</b>"):
        assert text in held["words"]
    assert (held["in_hand"], held["level"]) == (7, 0.99)
    assert "full" in held["tank"].split()
    assert "returned" not in held["words"]
    for name, value in (("offered", "1K/s"), ("refused", "20/s"), ("returned", "–"), ("dead letters", "1.2K")):
        assert f"{name} {value}" in held["label"]
        assert f"{name}{value}" in held["rows"]
    blocked = show(producers={"count": 2, "blocked": 2, "paused": 0}, published_per_s=0)
    assert "blocked by the broker" in blocked["words"]
    assert blocked["widths"][1:3] == [0, 0]
    strangers = show(producers=None, law=None, offered_per_s=None, allowed_per_s=None, exchange=False)
    assert not {"offered", "law", "producers", "exchange"} & set(strangers["words"].split())
    chromium.run("window.picture.show(null)")
    assert "stale" in chromium.run("window.shown.querySelector('.flow').className")
    assert chromium.complaints == []


def test_the_flow_moves_in_one_step_and_only_where_it_is_seen_and_wanted(
    chromium: Chromium, start: Any, broker: Any, wait_until: Wait
) -> None:
    where = ("--url", broker.url, "--queue", "moving")
    start("slow_consumer.py", *where, "--no-api")
    start("fast_producer.py", *where, "--no-api")
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui", PACE_QUEUE__WORK="moving")
    chromium.resize(1100, 300)
    chromium.open(monitor.says(r"live page and metrics at (\S+)")[1])
    moving = "document.getAnimations().filter((one) => one.animationName && one.playState === 'running').length"
    wait_until(lambda: chromium.run(moving) > 1, "the streams move")
    steps = "new Set(document.getAnimations().filter((one) => one.animationName).map((one) => one.startTime)).size"
    wait_until(lambda: chromium.run(steps) == 1, "all in the same steps")
    chromium.run("scrollTo(0, document.body.scrollHeight)")
    wait_until(lambda: chromium.run(moving) == 0, "what is scrolled away stands still")
    chromium.run("scrollTo(0, 0)")
    wait_until(lambda: chromium.run(moving) > 1, "and goes on")
    chromium.prefer("light", motion="reduce")
    wait_until(lambda: chromium.run("document.getAnimations().length") == 0, "nothing moves for those who want that")


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
    document = httpx.get(f"{url}/openapi.json", timeout=60).json()
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
