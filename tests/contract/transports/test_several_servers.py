"""A broker with two addresses: when the server in use is killed, every client goes on at the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backpressure.core.message import Message
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.private_process import ReservedPorts
from backpressure.transports.rabbitmq.reporter import Reporter

Start = Callable[..., Any]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- conditions of all kinds
            await asyncio.sleep(0.01)


@pytest.fixture
def ports() -> Iterator[list[int]]:
    with ReservedPorts() as reserved:
        yield reserved.reserve([(0, "")] * 4)


@pytest.fixture
def settings(ports: list[int]) -> Settings:
    one, two, web_one, web_two = ports
    broker = {
        "host": f"127.0.0.1:{one},127.0.0.1:{two}",
        "management_url": f"http://127.0.0.1:{web_one},127.0.0.1:{web_two}",
    }
    return Settings.model_validate({"broker": broker | {"reconnect_min_s": 0.05, "reconnect_max_s": 0.1}})


class Ear:
    """Notes what the products of a transport tell."""

    def __init__(self) -> None:
        self.confirmed = self.losses = self.ready = 0
        self.bodies: list[bytes] = []
        self.reports: list[bytes] = []

    def on_ready(self) -> None:
        self.ready += 1

    def on_confirmed(self, _tag: int, _multiple: bool) -> None:
        self.confirmed += 1

    def on_lost(self, _error: Exception) -> None:
        self.losses += 1

    def on_delivery(self, delivery: Any) -> None:
        self.bodies.append(delivery.message.body)


def test_every_product_goes_on_at_the_other_server(
    start_embedded: Start, ports: list[int], settings: Settings, tmp_path: Path
) -> None:
    one, two, web_one, web_two = ports

    async def story() -> None:
        first = start_embedded(tmp_path, one, web_one)
        transport, queue = connect(settings), settings.queue
        sending, receiving = Ear(), Ear()
        admin, probe, feedback = transport.admin(), transport.probe(), transport.feedback()
        publisher, subscriber = transport.publisher(), transport.subscriber()
        for product in (admin, probe):
            await product.start()
        await admin.declare(queue)
        await publisher.start(sending)  # type: ignore[arg-type]
        await subscriber.start(receiving, queue=queue.work, prefetch=10)  # type: ignore[arg-type]
        await feedback.start(receiving.reports.append)
        management = ManagementClient.of(settings.broker)
        assert management is not None
        assert (await management.queue(queue.work)).name == queue.work
        publisher.publish(Message(b"before"), exchange=queue.exchange, routing_key=queue.routing_key)
        await until(lambda: receiving.bodies == [b"before"])

        start_embedded(tmp_path, two, web_two)
        other = connect(
            Settings.model_validate({"broker": {"port": two, "management_url": f"http://127.0.0.1:{web_two}"}})
        )
        elsewhere = other.admin()
        await elsewhere.start()
        await elsewhere.declare(queue)
        first.kill()

        await until(lambda: sending.ready == receiving.ready == 2)
        publisher.publish(Message(b"after"), exchange=queue.exchange, routing_key=queue.routing_key)
        await until(lambda: receiving.bodies == [b"before", b"after"])
        assert (await management.queue(queue.work)).name == queue.work
        await until(lambda: feedback.send(b"report") and bool(receiving.reports))
        async with asyncio.timeout(60):
            await admin.missing(queue)
            while (await probe.read(queue.work)).consumers != 1:  # noqa: ASYNC110 -- nobody is told
                await asyncio.sleep(0.01)
        assert str(two) in (await admin.identity()).address
        assert (sending.losses, receiving.losses) == (1, 1)
        await management.close()
        for stopped in (admin, elsewhere, probe, feedback, publisher, subscriber):
            await stopped.stop()

    asyncio.run(story())


def test_a_reporter_goes_on_at_the_other_server(
    start_embedded: Start, ports: list[int], settings: Settings, tmp_path: Path
) -> None:
    one, two, *web = ports
    url = f"amqp://guest:guest@127.0.0.1:{one},127.0.0.1:{two}/"

    async def heard_at(port: int) -> None:
        reports: list[bytes] = []
        feedback = connect(Settings.model_validate({"broker": {"port": port}})).feedback()
        await feedback.start(reports.append)
        await until(lambda: bool(reports))
        await feedback.stop()

    first = start_embedded(tmp_path, one, web[0])
    with Reporter("work.queue", url, prefetch=1):
        asyncio.run(heard_at(one))
        start_embedded(tmp_path, two, web[1])
        first.kill()
        asyncio.run(heard_at(two))
    assert "pace-reporter" not in {thread.name for thread in threading.enumerate()}
