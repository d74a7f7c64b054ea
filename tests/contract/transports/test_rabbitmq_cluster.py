"""A private cluster: its nodes have found each other, and nothing of it is left behind, however its parent ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NoReturn

import pika
import psutil
import pytest

from backpressure.experiments.cluster import RabbitMQCluster
from backpressure.settings import BrokerSettings, Settings
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.rabbitmq_cluster import private_cluster
from backpressure.transports.rabbitmq_node import find_rabbitmq

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

PARENT = """
import asyncio, sys
from backpressure.transports.rabbitmq_cluster import private_cluster
async def main():
    async with private_cluster(2) as cluster:
        print(cluster.pid, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def installed(go_without: Callable[[str, str], NoReturn]) -> None:
    if find_rabbitmq() is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")


def test_a_quorum_queue_has_a_member_on_each_node_and_survives_a_partition() -> None:
    async def story() -> None:
        async with private_cluster(3) as cluster:
            settings = Settings.model_validate({"broker": {"url": cluster.url}, "queue": {"type": "quorum"}})
            operator, work = RabbitMQCluster(cluster), settings.queue.work
            admin = connect(settings).admin()
            await admin.start()
            await admin.declare(settings.queue)
            await operator.until_in_sync(work)
            leader = await operator.leader(work)
            since = await operator.cut_off(leader)
            after, at = await operator.elected(work, leader, since)
            assert after is not leader
            assert at > since
            await operator.join_again(leader)
            await operator.until_in_sync(work)
            await admin.stop()

    asyncio.run(story())


def test_every_node_tells_what_the_consumers_of_a_quorum_queue_hold() -> None:
    """RabbitMQ's answer about one queue is zeros at nodes that do not lead it."""

    async def story() -> None:
        async with private_cluster(3) as cluster:
            settings = Settings.model_validate({"broker": {"url": cluster.url}, "queue": {"type": "quorum"}})
            work = settings.queue.work
            admin = connect(settings).admin()
            await admin.start()
            await admin.declare(settings.queue)
            await admin.stop()
            with closing(pika.BlockingConnection(pika.URLParameters(cluster.nodes[0].url))) as connection:
                channel = connection.channel()
                for _ in range(20):
                    channel.basic_publish("", work, b"")
                channel.basic_consume(work, lambda *_: None)
                apis = [
                    ManagementClient.of(BrokerSettings(url=each.url, management_url=each.management_url))
                    for each in cluster.nodes
                ]
                for api in apis:
                    assert api is not None
                    deadline = time.monotonic() + 60
                    while (told := await api.totals(work)).unacked != 20:  # counted every 5 s
                        connection.process_data_events()
                        assert time.monotonic() < deadline, told
                        await asyncio.sleep(0.2)
                    await api.close()

    asyncio.run(story())


def test_a_killed_parent_takes_every_node_and_the_port_mapper_with_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline())
        group = psutil.Process(parent.pid).children(recursive=True)
        assert sum(process.name().startswith("beam") for process in group) == 2
        parent.kill()
    deadline = time.monotonic() + 60
    while any(_is_alive(process) for process in group):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(process: Any) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
