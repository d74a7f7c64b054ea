"""The lab over HTTP: every endpoint, its answers, and its errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest
from lab_stage import WHY, app_of, lab_on
from virtual_time import run_virtually

from backpressure.errors import NotConnectedError, PreconditionFailedError
from backpressure.lab.app import assets, lab_app
from backpressure.lab.pubsub import PubSub
from backpressure.transports.memory.endpoints import MemoryAdmin

NOTE = {"message": "Hello", "timestamp": "2023-01-01T12:00:00", "source": "test_client"}


@asynccontextmanager
async def calling(stage: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    lab = lab_on(stage, **options)
    transport = httpx.ASGITransport(app=lab_app(lab))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await lab.close()


@pytest.mark.parametrize("broker", ["rabbitmq", "kafka"])
def test_a_message_is_sent_consumed_and_listed(stage: Any, broker: str) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            sent = (await client.post(f"/{broker}/send", json=NOTE)).json()
            assert sent["status"] == "success"
            assert (await client.get(f"/{broker}/messages")).json()["messages"] == []
            assert (await client.post(f"/{broker}/consume")).json() == {"status": "success"}
            await asyncio.sleep(1)
            answer = (await client.get(f"/{broker}/messages")).json()
            [message] = answer.pop("messages")
            assert {name: message[name] for name in NOTE} == NOTE
            assert message["message_id"] == sent["message_id"]
            assert answer == {"sent": 1, "received": 1, "dropped": 0, "consuming": True}

    run_virtually(story())


def test_without_kafka_its_endpoints_say_why_and_all_else_works(stage: Any) -> None:
    async def story() -> None:
        async with calling(stage, kafka=False) as client:
            for method, path in (("POST", "send"), ("POST", "consume"), ("GET", "messages")):
                answer = await client.request(method, f"/kafka/{path}", json=NOTE if path == "send" else None)
                assert (answer.status_code, answer.json()) == (503, {"detail": WHY})
            assert (await client.post("/rabbitmq/send", json=NOTE)).status_code == 200
            assert (await client.get("/status")).json()["kafka"] == {"address": "", "missing": WHY, "board": None}

    run_virtually(story())


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/rabbitmq/send", {}, "message"),
        ("/rabbitmq/send", {"message": 7}, "message"),
        ("/rabbitmq/send", {"message": "x" * 10_001}, "message"),
        ("/rabbitmq/send", NOTE | {"timestamp": "yesterday"}, "timestamp"),
        ("/rabbitmq/send", NOTE | {"timestamp": "2023-13-01T12:00:00"}, "timestamp"),
        ("/rabbitmq/send", NOTE | {"timestamp": 1672574400}, "timestamp"),
        ("/rabbitmq/send", NOTE | {"colour": "red"}, "colour"),
        ("/kafka/send", {"source": "x"}, "message"),
        ("/tasks/workers/start", {"num_workers": 0}, "num_workers"),
        ("/tasks/workers/start", {"num_workers": "many"}, "num_workers"),
        ("/tasks/submit", {"complexity": 0, "data": "x", "type": "y"}, "complexity"),
        ("/tasks/submit", {"complexity": 101, "data": "x", "type": "y"}, "complexity"),
        ("/tasks/submit", {"complexity": "3", "data": "x"}, "complexity"),
        ("/tasks/submit", {"complexity": True, "data": "x"}, "complexity"),
        ("/tasks/submit", {"complexity": 1}, "data"),
        ("/pubsub/subscribers", {"subscriber_id": "with blanks"}, "subscriber_id"),
        ("/pubsub/subscribers", {"subscriber_id": ""}, "subscriber_id"),
        ("/pubsub/publish", {"importance": "high"}, "message"),
    ],
)
def test_a_bad_body_is_422_and_names_the_field(stage: Any, path: str, body: Any, where: str) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            answer = await client.post(path, json=body)
            assert answer.status_code == 422
            assert [problem["loc"][-1] for problem in answer.json()["detail"]] == [where]

    run_virtually(story())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"message": "x"}', "text/plain"),
        (b"", "text/plain"),
    ],
)
def test_what_is_not_json_is_422_whatever_it_is(stage: Any, body: bytes, kind: str) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            answer = await client.post("/rabbitmq/send", content=body, headers={"Content-Type": kind})
            assert (answer.status_code, bool(answer.json()["detail"])) == (422, True)

    run_virtually(story())


@pytest.mark.parametrize(
    "timestamp", ["2023-01-01T12:00", "2023-01-01T12:00:00Z", "2023-12-31T23:59:59.123456+05:30", None]
)
def test_a_timestamp_is_any_iso_8601_time_and_may_be_left_out(stage: Any, timestamp: str | None) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            answer = await client.post("/rabbitmq/send", json=NOTE | {"timestamp": timestamp})
            assert answer.status_code == 200, answer.text

    run_virtually(story())


def test_tasks_are_submitted_and_their_results_listed(stage: Any) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            task = {"complexity": 3, "data": "This needs processing", "type": "analysis"}
            answer = await client.post("/tasks/submit", json=task)
            assert answer.json()["status"] == "success"
            assert len(stage.broker.queue("lab.tasks").ready) == 1
            assert (await client.get("/tasks/results")).json() == {
                "results": [],
                "submitted": 1,
                "completed": 0,
                "dropped": 0,
            }
            assert (await client.get("/tasks/workers")).json() == {"status": "success", "workers": []}
            assert (await client.post("/tasks/workers/stop")).json() == {"status": "success", "stopped": 0}
            too_many = await client.post("/tasks/workers/start")
            assert (too_many.status_code, "lab.max_workers" in too_many.json()["detail"]) == (409, True)
            assert (await client.post("/tasks/workers/worker-1/kill")).status_code == 404

    run_virtually(story())


def test_subscribers_come_get_their_messages_and_go(stage: Any) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            made = (await client.post("/pubsub/subscribers", json={"subscriber_id": "one"})).json()
            assert made["subscriber_id"] == "one"
            nameless = (await client.post("/pubsub/subscribers")).json()["subscriber_id"]
            twice = await client.post("/pubsub/subscribers", json={"subscriber_id": "one"})
            assert twice.status_code == 409
            assert (await client.post("/pubsub/subscribers/one/consume")).json()["consuming"]
            published = (await client.post("/pubsub/publish", json=NOTE | {"importance": "high"})).json()
            assert (published["status"], published["subscribers"]) == ("success", 2)
            await asyncio.sleep(1)
            listed = (await client.get("/pubsub/subscribers")).json()["subscribers"]
            assert [(one["subscriber_id"], one["received"]) for one in listed] == [("one", 1), (nameless, 0)]
            [message] = (await client.get("/pubsub/subscribers/one/messages")).json()["messages"]
            assert {name: message[name] for name in (*NOTE, "importance")} == NOTE | {"importance": "high"}
            assert (await client.delete("/pubsub/subscribers/one")).json() == {"status": "success"}
            gone = [("DELETE", ""), ("POST", "/consume"), ("GET", "/messages")]
            for method, rest in gone:
                answer = await client.request(method, f"/pubsub/subscribers/one{rest}")
                assert (answer.status_code, answer.json()["detail"]) == (404, "there is no subscriber 'one'")

    run_virtually(story())


def test_a_full_queue_is_429_and_a_broker_away_503_and_both_say_when_to_try_again(stage: Any) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            await client.post("/rabbitmq/send", json=NOTE)
            stage.broker.set_bound("lab.messages", {"max-length": 1, "overflow": "reject-publish"})
            full = await client.post("/rabbitmq/send", json=NOTE)
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
            stage.broker.block("low on memory")
            away = await client.post("/rabbitmq/send", json=NOTE)
            assert (away.status_code, away.headers["retry-after"]) == (503, "1")
            assert "low on memory" in away.json()["detail"]

    run_virtually(story())


def test_the_lab_is_ready_while_rabbitmq_answers_and_says_why_it_is_not(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> list[tuple[int, Any]]:
        answers, connections = [], 0

        async def start(_: MemoryAdmin) -> None:
            nonlocal connections
            connections += 1
            if connections > 1:
                raise NotConnectedError("no broker at memory://lab")

        monkeypatch.setattr(MemoryAdmin, "start", start)
        async with calling(stage, kafka=False) as client:
            for pause_s in (0.0, 0.5, 1.5):  # the answer is kept for a second
                await asyncio.sleep(pause_s)
                answer = await client.get("/ready")
                answers.append((answer.status_code, answer.json().get("detail")))
            assert connections == 2
            assert (await client.get("/health")).status_code == 200
        return answers

    assert run_virtually(story()) == [(200, None), (200, None), (503, "no broker at memory://lab")]


def test_a_queue_with_other_arguments_is_409_because_trying_again_does_not_help(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PreconditionFailedError("lab.messages", "x-queue-type", "inequivalent arg")

    monkeypatch.setattr(MemoryAdmin, "declare", refuse)
    monkeypatch.setattr(MemoryAdmin, "declare_fanout", refuse)

    async def story() -> list[tuple[int, bool]]:
        async with calling(stage) as client:
            answers = [await client.post(path, json=NOTE) for path in ("/rabbitmq/send", "/pubsub/publish")]
            answers += [await client.post(path) for path in ("/rabbitmq/consume", "/tasks/workers/start")]
            answers.append(await client.post("/tasks/submit", json={"data": "x"}))
            return [(answer.status_code, "Retry-After" in answer.headers) for answer in answers]

    assert run_virtually(story()) == [(409, False)] * 5


def test_the_page_comes_with_all_it_needs_and_may_load_nothing_else(stage: Any) -> None:
    async def story() -> None:
        async with calling(stage) as client:
            page = await client.get("/")
            assert page.headers["content-type"].startswith("text/html")
            assert page.headers["content-security-policy"].startswith("default-src 'self'")
            modules = {name: re.findall(r'from "/assets/([^"]+)"', path.read_text()) for name, path in assets().items()}
            wanted = {*re.findall(r'="/assets/([^"]+)"', page.text), *chain.from_iterable(modules.values())}
            assert wanted >= {"theme.css", "frame.css", "lab.css", "lab.js", "elements.js"}
            for name in wanted:
                assert (await client.get(f"/assets/{name}")).status_code == 200
            assert (await client.get("/assets/secrets")).status_code == 404

    asyncio.run(story())  # files are read by a thread, which virtual time cannot wait for


def test_every_button_of_the_page_posts_to_an_endpoint_there_is(stage: Any) -> None:
    paths = app_of(stage).openapi()["paths"]
    pages = [path.read_text(encoding="utf-8") for path in assets().values() if path.parent.name == "page"]
    posts = {path for text in pages for path in re.findall(r'data-post="([^"]+)"', text)}
    assert len(posts) == 9
    assert {path for path in posts if "post" not in paths.get(path, {})} == set()
    assert not [text for text in pages if "http://" in text or "https://" in text or "innerHTML" in text]


def test_answers_are_as_the_document_says(stage: Any) -> None:
    document = app_of(stage).openapi()
    assert set(document["paths"]) >= {
        *(f"/{broker}/{what}" for broker in ("kafka", "rabbitmq") for what in ("send", "consume", "messages")),
        *(f"/tasks/{what}" for what in ("workers", "workers/start", "workers/stop", "submit", "results")),
        *("/pubsub/subscribers", "/pubsub/publish", "/pubsub/subscribers/{subscriber_id}"),
        *(f"/pubsub/subscribers/{{subscriber_id}}/{what}" for what in ("consume", "messages")),
        *("/health", "/metrics", "/status"),
    }
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], f"{method} {path}"
            assert "200" in operation["responses"]


def test_metrics_tell_routes_not_names(stage: Any) -> None:
    async def story() -> str:
        async with calling(stage) as client:
            await client.get("/pubsub/subscribers/somebody/messages")
            return (await client.get("/metrics")).text

    text = run_virtually(story())
    assert 'endpoint="/pubsub/subscribers/{subscriber_id}/messages"' in text
    assert "somebody" not in text


def test_a_part_that_lost_its_broker_is_503(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object) -> None:
        raise NotConnectedError("not connected to the broker at amqp://localhost:5672")

    monkeypatch.setattr(PubSub, "publish", lost)

    async def story() -> None:
        async with calling(stage) as client:
            answer = await client.post("/pubsub/publish", json=NOTE)
            assert answer.status_code == 503
            assert "amqp://localhost:5672" in answer.json()["detail"]

    run_virtually(story())


def test_the_assets_exist() -> None:
    assert all(isinstance(path, Path) and path.is_file() for path in assets().values())
