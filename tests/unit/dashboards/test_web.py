"""What the monitor serves: text for scrapers, the page for browsers, JSON for programs, a stream for the page."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import httpx
import pytest

from backpressure.api import consumer as consumer_api
from backpressure.api import producer as producer_api
from backpressure.api.monitor import LiveFeed, monitor_app, point
from backpressure.core.snapshot import QueueState, Snapshot, Source
from backpressure.dashboards.web import assets
from backpressure.settings import LIVE
from backpressure.telemetry.metrics_monitor import monitor_registry

Make = Callable[..., Snapshot]
MakeQueues = Callable[..., dict[str, QueueState]]
OK = Source("broker", ok=True)
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def get(seen: Snapshot, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    feed = LiveFeed(lambda: seen, lambda _: [])
    app = monitor_app(lambda: seen, monitor_registry(lambda: seen), feed, assets())

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://monitor") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "headers"), [("/metrics", {}), ("/metrics", BROWSER), ("/", {}), ("/", {"accept": "*/*"})]
)
def test_scrapers_and_curl_get_prometheus_text(snapshot: Make, path: str, headers: dict[str, str]) -> None:
    answer = get(snapshot(), path, headers)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'pace_queue_messages{queue="work.queue"} 45.0' in answer.text


def test_the_monitor_is_alive_without_a_broker_and_ready_with_one(snapshot: Make) -> None:
    away = (Source("broker", ok=False, error="connection refused"),)
    for path, sources, status in (("/health", away, 200), ("/ready", away, 503), ("/ready", (OK,), 200)):
        answer = get(snapshot(sources=sources), path)
        assert (answer.status_code, answer.json().get("detail")) == (
            status,
            "connection refused" if status == 503 else None,
        )


def test_a_browser_gets_the_page(snapshot: Make) -> None:
    answer = get(snapshot(), "/", BROWSER)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'; style-src 'self';" in answer.headers["content-security-policy"]


def test_the_page_needs_nothing_from_elsewhere(snapshot: Make) -> None:
    page = get(snapshot(), "/", BROWSER).text
    sources = re.findall(r'(?:src|href)="(?!/metrics|/api|data:|#)([^"]+)"', page)
    styles = ["theme.css", "frame.css", "flow.css", "charts.css", "page.css"]
    assert sources == [f"/assets/{name}" for name in (*styles, "page.js")]
    modules = {name: re.findall(r'from "(?:/assets|\.)/([^"]+)"', path.read_text()) for name, path in assets().items()}
    wanted = {*styles, "page.js", *chain.from_iterable(modules.values())}
    for source in wanted:
        assert get(snapshot(), f"/assets/{source}").status_code == 200


def test_every_element_the_script_fills_is_on_the_page() -> None:
    files = assets()
    script, page = files["page.js"].read_text(), files["index.html"].read_text()
    used = set(re.findall(r'(?:element|put|showTable)\("([\w-]+)"', script))
    assert used
    assert used <= set(re.findall(r'id="([\w-]+)"', page))


def test_what_the_controls_send_is_what_the_control_apis_take() -> None:
    script = assets()["page.js"].read_text()
    assert set(re.findall(r'ask\(process, "([\w-]+)"', script)) == {"config", "slow-down"}
    assert set(re.findall(r'value = paused \? "(\w+)" : "(\w+)"', script)) == {("resume", "pause")}
    ((producer, consumer),) = re.findall(r'\? "(\w+)" : "(\w+)"\]: Number', script)
    assert producer in producer_api.ProducerConfigRequest.model_fields
    assert consumer in consumer_api.ConsumerConfigRequest.model_fields
    assert set(re.findall(r'settings: \{ "([\w.]+)"', script)) <= LIVE["producer"]
    assert set(re.findall(r'"slow-down", \{ (\w+):', script)) <= set(consumer_api.SlowDownRequest.model_fields)


def test_the_page_controls_whom_the_snapshot_shows(snapshot: Make) -> None:
    process, *_ = get(snapshot(), "/api/control").json()["processes"]
    seen = get(snapshot(), "/api/snapshot").json()
    assert {key: seen["producers"][0][key] for key in ("id", "pid")} == {key: process[key] for key in ("id", "pid")}
    assert {"api_url", "strategy", "target_rate_per_s", "host"} <= set(seen["producers"][0])
    assert {"api_url", "paused", "capacity_per_s", "host"} <= set(seen["consumers"][0])


def test_no_script_ever_sets_html() -> None:
    for name, path in assets().items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", path.read_text()), name


def test_only_the_pages_own_files_are_served(snapshot: Make) -> None:
    for path in ("/assets/__init__.py", "/assets/..%2f__init__.py", "/assets/nothing.js"):
        assert get(snapshot(), path).status_code == 404


def test_a_snapshot_as_json_has_null_for_what_is_unknown_and_for_no_limit(snapshot: Make) -> None:
    content = get(snapshot(bottleneck_per_s=None, pacing_rate_per_s=float("inf")), "/api/snapshot").json()
    assert content["bottleneck_per_s"] is None
    assert content["pacing_rate_per_s"] is None
    assert content["queues"]["work.queue"]["depth"] == 45
    assert content["thresholds"][0]["breached"] is False
    assert content["events"][0]["kind"] == "appeared"
    assert "queue_wait_ever" not in content
    assert "queue_wait_ever" not in get(snapshot(queue_wait_ever=None), "/api/snapshot").json()
    assert "confirm_latency" not in content["producers"][0]


def test_the_memory_of_processes_of_one_name_and_number_is_reported_by_host(snapshot: Make) -> None:
    producer, consumer = snapshot().processes
    scaled = tuple(replace(consumer, pid=1, host=host) for host in ("c1", "c2"))
    assert list(point(snapshot(processes=(producer, *scaled)))["memory_bytes"]) == [
        "producer alice (11)", "consumer slow (1) on c1", "consumer slow (1) on c2"
    ]  # fmt: skip


def test_a_snapshot_as_json_has_the_lag_of_each_partition(snapshot: Make, work: MakeQueues) -> None:
    content = get(snapshot(queues=work(lag_by_partition=(3, 42))), "/api/snapshot").json()
    queue = content["queues"]["work.queue"]
    assert (queue["lag_by_partition"], queue["worst_partition"]) == ([3, 42], 1)


def test_dead_letters_are_those_in_their_queue_and_where_it_is_not_seen_those_given_up(
    snapshot: Make, work: MakeQueues
) -> None:
    queue = replace(next(iter(work().values())), name="dead", ready=1234)
    seen = snapshot(queues={**work(), "dead": queue}, dead_letter_queue="dead")
    assert get(seen, "/api/snapshot").json()["dead_letters"] == 1234
    assert get(replace(seen, dead_letter_queue=""), "/api/snapshot").json()["dead_letters"] == seen.totals.dead_lettered


def test_a_new_page_gets_the_history_and_then_every_point(snapshot: Make) -> None:
    async def story() -> list[tuple[str, Any]]:
        feed = LiveFeed(snapshot, lambda seen: [f"watch {seen.work_queue}"])
        feed.take()
        feed.take()
        stream = feed.subscribe()
        items = [await anext(stream)]
        feed.take()
        items.append(await anext(stream))
        feed.close()
        items += [item async for item in stream]
        return [(event, json.loads(data)) for event, data in items]

    (first, history), (second, tick) = asyncio.run(story())
    assert (first, second) == ("history", "tick")
    assert len(history) == 2
    assert tick["point"]["ready"] == 40
    assert tick["advice"] == ["watch work.queue"]
    assert tick["now"]["totals"]["confirmed"] == 12_000


def test_fifteen_minutes_are_kept_and_a_page_that_stalls_misses_points_not_memory(snapshot: Make) -> None:
    async def story() -> tuple[list[Any], int]:
        feed = LiveFeed(snapshot, lambda _: [])
        for _ in range(1000):
            feed.take()
        stalled = feed.subscribe()
        _, history = await anext(stalled)
        for _ in range(30):
            feed.take()
        feed.close()
        return json.loads(history), len([item async for item in stalled])

    history, received = asyncio.run(story())
    assert len(history) == 900
    assert received < 20
