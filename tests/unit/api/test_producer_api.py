"""The producer's control API: documented shapes and names, errors with reasons, no silent loss."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from calling import IDLE, calling, producer_api, routes
from stage import WORK, LateTransport, RecordingBroker, consuming, settings_of, until
from virtual_time import VirtualClock, run_virtually

from backpressure.api.producer import Purged, Unsent, producer_app
from backpressure.api.serving import MAX_BODY_BYTES
from backpressure.api.status import ProducerStatus, State
from backpressure.catalogue import find_field
from backpressure.config import load
from backpressure.core.controllers import LAWS
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import NotConnectedError, TransportError, UnsupportedError
from backpressure.settings import LIVE, QueueSettings, Settings
from backpressure.transports.base import Cause, Refusal
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.endpoints import MemoryAdmin


def test_every_endpoint_is_there_and_documented() -> None:
    async def story() -> dict[str, Any]:
        async with producer_api() as (client, _, _):
            assert (await client.get("/docs")).status_code == 200
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            return document

    document = run_virtually(story())
    assert {
        ("GET", "/health"), ("POST", "/produce"), ("POST", "/batch-produce"), ("GET", "/metrics"), ("GET", "/status"),
        ("POST", "/admin/config"), ("POST", "/admin/clear-queue"),
    } <= set(routes(document))  # fmt: skip
    for item in document["paths"].values():
        assert all(operation.get("description") for operation in item.values())
    assert document["components"]["schemas"]["ProduceRequest"]["examples"]


def test_health_says_healthy_and_when() -> None:
    async def story() -> dict[str, str]:
        async with producer_api() as (client, _, _):
            body: dict[str, str] = (await client.get("/health")).json()
            return body

    body = run_virtually(story())
    assert body.keys() == {"status", "timestamp"}
    assert body["status"] == "healthy"
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None


def test_ready_is_503_with_the_reason_until_the_broker_takes_messages() -> None:
    async def story() -> list[tuple[int, Any]]:
        settings, broker, answers = settings_of(**IDLE), RecordingBroker(), []
        engine = ProducerEngine(MemoryTransport(settings, broker), settings, VirtualClock())

        async def look(client: httpx.AsyncClient) -> None:
            answer = await client.get("/ready")
            answers.append((answer.status_code, answer.json().get("detail")))
            assert (await client.get("/health")).status_code == 200

        async with calling(producer_app(engine)) as client:
            await look(client)
            await engine.start()
            await look(client)
            engine._sender.on_blocked("memory")
            await look(client)
            engine._sender.on_unblocked()
            engine._sender.on_lost(NotConnectedError("gone"))
            await look(client)
            engine._sender.on_ready()
            await asyncio.sleep(1)  # the queues are looked for again
            await look(client)
            await engine.close()
            await look(client)
        return answers

    assert run_virtually(story()) == [
        (503, "the broker is away"),
        (200, None),
        (503, "the broker blocks publishing"),
        (503, "the broker is away"),
        (200, None),
        (503, "it is stopping"),
    ]


def test_no_reports_are_claimed_before_anything_is_known_and_while_nobody_consumes() -> None:
    async def story() -> list[tuple[float | None, str, str | None]]:
        settings, broker, seen = settings_of(queue__predeclared=True, consumer__rate=100), RecordingBroker(), []
        await MemoryTransport(settings, broker).admin().declare(settings.queue)
        engine = ProducerEngine(MemoryTransport(settings, broker), settings, VirtualClock())

        def look() -> None:
            status = ProducerStatus.of(engine)
            seen.append((status.rates.allowed_per_s, status.reason, status.signal_quality))

        look()
        await engine.start()
        running = asyncio.create_task(engine.run())
        await asyncio.sleep(5)
        look()
        async with consuming(settings, broker):
            await asyncio.sleep(5)
            look()
        await asyncio.sleep(5)
        look()
        engine.stop()
        await running
        await engine.close()
        return seen

    before, alone, consumed, left = run_virtually(story())
    assert before == (0.0, "starting: nothing is sent before the broker has answered", None)
    assert alone == (0.0, "nobody consumes", None)
    assert consumed[1:] == ("holding the queue", "reported")
    assert left == (0.0, "nobody consumes", None)


def test_produce_answers_after_the_confirm_with_the_id_and_the_time() -> None:
    async def story() -> tuple[dict[str, str], float, RecordingBroker]:
        settings, broker, loop = settings_of(), RecordingBroker(), asyncio.get_running_loop()
        late = LateTransport(settings, broker, late_s=0.5)
        async with producer_api(broker, transport=late) as (client, _, _):
            asked_at = loop.time()
            answer = await client.post("/produce", json={"id": "order-1", "payload": "Hello", "processing_time": 0.05})
            assert answer.status_code == 200
            return answer.json(), loop.time() - asked_at, broker

    body, took_s, broker = run_virtually(story())
    assert body.keys() == {"status", "message_id", "timestamp"}
    assert (body["status"], body["message_id"]) == ("success", "order-1")
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert took_s >= 0.5 - 1e-9
    [arrival] = broker.arrivals
    assert arrival.message.body == b"Hello"
    assert arrival.message.headers["processing_time"] == "0.05"


@pytest.mark.parametrize(
    ("payload", "body"),
    [("text", b"text"), ("", b""), ({"a": [1, None]}, b'{"a": [1, null]}'), (7, b"7"), (False, b"false"),
     ("é", "é".encode())],
)  # fmt: skip
def test_text_is_sent_as_it_is_and_anything_else_as_json(payload: object, body: bytes) -> None:
    async def story() -> bytes:
        async with producer_api() as (client, _, broker):
            answer = await client.post("/produce", json={"payload": payload})
            assert answer.json()["message_id"] == broker.arrivals[0].id
            return broker.arrivals[0].message.body

    assert run_virtually(story()) == body


def test_a_burst_sends_the_requested_number_of_generated_messages() -> None:
    async def story() -> tuple[dict[str, object], RecordingBroker]:
        async with producer_api(producer__text="burst") as (client, _, broker):
            answer = await client.post("/produce", json={"count": 1000.0, "processing_time": 0.2})
            assert answer.status_code == 200
            return answer.json(), broker

    body, broker = run_virtually(story())
    assert body == {"status": "success", "messages_produced": 1000}
    assert Counter(arrival.message.body for arrival in broker.arrivals) == {b"burst": 1000}
    assert {arrival.message.headers["processing_time"] for arrival in broker.arrivals} == {"0.2"}


def test_a_batch_sends_each_of_its_messages_in_order() -> None:
    async def story() -> tuple[dict[str, object], RecordingBroker]:
        messages = [{"id": f"m{n}", "payload": {"n": n}, "processing_time": n / 10} for n in range(20)]
        async with producer_api() as (client, _, broker):
            answer = await client.post("/batch-produce", json={"messages": [*messages, {"payload": "no id"}]})
            assert answer.status_code == 200
            return answer.json(), broker

    body, broker = run_virtually(story())
    assert body == {"status": "success", "messages_produced": 21}
    assert [arrival.id for arrival in broker.arrivals[:-1]] == [f"m{n}" for n in range(20)]
    assert [arrival.message.body for arrival in broker.arrivals[:2]] == [b'{"n": 0}', b'{"n": 1}']


def test_no_request_of_a_thousand_parallel_ones_is_lost_or_doubled() -> None:
    async def story() -> tuple[set[int], Counter[str | None], list[str]]:
        settings, broker = settings_of(), RecordingBroker()
        late = LateTransport(settings, broker, late_s=0.05)
        async with producer_api(broker, transport=late, producer__confirm_window=100) as (client, _, _):
            answers = await asyncio.gather(
                *(client.post("/produce", json={"id": f"r{n}", "payload": n}) for n in range(1000))
            )
        statuses = {answer.status_code for answer in answers}
        return statuses, Counter(broker.taken()), [answer.json()["message_id"] for answer in answers]

    statuses, taken, told = run_virtually(story())
    assert statuses == {200}
    assert taken == Counter({f"r{n}": 1 for n in range(1000)})
    assert told == [f"r{n}" for n in range(1000)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/produce", {}),
        ("/produce", {"payload": None}),
        ("/produce", {"payload": "x", "colour": "red"}),
        ("/produce", {"payload": "x", "id": ""}),
        ("/produce", {"payload": "x", "id": "i" * 256}),
        ("/produce", {"payload": "x", "id": "é" * 128}),
        ("/produce", {"payload": "x", "id": 7}),
        ("/produce", {"payload": "x", "processing_time": -1}),
        ("/produce", {"payload": "x", "processing_time": "soon"}),
        ("/produce", {"count": 0}),
        ("/produce", {"count": 10**9}),
        ("/produce", {"count": 2, "payload": "x"}),
        ("/produce", {"count": 2, "id": "x"}),
        ("/produce", []),
        ("/batch-produce", {}),
        ("/batch-produce", {"messages": []}),
        ("/batch-produce", {"messages": [{"id": "no payload"}]}),
        ("/batch-produce", {"messages": [{"payload": "x", "colour": "red"}]}),
        ("/batch-produce", {"messages": "x"}),
    ],
)
def test_a_bad_request_is_told_why_and_sends_nothing(path: str, body: object) -> None:
    async def story() -> tuple[int, Any, int]:
        async with producer_api() as (client, _, broker):
            answer = await client.post(path, json=body)
            return answer.status_code, answer.json(), len(broker.arrivals)

    status, answer, sent = run_virtually(story())
    assert (status, sent) == (422, 0)
    assert all(reason["msg"] and reason["loc"] for reason in answer["detail"])


@pytest.mark.parametrize(
    "text",
    [
        '{"payload": "x", "processing_time": NaN}', '{"payload": NaN}', '{"payload": [Infinity]}',
        '{"payload": "\\ud800"}', '{"payload": {"\\ud800": 1}}', '{"payload": "x", "id": "\\udfff"}', '{"\\ud800": 1}',
        '{"count": 1e400}', "{", "", "\x00",
    ],
)  # fmt: skip
def test_what_is_not_json_or_not_unicode_is_refused_and_not_an_error_of_ours(text: str) -> None:
    async def story() -> tuple[int, int]:
        async with producer_api() as (client, _, broker):
            answer = await client.post("/produce", content=text, headers={"content-type": "application/json"})
            assert answer.json()["detail"]
            return answer.status_code, len(broker.arrivals)

    assert run_virtually(story()) == (422, 0)


@pytest.mark.parametrize("depth", [900, 960, 990, 100_000])
def test_a_body_nested_too_deeply_is_the_clients_mistake(depth: int) -> None:
    async def story() -> int:
        async with producer_api() as (client, _, _):
            body = '{"payload": ' + "[" * depth + "]" * depth + "}"
            return (
                await client.post("/produce", content=body, headers={"content-type": "application/json"})
            ).status_code

    assert run_virtually(story()) in {200, 400, 422}


def test_a_full_bounded_queue_answers_429_says_when_to_try_again_and_what_was_taken() -> None:
    async def story() -> tuple[Any, ...]:
        async with producer_api(producer__strategy="bounded", queue__max_length=3) as (client, engine, broker):
            first = await client.post("/produce", json={"count": 2})
            batch = await client.post("/batch-produce", json={"messages": [{"id": c, "payload": c} for c in "abc"]})
            single = await client.post("/produce", json={"payload": "x"})
            return first.status_code, batch, single, broker.texts(WORK), engine.report().rejected

    first, batch, single, ready, rejected = run_virtually(story())
    assert first == 200
    assert (batch.status_code, single.status_code) == (429, 429)
    assert int(batch.headers["Retry-After"]) >= 1
    assert int(single.headers["Retry-After"]) >= 1
    assert batch.json()["detail"]["messages_produced"] == 1
    assert batch.json()["detail"]["refused"] == ["b", "c"]
    assert "full" in single.json()["detail"]["message"]
    assert ready[-1] == "a"
    assert rejected == 3


@pytest.mark.parametrize(
    ("cause", "status", "again"),
    [
        (Cause.FULL, 429, True), (Cause.TOO_LARGE, 413, False), (Cause.INVALID, 422, False),
        (Cause.FORBIDDEN, 503, False), (Cause.FAILED, 503, True),
    ],
)  # fmt: skip
def test_the_answer_says_why_the_broker_will_not_have_it_and_whether_to_try_again(
    cause: Cause, status: int, again: bool
) -> None:
    async def story() -> httpx.Response:
        settings, broker = settings_of(), RecordingBroker()
        silent = LateTransport(settings, broker, late_s=60)
        async with producer_api(broker, transport=silent) as (client, engine, _):
            asked = asyncio.create_task(client.post("/produce", json={"payload": "x"}))
            await until(lambda: broker.arrivals)
            engine._sender.on_nacked(1, multiple=False, refusal=Refusal(cause, "because"))
            return await asked

    answer = run_virtually(story())
    assert (answer.status_code, "Retry-After" in answer.headers) == (status, again)
    assert "because" in str(answer.json()["detail"])


@pytest.mark.parametrize("strategy", ["pace", "aimd"])
def test_a_full_queue_answers_429_whatever_the_law(strategy: str) -> None:
    async def story() -> int:
        async with producer_api(producer__strategy=strategy, queue__max_length=1) as (client, _, _):
            await client.post("/produce", json={"payload": "fills it"})
            return (await client.post("/produce", json={"payload": "x"})).status_code

    assert run_virtually(story()) == 429


def test_a_broker_that_is_away_or_blocks_answers_503() -> None:
    async def story() -> list[tuple[int, str]]:
        answers = []
        async with producer_api() as (client, engine, broker):
            broker.block()
            first = asyncio.create_task(client.post("/produce", json={"payload": "waits for the alarm to end"}))
            await asyncio.sleep(0.1)
            answers.append(await client.post("/produce", json={"payload": "x"}))
            broker.unblock()
            assert (await first).status_code == 200
            broker.clients.clear()  # it will not come back
            engine._sender.on_lost(TransportError("gone"))
            answers += [await client.post("/produce", json={"count": 5}) for _ in range(2)]
        return [(answer.status_code, answer.headers["Retry-After"]) for answer in answers]

    assert run_virtually(story()) == [(503, "1")] * 3


def test_what_is_not_confirmed_in_time_is_answered_with_its_ids_and_that_it_may_arrive() -> None:
    async def story() -> httpx.Response:
        settings, broker = settings_of(), RecordingBroker()
        silent = LateTransport(settings, broker, late_s=60)
        async with producer_api(broker, transport=silent) as (client, _, _):
            return await client.post("/batch-produce", json={"messages": [{"id": c, "payload": c} for c in "ab"]})

    answer = run_virtually(story())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["detail"] == {
        "message": "the broker has not answered for 10 s, so it may still arrive: 0 of 2 were taken",
        "messages_produced": 0,
        "refused": [],
        "unconfirmed": ["a", "b"],
    }


def test_a_full_queue_after_a_lost_link_is_not_called_full_for_the_message_may_be_in_it() -> None:
    async def story() -> httpx.Response:
        settings, broker = settings_of(), RecordingBroker()
        late = LateTransport(settings, broker, late_s=1)
        async with producer_api(broker, transport=late, queue__max_length=1) as (client, _, _):
            asked = asyncio.create_task(client.post("/produce", json={"id": "order-1", "payload": "x"}))
            await until(lambda: broker.arrivals)
            broker.disconnect()
            return await asked

    answer = run_virtually(story())
    assert answer.status_code == 503
    assert answer.json()["detail"]["unconfirmed"] == ["order-1"]
    assert "may have arrived" in answer.json()["detail"]["message"]


def test_too_many_requests_at_once_are_asked_to_retry_later() -> None:
    async def story() -> list[httpx.Response]:
        settings, broker = settings_of(), RecordingBroker()
        late = LateTransport(settings, broker, late_s=1)
        async with producer_api(broker, transport=late, producer__confirm_window=1) as (client, _, _):
            return await asyncio.gather(*(client.post("/produce", json={"payload": n}) for n in range(12)))

    answers = run_virtually(story())
    assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 2}
    assert {answer.headers["Retry-After"] for answer in answers if answer.status_code == 429} == {"1"}


def test_a_message_no_queue_takes_is_an_error_too() -> None:
    async def story() -> tuple[int, str]:
        async with producer_api() as (client, _, broker):
            await MemoryTransport(settings_of(), broker).admin().delete(WORK)
            answer = await client.post("/produce", json={"payload": "x"})
            return answer.status_code, answer.json()["detail"]["message"]

    status, message = run_virtually(story())
    assert status == 503
    assert "NO_ROUTE" in message


def test_before_the_broker_is_there_the_api_answers_and_says_so() -> None:
    async def story() -> list[int]:
        settings = settings_of()
        engine = ProducerEngine(MemoryTransport(settings, RecordingBroker()), settings, VirtualClock())
        async with calling(producer_app(engine)) as client:
            answers = [await client.get(path) for path in ("/health", "/status", "/metrics")]
            answers.append(await client.post("/produce", json={"payload": "x"}))
        return [answer.status_code for answer in answers]

    assert run_virtually(story()) == [200, 200, 200, 503]


@pytest.mark.parametrize("said", ["nothing", str(MAX_BODY_BYTES + 1), "2", "-1", "²"])
def test_a_body_that_is_too_large_is_not_read_whatever_is_said_of_its_length(said: str) -> None:
    async def story() -> tuple[int, int]:
        read_bytes = 0

        async def endless() -> Any:
            nonlocal read_bytes
            while True:
                yield b"[" * (1 << 20)
                read_bytes += 1 << 20

        async with producer_api() as (client, _, broker):
            headers = [(b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")]
            headers += [] if said == "nothing" else [(b"content-length", said.encode("latin-1"))]
            answer = await client.post("/produce", content=endless(), headers=headers)
            assert not broker.arrivals
        return answer.status_code, read_bytes

    status, read_bytes = run_virtually(story())
    assert status == 413
    assert read_bytes <= MAX_BODY_BYTES + (1 << 20)


def test_a_body_of_unknown_length_that_is_small_is_taken() -> None:
    async def story() -> int:
        async def pieces() -> Any:
            yield b'{"payload": '
            yield b'"x"}'

        async with producer_api() as (client, _, _):
            return (
                await client.post("/produce", content=pieces(), headers={"content-type": "application/json"})
            ).status_code

    assert run_virtually(story()) == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [("/produce", {"payload": 1}), ("/produce", {"count": 1}), ("/batch-produce", {"messages": [{"payload": 1}]})],
)
@pytest.mark.parametrize(
    ("given", "carried"),
    [
        (f"00-{'0a' * 16}-{'0b' * 8}-01", True), (f"00-{'00' * 16}-{'0b' * 8}-01", False),
        (f"ff-{'0a' * 16}-{'0b' * 8}-01", False), (f"00-{'0A' * 16}-{'0b' * 8}-01", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_messages_carry_on_the_trace_of_the_caller_if_the_header_is_one(
    path: str, body: object, given: str, carried: bool
) -> None:
    async def story() -> object:
        async with producer_api() as (client, _, broker):
            assert (await client.post(path, json=body, headers={"traceparent": given})).status_code == 200
            return broker.arrivals[0].message.headers.get("traceparent")

    assert run_virtually(story()) == (given if carried else None)


@pytest.mark.parametrize(
    ("path", "body"), [("/admin/clear-queue", None), ("/admin/config", {"max_queue_size": 5, "production_rate": 9})]
)
@pytest.mark.parametrize(("noticed", "waited_s", "reason"), [(True, 0, "away"), (False, 5, "did not answer")])
def test_no_request_waits_for_a_broker_to_come_back(
    monkeypatch: pytest.MonkeyPatch, path: str, body: object, noticed: bool, waited_s: float, reason: str
) -> None:
    async def for_ever(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    async def story() -> tuple[int, str, float, bool]:
        async with producer_api(queue__max_length=50) as (client, engine, _):
            monkeypatch.setattr(MemoryAdmin, "start", for_ever)
            if noticed:
                engine._sender.on_lost(TransportError("gone"))
            settings, asked_at = engine.settings, asyncio.get_running_loop().time()
            answer = await client.post(path, json=body)
            took_s = asyncio.get_running_loop().time() - asked_at
            return answer.status_code, answer.json()["detail"], took_s, engine.settings == settings

    status, detail, took_s, unchanged = run_virtually(story())
    assert (status, took_s, unchanged) == (503, pytest.approx(waited_s), True)
    assert reason in detail


# --- status and metrics -----------------------------------------------------------------------------------------------


def test_status_shows_queue_process_rates_strategy_and_config() -> None:
    async def story() -> dict[str, Any]:
        async with producer_api(producer__strategy="bounded", queue__max_length=77, producer__rate=123) as (
            client,
            _,
            _,
        ):
            await client.post("/produce", json={"count": 50})
            await asyncio.sleep(1)
            body: dict[str, Any] = (await client.get("/status")).json()
            return body

    status = run_virtually(story())
    assert status["queue"]["mode"] == status["strategy"] == "bounded"
    assert (status["queue"]["size"], status["queue"]["max_size"]) == (50, 77)
    assert status["queue"]["memory_mb"] > 0
    assert status["process"]["memory_mb"] > 1
    assert status["process"]["cpu_percent"] >= 0
    assert {"offered_per_s", "allowed_per_s"} <= status["rates"].keys()
    assert status["config"]["producer"]["rate"] == 123
    assert (status["totals"]["published"], status["totals"]["confirmed"]) == (50, 50)
    assert status["state"] == "paused"


def test_no_secret_is_in_the_status_nor_in_the_answer_to_a_change() -> None:
    async def story() -> str:
        secrets = {
            "broker__url": "amqp://alice:hunter2@localhost/", "broker__password": "hunter2", "api__token": "hunter2",
            "broker__management_url": "http://alice:hunter2@localhost:15672",
        }  # fmt: skip
        settings = settings_of(**{**secrets, "producer__start_paused": True})
        broker = RecordingBroker()
        transport = MemoryTransport(settings, broker)
        async with producer_api(broker, transport=transport, **secrets) as (client, _, _):
            answers = [
                await client.get("/status"), await client.get("/metrics"),
                await client.post("/admin/config", json={"production_rate": 5}),
                await client.post("/admin/config", json={"settings": {"broker.password": "hunter2"}}),
                await client.post("/admin/config", json={"settings": {"broker.url": "amqp://bob:hunter2@x/"}}),
            ]  # fmt: skip
        return " ".join(answer.text for answer in answers)

    text = run_virtually(story())
    assert "localhost" in text
    assert "hunter2" not in text


def test_metrics_are_prometheus_text_and_count_what_was_produced_and_how_long_requests_took() -> None:
    async def story() -> tuple[str, str]:
        async with producer_api() as (client, _, _):
            await client.post("/produce", json={"count": 7})
            answer = await client.get("/metrics")
            return answer.headers["content-type"], answer.text

    content_type, text = run_virtually(story())
    assert content_type.startswith("text/plain; version=0.0.4")
    [produced] = [line for line in text.splitlines() if line.startswith("messages_produced_total")]
    assert float(produced.split()[-1]) == 7
    assert "http_request_duration_seconds_count{" in text
    assert 'path="/produce"' in text or 'route="/produce"' in text or 'endpoint="/produce"' in text


# --- changes while it runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"queue_mode": "unbounded"}, {"producer.strategy": "unbounded", "queue.max_length": None}),
        ({"queue_mode": "bounded"}, {"producer.strategy": "bounded", "queue.max_length": 50}),
        ({"queue_mode": "bounded", "max_queue_size": 9}, {"producer.strategy": "bounded", "queue.max_length": 9}),
        ({"rate_limit": 33}, {"control.parameters": {"rate_limited": {"rate_per_s": 33}}}),
        ({"queue_mode": "pid"}, {"producer.strategy": "pid", "queue.max_length": 50}),
        ({"max_queue_size": 123}, {"queue.max_length": 123}),
        ({"production_rate": 17}, {"producer.rate": 17}),
        ({"production_rate": 0}, {"producer.rate": 0}),
        ({"production_rate": "max"}, {"producer.rate": 0}),
        ({"target_wait_ms": 5}, {"control.target_wait_ms": 5}),
        ({"reduction_factor": 0.5}, {"control.parameters": {"threshold": {"reduction_factor": 0.5}}}),
        ({"floor_per_s": 3, "ceiling_per_s": 30}, {"control.floor_per_s": 3, "control.ceiling_per_s": 30}),
        ({"depth_threshold": 9}, {"control.parameters": {"threshold": {"pressure_depth": 9}}}),
        ({"settings": {"control.rate_limit": 8}}, {"control.parameters": {"rate_limited": {"rate_per_s": 8}}}),
        ({"parameters": {"aimd": {"backoff": 0.7}}}, {"control.parameters": {"aimd": {"backoff": 0.7}}}),
        ({"settings": {"producer.text": "new"}}, {"producer.text": "new"}),
        ({}, {}),
    ],
)  # fmt: skip
def test_a_change_is_in_force_and_answered_with_what_differs(body: dict[str, Any], expected: dict[str, Any]) -> None:
    async def story() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], object]:
        async with producer_api(queue__max_length=50) as (client, _, broker):
            before = (await client.get("/status")).json()["config"]
            answer = await client.post("/admin/config", json=body)
            assert (answer.status_code, answer.json()["status"]) == (200, "success")
            after = (await client.get("/status")).json()["config"]
            return answer.json()["changed"], before, after, broker.queues[WORK].bound.get("max-length")

    changed, before, after, bound = run_virtually(story())
    for key, value in expected.items():
        section, _, name = key.partition(".")
        assert after[section][name] == value
    assert bound == after["queue"]["max_length"]
    assert changed == {
        f"{section}.{name}": {"old": before[section][name], "new": value}
        for section, values in after.items()
        for name, value in values.items()
        if value != before[section][name]
    }


@pytest.mark.parametrize("first", ["unbounded", "bounded", "rate_limited"])
@pytest.mark.parametrize("second", LAWS)
def test_a_strategy_means_the_same_at_the_start_and_whenever_it_is_changed_to(first: str, second: str) -> None:
    def bound_of(queue: QueueSettings) -> tuple[int | None, str]:
        return queue.max_length, queue.overflow

    def started_with(strategy: str) -> Settings:
        environ = {"PACE_QUEUE__MAX_LENGTH": "50", "PACE_QUEUE__OVERFLOW": "drop-head", "PACE_CONFIG": ""}
        return load({"producer.strategy": strategy}, environ=environ)

    async def story() -> tuple[int | None, str]:
        given = {"queue__max_length": 50, "queue__overflow": "drop-head", "producer__strategy": "pace"}
        async with producer_api(**given) as (client, engine, broker):
            for mode in (first, second):
                assert (await client.post("/admin/config", json={"queue_mode": mode})).status_code == 200
            assert broker.queues[WORK].bound.get("max-length") == engine.settings.queue.max_length
            return bound_of(engine.settings.queue)

    assert run_virtually(story()) == bound_of(started_with(second).queue)


def test_a_producer_started_without_a_bound_by_its_strategy_gets_one_with_another() -> None:
    async def story(kind: str) -> int | None:
        given = {"producer__strategy": "unbounded", "queue__max_length": None, "queue__type": kind}
        async with producer_api(**given) as (client, engine, _):
            await client.post("/admin/config", json={"queue_mode": "pace"})
            return engine.settings.queue.max_length

    assert run_virtually(story("classic")) == 10_000
    assert run_virtually(story("lazy")) is None  # --lazy is without a bound whatever the strategy


def test_a_law_can_be_changed_where_the_bound_of_a_live_queue_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fixed(self: MemoryAdmin, queue: str, *, max_length: int | None, overflow: str) -> None:
        raise UnsupportedError("the bound is fixed")

    monkeypatch.setattr(MemoryAdmin, "set_bound", fixed)

    async def story() -> list[tuple[int, str, int | None]]:
        answers = []
        async with producer_api(producer__strategy="unbounded", queue__max_length=None) as (client, engine, _):
            for mode in ("bounded", "pace"):
                answer = await client.post("/admin/config", json={"queue_mode": mode})
                settings = engine.settings
                answers.append((answer.status_code, settings.producer.strategy, settings.queue.max_length))
        return answers

    assert run_virtually(story()) == [(409, "unbounded", None), (200, "pace", None)]


def test_a_change_shows_within_two_hundred_milliseconds() -> None:
    async def story() -> tuple[str, float, int]:
        async with producer_api(producer__start_paused=False, producer__rate=1000) as (client, _, broker):
            await asyncio.sleep(1)
            await client.post("/admin/config", json={"queue_mode": "rate_limited", "rate_limit": 50})
            await asyncio.sleep(0.2)
            status, before = (await client.get("/status")).json(), len(broker.arrivals)
            await asyncio.sleep(1)
            return status["queue"]["mode"], status["rates"]["allowed_per_s"], len(broker.arrivals) - before

    mode, allowed, sent = run_virtually(story())
    assert (mode, allowed) == ("rate_limited", 50)
    assert sent == pytest.approx(50, abs=2)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"queue_mode": "nonsense", "max_queue_size": 5}, "queue_mode"),
        ({"max_queue_size": 0, "production_rate": 5}, "max_queue_size"),
        ({"production_rate": -1}, "production_rate"),
        ({"production_rate": 5, "rate_limit": 0}, "rate_limit"),
        ({"reduction_factor": 1.5}, "reduction_factor"),
        ({"target_wait_ms": 1e9}, "target_wait_ms"),
        ({"parameters": {"aimd": {"nonsense": 1}}, "queue_mode": "aimd"}, "parameters.aimd.nonsense"),
        ({"settings": {"producer.rate": -1}}, "producer.rate"),
        ({"settings": {"broker.host": "elsewhere"}}, "broker.host"),
        ({"settings": {"producer.nonsense": 1}}, "producer.nonsense"),
        ({"settings": {"control.nonsense": 1}}, "control.nonsense"),
    ],
)
def test_a_change_that_is_not_allowed_names_the_key_and_what_is_and_changes_nothing(body: object, names: str) -> None:
    async def story() -> tuple[int, dict[str, Any], bool]:
        async with producer_api(queue__max_length=50) as (client, engine, broker):
            before = (
                engine.settings,
                broker.queues[WORK].bound,
                engine._pacing.law,
                engine._sender.schedule.rate_per_s,
            )
            answer = await client.post("/admin/config", json=body)
            after = (
                engine.settings,
                broker.queues[WORK].bound,
                engine._pacing.law,
                engine._sender.schedule.rate_per_s,
            )
            return answer.status_code, answer.json(), before == after

    status, answer, unchanged = run_virtually(story())
    assert status == 422
    assert answer["key"] == names
    assert names in answer["detail"]
    assert answer["allowed"]
    assert unchanged


@pytest.mark.parametrize("by", ["queue_mode", "settings"])
@pytest.mark.parametrize("path", [".a:b", "builtins:list", "law_of_a_stranger:Law"])
def test_no_request_makes_the_producer_import_a_module(
    path: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "law_of_a_stranger.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def story() -> tuple[int, str, str]:
        async with producer_api() as (client, engine, _):
            body = {"queue_mode": path} if by == "queue_mode" else {"settings": {"producer.strategy": path}}
            answer = await client.post("/admin/config", json=body)
            return answer.status_code, answer.json()["allowed"], engine.settings.producer.strategy

    status, allowed, strategy = run_virtually(story())
    assert (status, strategy) == (422, "unbounded")
    assert "unbounded, bounded" in allowed
    assert "law_of_a_stranger" not in sys.modules


def test_the_law_a_producer_was_started_with_can_be_gone_back_to() -> None:
    own = "backpressure.core.controllers.window_laws:AimdLaw"

    async def story() -> list[int]:
        async with producer_api(producer__strategy=own) as (client, _, _):
            modes = ("pid", own, "backpressure.core.controllers.classic_laws:PidLaw")
            return [(await client.post("/admin/config", json={"queue_mode": mode})).status_code for mode in modes]

    assert run_virtually(story()) == [200, 200, 422]


def test_an_error_shows_the_value_that_was_sent() -> None:
    async def story() -> str:
        async with producer_api() as (client, _, _):
            detail: str = (await client.post("/admin/config", json={"max_queue_size": 0})).json()["detail"]
            return detail

    assert run_virtually(story()) == "max_queue_size = 0 (from request): expected a whole number ≥ 1 or none (messages)"


@pytest.mark.parametrize("path", ["/status", "/admin/clear-queue", "/admin/pause", "/admin/resume"])
def test_every_answer_has_a_model_and_its_example_is_one(path: str) -> None:
    async def story() -> dict[str, Any]:
        async with producer_api() as (client, _, _):
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            return document

    document = run_virtually(story())
    [operation] = document["paths"][path].values()
    name = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    models = {"ProducerStatus": ProducerStatus, "State": State, "Purged": Purged}
    [example] = document["components"]["schemas"][name]["examples"]
    assert models[name].model_validate(example).model_dump(mode="json") == example


@pytest.mark.parametrize("path", ["/produce", "/batch-produce"])
def test_what_is_not_sent_is_documented_by_its_body(path: str) -> None:
    async def story() -> tuple[dict[str, Any], Any]:
        async with producer_api(producer__strategy="bounded", queue__max_length=1) as (client, _, _):
            document = (await client.get("/openapi.json")).json()
            return document, (await client.post("/produce", json={"count": 2})).json()

    document, answer = run_virtually(story())
    responses = document["paths"][path]["post"]["responses"]
    for code in ("413", "429", "503"):
        assert responses[code]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Unsent"}
    assert Unsent.model_validate(answer).model_dump() == answer
    assert all(Unsent.model_validate(one) for one in document["components"]["schemas"]["Unsent"]["examples"])


@pytest.mark.parametrize("body", [{"nonsense": 1}, {"max_queue_size": "many"}, {"production_rate": [1]}, [], "x"])
def test_a_request_of_the_wrong_shape_changes_nothing(body: object) -> None:
    async def story() -> tuple[int, bool]:
        async with producer_api() as (client, engine, _):
            before = engine.settings
            return (await client.post("/admin/config", json=body)).status_code, engine.settings == before

    assert run_virtually(story()) == (422, True)


def test_text_that_is_not_unicode_changes_nothing() -> None:
    async def story() -> tuple[int, bool]:
        async with producer_api() as (client, engine, _):
            before, body = engine.settings, json.dumps({"production_rate": 5, "settings": {"producer.text": "\ud800"}})
            headers = {"content-type": "application/json"}
            answer = await client.post("/admin/config", content=body, headers=headers)
            return answer.status_code, engine.settings == before

    assert run_virtually(story()) == (422, True)


def test_changes_at_the_same_moment_are_all_in_force_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    set_bound = MemoryAdmin.set_bound

    async def slowly(self: MemoryAdmin, queue: str, *, max_length: int | None, overflow: str) -> None:
        await asyncio.sleep(1)
        await set_bound(self, queue, max_length=max_length, overflow=overflow)

    monkeypatch.setattr(MemoryAdmin, "set_bound", slowly)

    async def story() -> tuple[object, ...]:
        async with producer_api(queue__max_length=50, producer__start_paused=False) as (client, engine, broker):
            bodies = [{"max_queue_size": 5}, {"production_rate": 9}, {"settings": {"producer.text": "new"}}]
            await asyncio.gather(*(client.post("/admin/config", json=body) for body in bodies))
            settings = engine.settings
            return (
                settings.queue.max_length, broker.queues[WORK].bound["max-length"], settings.producer.rate,
                engine._sender.schedule.rate_per_s, settings.producer.text, engine.body,
            )  # fmt: skip

    assert run_virtually(story()) == (5, 5, 9, 9, "new", b"new")


def test_a_bound_the_broker_cannot_change_is_reported_and_nothing_else_changes_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise TransportError("needs the management API: set broker.management_url")

    monkeypatch.setattr(MemoryAdmin, "set_bound", refuse)

    async def story() -> tuple[int, str, bool]:
        async with producer_api() as (client, engine, _):
            before = engine.settings
            answer = await client.post("/admin/config", json={"max_queue_size": 5, "production_rate": 9})
            return answer.status_code, answer.json()["detail"], engine.settings == before

    status, detail, unchanged = run_virtually(story())
    assert (status, unchanged) == (503, True)
    assert "management_url" in detail


def test_where_queues_have_no_bound_none_is_reported_and_only_that_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, max_length: int | None, **__: object) -> None:
        if max_length is not None:
            raise UnsupportedError("Kafka has no bounded queues")

    monkeypatch.setattr(MemoryTransport, "bounds_queues", False)
    monkeypatch.setattr(MemoryAdmin, "set_bound", refuse)

    async def story() -> tuple[list[int], list[object]]:
        codes, sizes = [], []
        async with producer_api(queue__max_length=50) as (client, _, _):
            for body in ({"queue_mode": "bounded"}, {"queue_mode": "unbounded"}, {"max_queue_size": 5}):
                codes.append((await client.post("/admin/config", json=body)).status_code)
                sizes.append((await client.get("/status")).json()["queue"]["max_size"])
        return codes, sizes

    assert run_virtually(story()) == ([409, 200, 409], [None, None, None])


def test_clearing_the_queue_says_how_many_were_dropped() -> None:
    async def story() -> tuple[dict[str, Any], int]:
        async with producer_api() as (client, _, broker):
            await client.post("/produce", json={"count": 12})
            return (await client.post("/admin/clear-queue")).json(), len(broker.queues[WORK].ready)

    assert run_virtually(story()) == ({"status": "success", "purged": 12}, 0)


def test_pause_and_resume() -> None:
    async def story() -> list[str]:
        states = []
        async with producer_api(producer__start_paused=False) as (client, _, _):
            for path in ("/admin/pause", "/admin/resume"):
                assert (await client.post(path)).status_code == 200
                states.append((await client.get("/status")).json()["state"])
        return states

    assert run_virtually(story()) == ["paused", "running"]


def test_every_live_setting_exists() -> None:
    for key in LIVE["producer"] | LIVE["consumer"]:
        assert key in Settings.model_fields if "." not in key else find_field(key).description
