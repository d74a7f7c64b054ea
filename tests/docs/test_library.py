"""The examples of docs/library.md, run unchanged on the embedded broker."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import httpx
import pika
import pytest

from backpressure import Pacer, Reporter
from backpressure.core.reports import ConsumerReport, decode
from backpressure.core.sums import FleetSize

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
BLOCK = re.compile(r"```python\n# example: (\S+)\n(.*?)```", re.DOTALL)
EXAMPLES = {match[1]: match[2] for match in BLOCK.finditer(PAGE.read_text("utf-8"))}


def example(name: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(EXAMPLES[name], f"library.md, {name}", "exec", dont_inherit=True), namespace)
    return namespace


@contextmanager
def consuming(url: str, queue: str) -> Iterator[list[bytes]]:
    """Consume ``queue`` in a thread: without a consumer, no law sends much."""
    bodies: list[bytes] = []
    ready = threading.Event()

    def consume() -> None:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.queue_declare(queue)
            channel.basic_qos(prefetch_count=1)
            for method, _, body in channel.consume(queue, inactivity_timeout=0.05):
                ready.set()
                if method is not None:
                    bodies.append(body)
                    channel.basic_ack(method.delivery_tag)
                if len(bodies) == len(BODIES):
                    break
            channel.cancel()

    thread = threading.Thread(target=consume)
    thread.start()
    assert ready.wait(60)
    yield bodies
    thread.join(60)
    assert not thread.is_alive()


BODIES = [b"one", b"two", b"three", b"four"]


def test_every_example_is_short() -> None:
    assert set(EXAMPLES) >= {"pika", "aio-pika", "kafka", "consumer"}
    for name, code in EXAMPLES.items():
        function = next(
            node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        assert (function.end_lineno or 0) - function.lineno + 1 < 25, name


def test_the_pika_example_publishes_everything_in_order(broker_url: str) -> None:
    with consuming(broker_url, "library.pika") as bodies:
        example("pika")["publish"](broker_url, "library.pika", BODIES)
    assert bodies == BODIES


def test_the_aio_pika_example_publishes_everything_in_order(broker_url: str) -> None:
    with consuming(broker_url, "library.aio") as bodies:
        asyncio.run(example("aio-pika")["publish"](broker_url, "library.aio", BODIES))
    assert bodies == BODIES


def test_the_one_line_example_publishes_everything_in_order(broker_url: str) -> None:
    with consuming(broker_url, "library.paced") as bodies:
        status = asyncio.run(example("paced")["publish"](broker_url, "library.paced", BODIES))
    assert bodies == BODIES
    assert status.confirmed == len(BODIES)


def test_the_one_line_example_publishes_everything_from_threads(broker_url: str) -> None:
    with consuming(broker_url, "library.paced-sync") as bodies:
        example("paced-sync")["publish"](broker_url, "library.paced-sync", BODIES)
    assert sorted(bodies) == sorted(BODIES)


def test_the_limiter_example_paces_a_call_of_the_user(broker_url: str) -> None:
    with (
        consuming(broker_url, "library.limiter") as bodies,
        pika.BlockingConnection(pika.URLParameters(broker_url)) as connection,
    ):
        channel = connection.channel()

        def send(body: bytes) -> None:
            channel.basic_publish("", "library.limiter", body)

        example("limiter")["submit"](broker_url, "library.limiter", send, BODIES)
    assert bodies == BODIES


def test_the_handler_of_the_example_takes_orders_and_answers_429_when_nobody_works_on_them(broker_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        connection.channel().queue_declare("library.fastapi")
    app = example("fastapi")["an_app"](broker_url, "library.fastapi")

    async def story() -> list[httpx.Response]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as client,
        ):
            return [await client.post("/orders", content=b"one") for _ in range(20)]

    answers = asyncio.run(story())
    assert answers[0].status_code == 202
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1


def test_the_application_in_the_examples_takes_orders_and_answers_429_when_nobody_works_on_them(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        connection.channel().queue_declare("orders")
    monkeypatch.setenv("AMQP_URL", broker_url)
    monkeypatch.syspath_prepend(PAGE.parents[1] / "examples")
    app = importlib.import_module("fastapi_orders").app
    monkeypatch.delitem(sys.modules, "fastapi_orders")
    monkeypatch.delitem(sys.modules, "orders")

    async def story() -> list[httpx.Response]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as client,
        ):
            answers = [await client.post("/orders", content=b"one") for _ in range(20)]
            return [*answers, await client.get("/orders")]

    answers = asyncio.run(story())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 202
    assert {answer.status_code for answer in answers} == {202, 405, 429}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


@contextmanager
def consuming_kafka(servers: str, topic: str, group: str) -> Iterator[list[bytes]]:
    """Consume in a thread, and commit each message when it is done, as the example requires."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    bodies: list[bytes] = []
    enough = threading.Event()

    def consume() -> None:
        while len(bodies) < len(BODIES) and not enough.is_set():
            if (message := consumer.poll(0.05)) is not None and message.error() is None:
                bodies.append(message.value() or b"")
                consumer.commit(message, asynchronous=False)
        consumer.close()

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        yield bodies
        thread.join(60)
    finally:
        enough.set()
        thread.join()


def test_the_kafka_example_publishes_everything_that_the_group_then_consumes() -> None:
    cluster = confluent_kafka.Producer({"bootstrap.servers": "in-the-client", "test.mock.num.brokers": 1})
    cluster.produce("library.kafka", BODIES[0])  # makes the topic, of several partitions
    cluster.flush(60)
    [broker] = cluster.list_topics(timeout=60).brokers.values()
    servers = f"{broker.host}:{broker.port}"
    with consuming_kafka(servers, "library.kafka", "library") as bodies:
        example("kafka")["publish"](servers, "library.kafka", "library", BODIES[1:])
    assert sorted(bodies) == sorted(BODIES)


def test_the_pacers_of_the_example_know_of_each_other() -> None:
    names = example("several")
    pacers = [names["a_pacer"]("orders", weight, 0.0) for weight in (1.0, 3.0)]
    names["exchange_reports"](pacers, 0.0)
    assert [pacer.reading(0, 1, now=0.1).rate_per_s for pacer in pacers] == pytest.approx([7.5, 22.5])


def test_pacers_of_the_example_for_a_fleet_go_by_sums_and_the_first_answers_who_asks() -> None:
    after_a_decision = example("fleet")["after_a_decision"]
    now = 0.0
    pacers = [Pacer("pace", now=now, queue="orders", session=number) for number in range(1, 31)]
    reporters = [Reporter("orders", prefetch=1, name=f"consumer-{number}", clock=lambda: now) for number in range(60)]
    heard: dict[Pacer, dict[str, bool]] = {pacer: {"pace.feedback": True} for pacer in pacers}

    def publish(exchange: str, payload: bytes) -> None:
        for pacer in pacers:
            if heard[pacer].get(exchange):
                pacer.report(payload, now=now)

    for step in range(60):
        now = step / 10
        for reporter in reporters:
            publish("pace.feedback", reporter.report())
        for pacer in pacers:
            pacer.reading(0, len(reporters), now=now)
            after_a_decision(pacer, now, publish, heard[pacer].__setitem__)
            publish("pace.feedback", pacer.own_report(now=now))
    assert [pacer.listens for pacer in pacers] == [True, True, *[False] * 28]
    assert all(each["pace.feedback.sums"] for each in heard.values())
    answers = [pacer.answer(reporters[0].report(), now=now) for pacer in pacers]
    assert answers[1:] == [None] * 29
    reporters[0].told(answers[0])
    assert reporters[0].report_every_s == pytest.approx(FleetSize(60, 30).intervals_s(0.1)[0], abs=0.001)
    assert reporters[0].report_every_s > 0.1


def test_the_reporter_example_handles_every_message_and_tells_the_producers(broker_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        channel.queue_declare("library.reporter")
        channel.exchange_declare("pace.feedback", "fanout")
        listener = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(listener, "pace.feedback")
        for body in BODIES:
            channel.basic_publish("", "library.reporter", body)
        handled: list[bytes] = []
        heard: list[ConsumerReport] = []

        def handle(body: bytes) -> None:
            seen = len(heard)
            while len(heard) == seen:  # until the next report: this one shows the work under way
                if (data := channel.basic_get(listener, auto_ack=True)[2]) is not None:
                    report = decode(data)
                    assert isinstance(report, ConsumerReport)
                    heard.append(report)
            handled.append(body)

        example("reporter")["consume"](broker_url, "library.reporter", handle, len(BODIES))
    assert handled == BODIES
    assert {(report.queue, report.prefetch) for report in heard} == {("library.reporter", 2)}
    assert {report.held for report in heard} <= {0, 1}
    assert [report.processed for report in heard] == sorted(report.processed for report in heard)
    assert heard[-1].processed > 0


def test_the_consumer_example_hands_every_message_to_the_handler(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_CONFIG", "")
    handled: list[bytes] = []

    async def handle(body: bytes) -> None:
        handled.append(body)

    async def both() -> Any:
        consuming = asyncio.create_task(example("consumer")["consume"](broker_url, len(BODIES), handle))
        publishing = asyncio.create_task(asyncio.to_thread(publish_when_there, broker_url))
        await publishing
        return await consuming

    report = asyncio.run(both())
    assert handled == BODIES
    assert report.processed == len(BODIES)


def publish_when_there(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            channel = connection.channel()
            try:
                channel.queue_declare("work.queue", passive=True)
                break
            except pika.exceptions.ChannelClosedByBroker:
                connection.sleep(0.05)
        for body in BODIES:
            channel.basic_publish("direct.exchange", "work", body)
