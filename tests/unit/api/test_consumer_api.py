"""The consumer's control API: status, changes of the work, slow-down, pause; a change is complete or has no effect."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from calling import calling, consumer_api, routes
from stage import RecordingBroker, ours, put, settings_of, until
from virtual_time import VirtualClock, run_virtually

from backpressure.api.consumer import SlowedDown, consumer_app
from backpressure.api.status import ConsumerStatus, State
from backpressure.engines.consumer import ConsumerEngine
from backpressure.errors import NotConnectedError
from backpressure.transports.memory import MemoryTransport


async def fed(count: int = 1000) -> RecordingBroker:
    """Return a broker with messages in its work queue."""
    broker = RecordingBroker()
    await put(broker, settings_of(), *(ours(n, sent_ns=VirtualClock().wall_ns()) for n in range(count)))
    return broker


def test_every_endpoint_is_there_and_documented() -> None:
    async def story() -> dict[str, Any]:
        async with consumer_api() as (client, _, _):
            assert (await client.get("/docs")).status_code == 200
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            return document

    document = run_virtually(story())
    assert {
        ("GET", "/health"), ("GET", "/status"), ("GET", "/metrics"), ("POST", "/admin/config"),
        ("POST", "/admin/slow-down"), ("POST", "/admin/pause"), ("POST", "/admin/resume"),
    } <= set(routes(document))  # fmt: skip
    for item in document["paths"].values():
        assert all(operation.get("description") for operation in item.values())


def test_health_status_and_metrics_answer_before_the_broker_is_there() -> None:
    async def story() -> list[int]:
        settings = settings_of()
        engine = ConsumerEngine(MemoryTransport(settings, RecordingBroker()), settings, VirtualClock())
        async with calling(consumer_app(engine)) as client:
            return [(await client.get(path)).status_code for path in ("/health", "/status", "/metrics")]

    assert run_virtually(story()) == [200, 200, 200]


def test_ready_is_503_with_the_reason_until_messages_are_taken_and_a_pause_leaves_it_ready() -> None:
    async def story() -> list[tuple[int, Any]]:
        settings, broker, answers = settings_of(), RecordingBroker(), []
        engine = ConsumerEngine(MemoryTransport(settings, broker), settings, VirtualClock())

        async def look(client: httpx.AsyncClient) -> None:
            answer = await client.get("/ready")
            answers.append((answer.status_code, answer.json().get("detail")))

        async with calling(consumer_app(engine)) as client:
            await look(client)
            await engine.start()
            await look(client)
            await engine.pause()
            await look(client)
            await engine.resume()
            engine._bench.on_lost(NotConnectedError("gone"))
            await look(client)
            engine.stop()
            await look(client)
            await engine.close()
        return answers

    assert run_virtually(story()) == [
        (503, "the broker is away"), (200, None), (200, None), (503, "the broker is away"), (503, "it is stopping")
    ]  # fmt: skip


def test_status_shows_what_it_did_how_fast_and_how_long_messages_waited() -> None:
    async def story() -> dict[str, Any]:
        async with consumer_api(await fed(), consumer__name="slow", consumer__prefetch=5) as (client, _, _):
            await asyncio.sleep(2)
            body: dict[str, Any] = (await client.get("/status")).json()
            return body

    status = run_virtually(story())
    assert (status["id"], status["role"], status["state"]) == ("slow", "consumer", "running")
    assert status["queue"] == {"name": "work.queue", "held": 5, "prefetch": 5}
    assert status["process"]["memory_mb"] > 1
    assert status["process"]["cpu_percent"] >= 0
    assert status["rates"] == {"capacity_per_s": pytest.approx(100), "slow_down_factor": 1}
    assert status["totals"]["processed"] == pytest.approx(200, abs=1)
    assert status["totals"].keys() >= {"delivered", "failed", "retried", "dead_lettered", "redelivered", "duplicates"}
    assert status["queue_wait_ms"]["p50"] == pytest.approx(1000, rel=0.06)
    assert status["queue_wait_ms"]["p99"] == pytest.approx(2000, rel=0.06)
    assert status["config"]["consumer"]["rate"] == 100


def test_the_recent_wait_forgets_what_is_long_ago_and_the_whole_one_does_not() -> None:
    async def story() -> tuple[dict[str, Any], dict[str, Any]]:
        async with consumer_api(await fed(300), consumer__prefetch=5) as (client, _, _):
            await asyncio.sleep(3.5)
            busy = (await client.get("/status")).json()
            await asyncio.sleep(12)
            return busy, (await client.get("/status")).json()

    busy, later = run_virtually(story())
    assert busy["queue_wait_recent_ms"] == busy["queue_wait_ms"] | {"window_s": 10}
    assert later["queue_wait_ms"] == busy["queue_wait_ms"]
    assert later["queue_wait_recent_ms"] == {"p50": None, "p99": None, "window_s": 10}


def test_no_secret_is_in_the_status() -> None:
    async def story() -> str:
        async with consumer_api(broker__password="hunter2", api__token="hunter2") as (client, _, _):
            return (await client.get("/status")).text + (await client.post("/admin/config", json={})).text

    assert "hunter2" not in run_virtually(story())


def test_metrics_are_prometheus_text_and_count_what_was_consumed_and_how_long_it_took() -> None:
    async def story() -> tuple[str, str]:
        async with consumer_api(await fed(7)) as (client, engine, _):
            await until(lambda: engine.tally.processed == 7)
            answer = await client.get("/metrics")
            return answer.headers["content-type"], answer.text

    content_type, text = run_virtually(story())
    assert content_type.startswith("text/plain; version=0.0.4")
    [consumed] = [line for line in text.splitlines() if line.startswith("messages_consumed_total")]
    assert float(consumed.split()[-1]) == 7
    assert "message_processing_duration_seconds_bucket{" in text
    assert "message_processing_errors_total" in text


@pytest.mark.parametrize(
    ("before", "body", "expected", "capacity"),
    [
        ({}, {"processing_time_ms": 100}, {"rate": 10, "distribution": "fixed"}, 10),
        ({}, {"rate": 250}, {"rate": 250, "distribution": "fixed"}, 250),
        (
            {}, {"variable_processing": True, "processing_min_ms": 50, "processing_max_ms": 150},
            {"distribution": "uniform", "processing_min_ms": 50, "processing_max_ms": 150}, 10,
        ),
        ({"consumer__distribution": "uniform"}, {"variable_processing": False}, {"distribution": "fixed"}, 100),
        ({"consumer__distribution": "uniform"}, {"rate": 20}, {"distribution": "fixed", "rate": 20}, 20),
        ({"consumer__distribution": "uniform"}, {"processing_time_ms": 4}, {"distribution": "fixed"}, 250),
        ({"consumer__distribution": "exponential"}, {"rate": 20}, {"distribution": "exponential", "rate": 20}, 20),
        ({}, {"rate": 0}, {"rate": 0}, None),
        ({}, {"rate": "max"}, {"rate": 0}, None),
        ({}, {"prefetch": 17}, {"prefetch": 17}, 100),
        ({"consumer__prefetch": 17}, {"prefetch": "auto"}, {"prefetch": "auto"}, 100),
        ({}, {"settings": {"consumer.failure_rate": 0.5, "retry.max_attempts": 2}}, {"failure_rate": 0.5}, 100),
        ({}, {}, {}, 100),
    ],
)  # fmt: skip
def test_a_change_is_in_force_at_once(
    before: dict[str, Any], body: dict[str, Any], expected: dict[str, Any], capacity: float | None
) -> None:
    async def story() -> tuple[dict[str, Any], dict[str, Any]]:
        async with consumer_api(**before) as (client, _, _):
            answer = await client.post("/admin/config", json=body)
            assert (answer.status_code, answer.json()["status"]) == (200, "success")
            status: dict[str, Any] = (await client.get("/status")).json()
            for key, change in answer.json()["changed"].items():
                section, _, name = key.partition(".")
                assert change["old"] != change["new"] == status["config"][section][name]
            return status, status["config"]["consumer"]

    status, consumer = run_virtually(story())
    assert {name: consumer[name] for name in expected} == expected
    assert status["rates"]["capacity_per_s"] == pytest.approx(capacity)


def test_a_new_processing_time_is_what_the_work_takes_from_then_on() -> None:
    async def story() -> list[int]:
        counts = []
        async with consumer_api(await fed(2000)) as (client, engine, _):
            for body in ({}, {"processing_time_ms": 50}, {"rate": 200}):
                await client.post("/admin/config", json=body)
                before = engine.tally.processed
                await asyncio.sleep(2)
                counts.append(engine.tally.processed - before)
        return counts

    assert run_virtually(story()) == pytest.approx([200, 40, 400], abs=3)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"rate": 1e9}, "rate"),
        ({"rate": -5, "prefetch": 9}, "rate"),
        ({"prefetch": 0}, "prefetch"),
        ({"prefetch": "lots"}, "prefetch"),
        ({"processing_min_ms": 100, "processing_max_ms": 50}, "consumer"),
        ({"rate": 5, "processing_time_ms": 5}, "rate"),
        ({"settings": {"broker.host": "elsewhere"}}, "broker.host"),
        ({"processing_min_ms": -1}, "processing_min_ms"),
        ({"settings": {"consumer.prefetch": 0}}, "consumer.prefetch"),
        ({"settings": {"consumer.expect": 5}}, "consumer.expect"),
        ({"settings": {"retry.nonsense": 5}}, "retry.nonsense"),
        ({"prefetch": 9, "settings": {"retry.max_attempts": 0}}, "retry.max_attempts"),
    ],
)
def test_a_change_that_is_not_allowed_names_the_key_and_what_is_and_changes_nothing(body: object, names: str) -> None:
    async def story() -> tuple[int, dict[str, Any], bool]:
        async with consumer_api() as (client, engine, _):
            before = engine.settings, engine.report().prefetch
            answer = await client.post("/admin/config", json=body)
            return answer.status_code, answer.json(), (engine.settings, engine.report().prefetch) == before

    status, answer, unchanged = run_virtually(story())
    assert (status, unchanged) == (422, True)
    assert answer["key"] == names
    assert answer["allowed"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/admin/config", {"nonsense": 1}), ("/admin/config", {"processing_time_ms": 0}), ("/admin/config", []),
        ("/admin/config", {"rate": "fast"}), ("/admin/slow-down", {}), ("/admin/slow-down", {"factor": 0}),
        ("/admin/slow-down", {"factor": -1}), ("/admin/slow-down", {"factor": 1e9}),
        ("/admin/slow-down", {"factor": "x"}),
    ],
)  # fmt: skip
def test_a_request_of_the_wrong_shape_is_told_why_and_changes_nothing(path: str, body: object) -> None:
    async def story() -> tuple[int, Any, bool]:
        async with consumer_api() as (client, engine, _):
            before = engine.settings, engine.slow_down_factor
            answer = await client.post(path, json=body)
            return answer.status_code, answer.json(), (engine.settings, engine.slow_down_factor) == before

    status, answer, unchanged = run_virtually(story())
    assert (status, unchanged) == (422, True)
    assert all(reason["msg"] for reason in answer["detail"])


@pytest.mark.parametrize("speed", [{"processing_time_ms": 10}, {"rate": 100}])
def test_the_end_of_a_slow_down_is_among_what_has_changed(speed: dict[str, Any]) -> None:
    async def story() -> list[dict[str, Any]]:
        async with consumer_api(await fed()) as (client, _, _):
            await client.post("/admin/slow-down", json={"factor": 5})
            return [(await client.post("/admin/config", json=speed)).json()["changed"] for _ in range(2)]

    assert run_virtually(story()) == [{"slow_down_factor": {"old": 5, "new": 1}}, {}]


def test_slowing_down_is_reported_seen_and_ended_by_an_explicit_speed() -> None:
    async def story() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]:
        async with consumer_api(await fed()) as (client, engine, _):
            answer = (await client.post("/admin/slow-down", json={"factor": 5})).json()
            slow = (await client.get("/status")).json()["rates"]
            before = engine.tally.processed
            await asyncio.sleep(5)
            done = engine.tally.processed - before
            await client.post("/admin/config", json={"processing_time_ms": 10})
            return answer, slow, (await client.get("/status")).json()["rates"], done

    answer, slow, normal, done = run_virtually(story())
    assert answer == {"status": "success", "factor": 5, "capacity_per_s": pytest.approx(20)}
    assert slow == {"capacity_per_s": pytest.approx(20), "slow_down_factor": 5}
    assert normal == {"capacity_per_s": pytest.approx(100), "slow_down_factor": 1}
    assert done == pytest.approx(100, abs=2)


def test_pause_and_resume() -> None:
    async def story() -> tuple[list[str], int, int]:
        states = []
        async with consumer_api(await fed()) as (client, engine, _):
            assert (await client.post("/admin/pause")).json() == {"status": "paused"}
            states.append((await client.get("/status")).json()["state"])
            await asyncio.sleep(0.1)
            before = engine.tally.processed
            await asyncio.sleep(5)
            during = engine.tally.processed - before
            assert (await client.post("/admin/resume")).json() == {"status": "running"}
            states.append((await client.get("/status")).json()["state"])
            await asyncio.sleep(1)
            return states, during, engine.tally.processed - before

    states, during, after = run_virtually(story())
    assert states == ["paused", "running"]
    assert during == 0
    assert after >= 99


@pytest.mark.parametrize("path", ["/status", "/admin/slow-down", "/admin/pause", "/admin/resume"])
def test_every_answer_has_a_model_and_its_example_is_one(path: str) -> None:
    async def story() -> dict[str, Any]:
        async with consumer_api() as (client, _, _):
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            return document

    document = run_virtually(story())
    [operation] = document["paths"][path].values()
    name = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    models = {"ConsumerStatus": ConsumerStatus, "State": State, "SlowedDown": SlowedDown}
    [example] = document["components"]["schemas"][name]["examples"]
    assert models[name].model_validate(example).model_dump(mode="json") == example
