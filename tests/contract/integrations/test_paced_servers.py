"""A URL that names two servers: when the one in use is killed, what is published goes on at the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from backpressure import Limiter, Paced, SyncPaced
from backpressure.errors import ConfigError
from backpressure.transports.private_process import ReservedPorts

Start = Callable[..., Any]

QUEUE = "orders"


@pytest.fixture
def ports() -> Iterator[list[int]]:
    with ReservedPorts() as reserved:
        yield reserved.reserve([(0, "")] * 4)


@pytest.fixture
def url(ports: list[int]) -> str:
    return f"amqp://guest:guest@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/"


def ready_at(port: int) -> int:
    """Declare the queue there, and return how many messages it has."""
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)) as connection:
        declared = connection.channel().queue_declare(QUEUE)
        return int(declared.method.message_count)


class Servers:
    """The first one runs; the second is started when the first is to be killed."""

    def __init__(self, start: Start, folder: Path, ports: list[int]) -> None:
        self._start, self._folder, self._ports = start, folder, ports
        self._first = start(folder, ports[0], ports[2])
        ready_at(ports[0])

    def switch(self) -> None:
        self._start(self._folder, self._ports[1], self._ports[3])
        ready_at(self._ports[1])
        self._first.kill()


def test_a_task_publishes_at_the_other_server(
    start_embedded: Start, tmp_path: Path, ports: list[int], url: str
) -> None:
    servers = Servers(start_embedded, tmp_path, ports)

    async def story() -> None:
        async with Paced(url, QUEUE, law="unbounded") as paced:
            await paced.publish(b"before", timeout=60)
            await asyncio.to_thread(servers.switch)
            await asyncio.gather(*(paced.publish(b"after", timeout=60) for _ in range(3)))

    asyncio.run(story())
    assert ready_at(ports[1]) == 3


def test_a_thread_publishes_at_the_other_server(
    start_embedded: Start, tmp_path: Path, ports: list[int], url: str
) -> None:
    servers = Servers(start_embedded, tmp_path, ports)
    with SyncPaced(url, QUEUE, law="unbounded") as paced:
        paced.publish(b"before", timeout=60)
        servers.switch()
        for _ in range(3):
            paced.publish(b"after", timeout=60)
    assert ready_at(ports[1]) == 3


def test_a_limiter_watches_the_queue_at_the_other_server(
    start_embedded: Start, tmp_path: Path, ports: list[int], url: str
) -> None:
    servers = Servers(start_embedded, tmp_path, ports)
    with Limiter(QUEUE, url) as limiter:
        assert watches(limiter, consumers=0)
        servers.switch()
        with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", ports[1])) as connection:
            connection.channel().basic_consume(QUEUE, lambda *_: None)
            assert watches(limiter, consumers=1)


def watches(limiter: Limiter, consumers: int) -> bool:
    deadline = time.monotonic() + 60
    while limiter.status().consumers != consumers and time.monotonic() < deadline:
        time.sleep(0.01)
    return limiter.status().consumers == consumers


@pytest.mark.parametrize("kind", [Paced, SyncPaced])
def test_a_list_with_an_impossible_server_is_refused_at_once(kind: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="expected a host between commas"):
        kind("amqp://one,,two/", QUEUE)
