"""`Paced` and `SyncPaced` with every client library of AMQP, on both brokers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import aio_pika
import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.select_connection import SelectConnection

from backpressure import BackpressureError, Limiter, Paced, SyncPaced
from backpressure.errors import ConfigError, RefusedError, UnroutableError

BODIES = [f"{number}".encode() for number in range(20)]


async def a_url(url: str, _stack: AsyncExitStack) -> Any:
    return url


async def a_channel_of_aio_pika(url: str, stack: AsyncExitStack) -> Any:
    return await (await stack.enter_async_context(await aio_pika.connect(url))).channel()


async def a_robust_channel_of_aio_pika(url: str, stack: AsyncExitStack) -> Any:
    return await (await stack.enter_async_context(await aio_pika.connect_robust(url))).channel()


async def a_connection_of_aio_pika(url: str, stack: AsyncExitStack) -> Any:
    return await stack.enter_async_context(await aio_pika.connect_robust(url))


async def a_connection_of_pika_in_a_loop(url: str, stack: AsyncExitStack) -> Any:
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    AsyncioConnection(pika.URLParameters(url), on_open_callback=opened.set_result)
    connection = await opened

    async def close() -> None:
        if connection.is_open:
            connection.close()
            while not connection.is_closed:  # noqa: ASYNC110 - it calls back, and this is a test
                await asyncio.sleep(0.01)

    stack.push_async_callback(close)
    return connection


CLIENTS = [
    a_url,
    a_channel_of_aio_pika,
    a_robust_channel_of_aio_pika,
    a_connection_of_aio_pika,
    a_connection_of_pika_in_a_loop,
]


def an_address(url: str, _stack: ExitStack) -> Any:
    return url


def a_blocking_channel(url: str, stack: ExitStack) -> Any:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    stack.callback(lambda: connection.close() if connection.is_open else None)
    return connection.channel()


def a_blocking_connection(url: str, stack: ExitStack) -> Any:
    return a_blocking_channel(url, stack).connection


def a_connection_in_a_thread(url: str, stack: ExitStack) -> Any:
    opened = threading.Event()
    connection = SelectConnection(pika.URLParameters(url), on_open_callback=lambda _: opened.set())
    thread = threading.Thread(target=connection.ioloop.start)
    thread.start()
    stack.callback(connection.ioloop.close)
    stack.callback(thread.join)

    def end() -> None:
        if connection.is_open:
            connection.add_on_close_callback(lambda *_: connection.ioloop.stop())
            connection.close()
        else:
            connection.ioloop.stop()

    stack.callback(lambda: connection.ioloop.add_callback_threadsafe(end))
    assert opened.wait(60)
    return connection


BLOCKING_CLIENTS = [an_address, a_blocking_channel, a_blocking_connection, a_connection_in_a_thread]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_message_arrives_in_the_order_of_the_calls(url: str, consumer: Any, client: Callable[..., Any]) -> None:
    async def story() -> Any:
        async with AsyncExitStack() as stack, Paced(await client(url, stack), consumer.queue) as paced:
            await asyncio.gather(*(paced.publish(body) for body in BODIES))
            return paced.status()

    status = asyncio.run(story())
    consumer.wait_for(len(BODIES))
    assert consumer.bodies == BODIES
    assert (status.sent, status.confirmed, status.in_flight, status.shed) == (len(BODIES), len(BODIES), 0, 0)
    assert status.watching
    assert status.consumers == 1


@pytest.mark.parametrize("client", BLOCKING_CLIENTS)
def test_threads_may_share_one(url: str, consumer: Any, client: Callable[..., Any]) -> None:
    with ExitStack() as stack, SyncPaced(client(url, stack), consumer.queue) as paced:
        threads = [threading.Thread(target=paced.publish, args=(body,)) for body in BODIES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert paced.status().confirmed == len(BODIES)
    consumer.wait_for(len(BODIES))
    assert sorted(consumer.bodies) == sorted(BODIES)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_lost_connection_costs_no_message(
    url: str, consumer: Any, cut: Callable[[], None], client: Callable[..., Any]
) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            paced = Paced(await client(url, stack), consumer.queue)
            await paced.open()
            await paced.publish(BODIES[0])
            await asyncio.to_thread(cut)
            for body in BODIES[1:]:
                await paced.publish(body)
            await paced.close()

    asyncio.run(story())
    consumer.wait_for(len(BODIES))
    assert set(consumer.bodies) == set(BODIES)


@pytest.mark.parametrize("client", BLOCKING_CLIENTS)
def test_a_lost_connection_costs_a_thread_no_message(
    url: str, consumer: Any, cut: Callable[[], None], client: Callable[..., Any]
) -> None:
    with ExitStack() as stack, SyncPaced(client(url, stack), consumer.queue) as paced:
        paced.publish(BODIES[0])
        cut()
        for body in BODIES[1:]:
            paced.publish(body)
    consumer.wait_for(len(BODIES))
    assert set(consumer.bodies) == set(BODIES)


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_closed_can_be_opened_again(url: str, consumer: Any, client: Callable[..., Any]) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            paced = Paced(await client(url, stack), consumer.queue)
            for body in BODIES[:2]:
                async with paced:
                    await paced.publish(body, timeout=60)

    asyncio.run(story())
    consumer.wait_for(2)
    assert consumer.bodies == BODIES[:2]


@pytest.mark.parametrize("client", BLOCKING_CLIENTS)
def test_what_a_thread_closed_can_be_opened_again(url: str, consumer: Any, client: Callable[..., Any]) -> None:
    with ExitStack() as stack:
        paced = SyncPaced(client(url, stack), consumer.queue)
        for body in BODIES[:2]:
            with paced:
                paced.publish(body, timeout=60)
    consumer.wait_for(2)
    assert consumer.bodies == BODIES[:2]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_queue_that_is_not_there_is_said(url: str, client: Callable[..., Any]) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack, Paced(await client(url, stack), "no such queue") as paced:
            with pytest.raises(UnroutableError, match="no such queue"):
                await paced.publish(b"")

    asyncio.run(story())


@pytest.mark.parametrize("client", BLOCKING_CLIENTS)
def test_a_queue_that_is_not_there_is_said_to_a_thread(url: str, client: Callable[..., Any]) -> None:
    with (
        ExitStack() as stack,
        SyncPaced(client(url, stack), "no such queue") as paced,
        pytest.raises(UnroutableError, match="no such queue"),
    ):
        paced.publish(b"")


@pytest.fixture
def full(url: str) -> Any:
    """A queue that takes one message, has it, and has no consumer."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare("integrations.full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        channel.confirm_delivery()
        channel.basic_publish("", "integrations.full", b"first")
        yield "integrations.full"
        channel.queue_delete("integrations.full")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refusal_is_retried_or_raised(url: str, full: str, client: Callable[..., Any]) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            given = await client(url, stack)
            async with Paced(given, full, law="unbounded", retry=None) as paced:
                with pytest.raises(RefusedError, match="full"):
                    await paced.publish(b"second")
                assert paced.status().refused == 1
                assert not await paced.try_publish(b"third")
            async with Paced(given, full, law="unbounded") as paced:
                publishing = asyncio.create_task(paced.publish(b"second"))
                while paced.status().refused == 0:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
                with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                    connection.channel().queue_purge(full)
                await publishing
                assert paced.status().confirmed == 1

    asyncio.run(story())


@pytest.mark.parametrize("client", BLOCKING_CLIENTS)
def test_a_refusal_is_raised_in_a_thread(url: str, full: str, client: Callable[..., Any]) -> None:
    with ExitStack() as stack, SyncPaced(client(url, stack), full, law="unbounded", retry=None) as paced:
        with pytest.raises(RefusedError, match="full"):
            paced.publish(b"second")
        assert not paced.try_publish(b"third")


def test_back_pressure_is_an_exception_for_who_cannot_wait(url: str) -> None:
    async def story() -> None:
        async with Paced(url, "integrations.nobody") as paced:
            with pytest.raises(BackpressureError) as caught:  # noqa: PT012 - see the comment
                for _ in range(100):  # nobody consumes: a few messages are let through, to see whether somebody comes
                    await paced.publish(b"", timeout=0.3)
            assert caught.value.retry_after_s > 0
            assert not await paced.try_publish(b"")
            assert paced.retry_after_s >= 1
            assert not paced.may_send()

    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_declare("integrations.nobody")
        asyncio.run(story())
        connection.channel().queue_delete("integrations.nobody")


def test_a_client_that_cannot_serve_is_refused_with_the_one_that_can(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        with pytest.raises(ConfigError, match="SyncPaced is for blocking ones"):
            Paced(connection.channel(), "orders")
        with pytest.raises(ConfigError, match="Paced is for asynchronous ones"):
            SyncPaced(object(), "orders")


# --- a queue that cannot be read ------------------------------------------------------------------------------------


def wrong_queue(url: str) -> tuple[str, str]:
    return url, "ordres"


def wrong_password(url: str) -> tuple[str, str]:
    return url.replace("guest:guest@", "guest:wrong@"), "orders"


def wrong_virtual_host(url: str) -> tuple[str, str]:
    return f"{url.rstrip('/')}/nowhere", "orders"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (wrong_queue, "queue 'ordres' does not exist"),
        (wrong_password, "ACCESS_REFUSED"),
        (wrong_virtual_host, "nowhere"),
    ],
)
def test_why_a_queue_cannot_be_read_is_the_reason_and_is_logged_once(
    url: str,
    wrong: Callable[[str], tuple[str, str]],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("backpressure.integrations.watcher._REFUSED_PAUSE_S", 0.1)
    address, queue = wrong(url)
    assert (address, queue) != (url, "orders")
    told: list[str] = []
    with Limiter(queue, address) as limiter:
        take = limiter.take_obstacle
        monkeypatch.setattr(limiter, "take_obstacle", lambda obstacle: (told.append(obstacle), take(obstacle)))
        while len(told) < 3 or not caplog.records:
            time.sleep(0.01)
        assert named in limiter.status().reason
    (record,) = caplog.records
    assert named in record.getMessage()
    assert "only the least may be sent" in record.getMessage()


def test_a_broker_that_is_away_is_the_reason_and_the_log_names_no_flag(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Limiter("orders", "amqp://127.0.0.1:1/") as limiter:
        while "no broker" not in limiter.status().reason:
            time.sleep(0.01)
        assert "waiting for a first reading" not in limiter.status().reason
    (record,) = caplog.records
    assert "waiting for one" in record.getMessage()
    assert "--" not in record.getMessage()


def test_a_queue_that_comes_later_is_read_then(url: str) -> None:
    with Limiter("integrations.later", url) as limiter:
        while "does not exist" not in limiter.status().reason:
            time.sleep(0.01)
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            connection.channel().queue_declare("integrations.later")
            while not limiter.status().watching:
                time.sleep(0.01)
            assert "does not exist" not in limiter.status().reason
            connection.channel().queue_delete("integrations.later")
