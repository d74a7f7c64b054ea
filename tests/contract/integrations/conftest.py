"""Queues with consumers that are not ours, on the embedded broker and on RabbitMQ; a Kafka without a proxy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, NoReturn

import httpx
import pika
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from backpressure.transports.kafka_node import PrivateKafka, find_kafka, private_kafka

_numbers = count(1)


class Consumer:
    """Consumes a queue in a thread with a plain client, and remembers what came."""

    def __init__(self, url: str, queue: str, arguments: dict[str, Any] | None = None) -> None:
        self.url, self.queue = url, queue
        self.bodies: list[bytes] = []
        self._arguments = arguments
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._consume, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60)

    def wait_for(self, expected: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.bodies) < expected and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _consume(self) -> None:
        while not self._stop.is_set():
            with suppress(pika.exceptions.AMQPError):  # a test may cut every connection
                self._consume_until_lost()

    def _consume_until_lost(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            channel = connection.channel()
            channel.queue_declare(self.queue, arguments=self._arguments)
            channel.basic_qos(prefetch_count=2)
            for method, _, body in channel.consume(self.queue, inactivity_timeout=0.05):
                self._ready.set()
                if self._stop.is_set():
                    return
                if method is not None:
                    channel.basic_ack(method.delivery_tag)
                    self.bodies.append(body)


@pytest.fixture(scope="session", params=["embedded", "rabbitmq"])
def running(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue({"embedded": "embedded_broker", "rabbitmq": "rabbitmq_node"}[request.param])


@pytest.fixture
def url(running: Any) -> str:
    return str(running.url)


@pytest.fixture
def cut(running: Any) -> Callable[[], None]:
    """Close every connection that the broker has, as an operator may."""

    def _cut() -> None:
        address = f"{running.management_url}/api"
        with httpx.Client(base_url=address, auth=("guest", "guest"), trust_env=False, timeout=60) as client:
            deadline = time.monotonic() + 60
            while not (names := [each["name"] for each in client.get("/connections").json()]):
                assert time.monotonic() < deadline, "the broker lists no connection"
                time.sleep(0.1)
            for name in names:
                client.delete(f"/connections/{httpx.URL(path=name).raw_path.decode()}")

    return _cut


@pytest.fixture
def consumer(url: str) -> Iterator[Consumer]:
    started = Consumer(url, f"integrations.{next(_numbers)}")
    started.start()
    yield started
    started.stop()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete(started.queue)


@pytest.fixture(scope="session")
def kafka(go_without: Callable[[str, str], NoReturn]) -> Iterator[PrivateKafka]:
    """A private Kafka broker."""
    if find_kafka() is None:
        go_without("kafka", "Java 17 or the jars that `make kafka` fetches are missing")
    with private_kafka() as node:
        yield node


@pytest.fixture
def topic(kafka: PrivateKafka) -> Iterator[str]:
    """A topic of two partitions."""
    admin = AdminClient({"bootstrap.servers": kafka.url.removeprefix("kafka://")})
    name = f"integrations.{next(_numbers)}"
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(60)
    yield name
    admin.delete_topics([name])
