"""`Paced` and `SyncPaced` with the client libraries of Kafka, on a real broker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaProducer

from backpressure import BackpressureError, Paced, SyncPaced
from backpressure.errors import NotConnectedError, UnroutableError

pytestmark = pytest.mark.kafka

BODIES = [f"{number}".encode() for number in range(50)]
GROUP = "workers"


@contextmanager
def consuming(kafka: Any, topic: str, expected: int) -> Iterator[list[bytes]]:
    """Consume in a group of its own, as most programs do: commits by the library, every 100 ms.

    The consumer stays in its group until the end, so that the group has one member whenever it is asked for.
    """
    servers = kafka.url.removeprefix("kafka://")
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 100,
        }
    )
    bodies: list[bytes] = []
    ready, complete, stop = threading.Event(), threading.Event(), threading.Event()

    def consume() -> None:
        consumer.subscribe([topic], on_assign=lambda *_: ready.set())
        while not stop.is_set():
            message = consumer.poll(0.05)
            if message is not None and message.error() is None:
                bodies.append(message.value() or b"")
                if len(bodies) == expected:
                    complete.set()
        consumer.close()

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        assert ready.wait(60)
        yield bodies
        complete.wait(60)
    finally:
        stop.set()
        thread.join()


async def a_url(kafka: Any, _stack: AsyncExitStack) -> Any:
    return kafka.url


async def a_producer_of_aiokafka(kafka: Any, stack: AsyncExitStack) -> Any:
    producer: Any = AIOKafkaProducer
    return await stack.enter_async_context(
        producer(bootstrap_servers=kafka.url.removeprefix("kafka://"), request_timeout_ms=5000)
    )


async def a_producer_of_confluent(kafka: Any, _stack: AsyncExitStack) -> Any:
    return producer_of_confluent(kafka)


def producer_of_confluent(kafka: Any) -> confluent_kafka.Producer:
    servers = kafka.url.removeprefix("kafka://")
    return confluent_kafka.Producer({"bootstrap.servers": servers, "topic.metadata.propagation.max.ms": 1000})


def an_address(kafka: Any) -> str:
    return str(kafka.url)


CLIENTS = [a_url, a_producer_of_aiokafka, a_producer_of_confluent]
BLOCKING_CLIENTS = [an_address, producer_of_confluent]


@pytest.mark.parametrize("client", CLIENTS)
def test_messages_arrive_at_the_pace_of_the_group(kafka: Any, topic: str, client: Callable[..., Any]) -> None:
    async def story() -> Any:
        async with AsyncExitStack() as stack, Paced(await client(kafka, stack), topic, group=GROUP) as paced:
            await asyncio.gather(*(paced.publish(body, key=b"one partition, one order") for body in BODIES))
            return paced.status()

    with consuming(kafka, topic, len(BODIES)) as bodies:
        status = asyncio.run(story())
    assert bodies == BODIES
    assert (status.sent, status.confirmed, status.in_flight, status.shed) == (len(BODIES), len(BODIES), 0, 0)
    assert status.watching
    assert status.consumers == 1


@pytest.mark.parametrize("client", BLOCKING_CLIENTS)
def test_threads_share_one_at_the_pace_of_the_group(kafka: Any, topic: str, client: Callable[..., Any]) -> None:
    with consuming(kafka, topic, len(BODIES)) as bodies, SyncPaced(client(kafka), topic, group=GROUP) as paced:
        threads = [threading.Thread(target=paced.publish, args=(body,)) for body in BODIES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = paced.status()
    assert sorted(bodies) == sorted(BODIES)
    assert (status.confirmed, status.consumers, status.watching) == (len(BODIES), 1, True)


def test_little_is_sent_while_no_group_consumes(kafka: Any, topic: str) -> None:
    with SyncPaced(kafka.url, topic, group=GROUP) as paced:
        deadline = time.monotonic() + 60
        while paced.status().consumers is None:  # until the brokers have told who is in the group, more is let through
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(BackpressureError) as caught:  # noqa: PT012 - see the comment
            for _ in range(100):  # nobody consumes: a few messages are let through, to see whether somebody comes
                paced.publish(b"", timeout=5)
        assert caught.value.retry_after_s > 0
        assert not paced.may_send()
        assert paced.status().consumers == 0
        assert paced.status().sent < 20


@pytest.mark.parametrize("client", [a_producer_of_aiokafka, a_producer_of_confluent])  # by URL it takes ten seconds
def test_a_topic_that_is_not_there_is_said(kafka: Any, client: Callable[..., Any]) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack, Paced(await client(kafka, stack), "no-such-topic") as paced:
            with pytest.raises(UnroutableError, match="no topic 'no-such-topic'"):
                await paced.publish(b"")

    asyncio.run(story())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_partition_that_is_not_there_is_said(kafka: Any, topic: str, client: Callable[..., Any]) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack, Paced(await client(kafka, stack), topic) as paced:
            with pytest.raises(UnroutableError, match="no such partition"):
                await paced.publish(b"", partition=99)

    asyncio.run(story())


@pytest.mark.parametrize("client", BLOCKING_CLIENTS)
def test_a_topic_that_is_not_there_is_said_to_a_thread(kafka: Any, client: Callable[..., Any]) -> None:
    with (
        SyncPaced(client(kafka), "no-such-topic") as paced,
        pytest.raises(UnroutableError, match="no topic 'no-such-topic'"),
    ):
        paced.publish(b"")


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_closed_can_be_opened_again(kafka: Any, topic: str, client: Callable[..., Any]) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            paced = Paced(await client(kafka, stack), topic, group=GROUP)
            for body in BODIES[:2]:
                async with paced:
                    await paced.publish(body, timeout=60)

    with consuming(kafka, topic, 2) as bodies:
        asyncio.run(story())
    assert sorted(bodies) == BODIES[:2]


def test_a_broker_that_stops_for_a_while_costs_no_message(kafka: Any, topic: str) -> None:
    with consuming(kafka, topic, len(BODIES)) as bodies, SyncPaced(kafka.url, topic, group=GROUP) as paced:
        paced.publish(BODIES[0])
        kafka.suspend()
        goes_on = threading.Timer(1.0, kafka.go_on)
        goes_on.start()
        for body in BODIES[1:]:
            paced.publish(body)
        goes_on.join()
    assert set(bodies) == set(BODIES)


def test_a_producer_that_was_given_is_asked_for_its_brokers_at_the_opening_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backpressure.integrations.confluent_client._CONNECT_S", 0.1)
    producer = confluent_kafka.Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    paced = SyncPaced(producer, "orders")
    assert paced.limiter.url == ""
    with pytest.raises(NotConnectedError, match="no broker answers"):
        paced.open()


def test_brokers_that_neither_make_topics_nor_describe_groups_are_paced_as_well() -> None:
    cluster = confluent_kafka.Producer({"bootstrap.servers": "in-the-client", "test.mock.num.brokers": 1})
    cluster.produce("orders", b"makes the topic")
    cluster.flush(60)
    with SyncPaced(cluster, "orders", group=GROUP) as paced:
        while not paced.status().watching:
            paced.publish(b"", timeout=60)
        assert paced.status().consumers is None
