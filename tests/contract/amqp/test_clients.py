"""The same job with every AMQP client that users may bring: each makes other demands on the server.

Topic routing, confirms, returns, passive declares, prefetch, requeueing, dead letters and time to live. The clients
are test dependencies only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aio_pika
import amqpstorm
import kombu
import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Names:
    """The names that one variant of the story uses."""

    exchange: str
    queue: str
    dead: str

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "x-message-ttl": 60_000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.dead,
        }


@dataclass
class Told:
    """What a client saw."""

    returned: list[str] = field(default_factory=list)
    ready: int = -1
    seen: list[tuple[str, bool]] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)


EXPECTED = Told(
    returned=["NO_ROUTE"],
    ready=3,
    seen=[("1", False), ("1", True), ("2", False), ("3", False)],
    deaths=["rejected", "expired"],
)


def decide(told: Told, body: str, *, redelivered: bool) -> str:
    """The consumer of the story: the first delivery goes back, the last message is rejected."""
    told.seen.append((body, redelivered))
    if (body, redelivered) == ("1", False):
        return "requeue"
    return "reject" if body == "3" else "ack"


def tell_pika(url: str, names: Names) -> Told:
    told = Told()
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare(names.exchange, "topic")
    channel.queue_declare(names.dead)
    channel.queue_declare(names.queue, arguments=names.arguments)
    channel.queue_bind(names.queue, names.exchange, "a.#")
    for number in "123":
        channel.basic_publish(names.exchange, f"a.{number}", number.encode(), mandatory=True)
    try:
        channel.basic_publish(names.exchange, "b", b"back", mandatory=True)
    except pika.exceptions.UnroutableError as error:
        told.returned = [message.method.reply_text for message in error.messages]
    told.ready = channel.queue_declare(names.queue, passive=True).method.message_count
    channel.basic_qos(prefetch_count=1)
    for method, _, body in channel.consume(names.queue, inactivity_timeout=60):
        match decide(told, body.decode(), redelivered=method.redelivered):
            case "requeue":
                channel.basic_nack(method.delivery_tag)
            case "ack":
                channel.basic_ack(method.delivery_tag)
            case "reject":
                channel.basic_reject(method.delivery_tag, requeue=False)
                break
    channel.cancel()
    channel.basic_publish("", names.queue, b"4", pika.BasicProperties(expiration="20"))
    for method, properties, _ in channel.consume(names.dead, auto_ack=True, inactivity_timeout=60):
        assert method, "the second death did not come"
        told.deaths.append(properties.headers["x-death"][0]["reason"])
        if len(told.deaths) == 2:
            break
    connection.close()
    return told


def tell_pika_asyncio(url: str, names: Names) -> Told:
    return asyncio.run(_pika_asyncio(url, names))


async def _pika_asyncio(url: str, names: Names) -> Told:
    told = Told()
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    closed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def answer(start: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        start(*arguments, callback=future.set_result, **options)
        return await asyncio.wait_for(future, 60)

    connection = AsyncioConnection(
        pika.URLParameters(url),
        on_open_callback=opened.set_result,
        on_open_error_callback=lambda _connection, error: opened.set_exception(error),
        on_close_callback=lambda _connection, reason: closed.set_result(reason),
    )
    await asyncio.wait_for(opened, 60)
    channel_opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    connection.channel(on_open_callback=channel_opened.set_result)
    channel = await channel_opened
    settled: set[int] = set()

    def confirmed(frame: Any) -> None:  # one that was returned may be confirmed before those that were queued
        tag = frame.method.delivery_tag
        settled.update(range(1, tag + 1) if frame.method.multiple else [tag])

    channel.add_on_return_callback(lambda _channel, method, *_: told.returned.append(method.reply_text))
    await answer(channel.confirm_delivery, confirmed)
    await answer(channel.exchange_declare, names.exchange, "topic")
    await answer(channel.queue_declare, names.dead)
    await answer(channel.queue_declare, names.queue, arguments=names.arguments)
    await answer(channel.queue_bind, names.queue, names.exchange, "a.#")
    for number in "123":
        channel.basic_publish(names.exchange, f"a.{number}", number.encode(), mandatory=True)
    channel.basic_publish(names.exchange, "b", b"back", mandatory=True)
    await eventually(lambda: settled == {1, 2, 3, 4})
    told.ready = (await answer(channel.queue_declare, names.queue, passive=True)).method.message_count
    await answer(channel.basic_qos, prefetch_count=1)

    def work(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        match decide(told, body.decode(), redelivered=method.redelivered):
            case "requeue":
                channel.basic_nack(method.delivery_tag)
            case "ack":
                channel.basic_ack(method.delivery_tag)
            case "reject":
                channel.basic_reject(method.delivery_tag, requeue=False)

    def bury(_channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        told.deaths.append(properties.headers["x-death"][0]["reason"])
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(names.queue, work, consumer_tag="worker")
    await eventually(lambda: len(told.seen) == 4)
    await answer(channel.basic_cancel, "worker")
    channel.basic_publish("", names.queue, b"4", pika.BasicProperties(expiration="20"))
    channel.basic_consume(names.dead, bury)
    await eventually(lambda: len(told.deaths) == 2)
    connection.close()
    await asyncio.wait_for(closed, 60)
    return told


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- pika calls back
            await asyncio.sleep(0.01)


def tell_aio_pika(url: str, names: Names) -> Told:
    return asyncio.run(_aio_pika(url, names))


async def _aio_pika(url: str, names: Names) -> Told:
    told = Told()
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.set_qos(prefetch_count=1)
        exchange = await channel.declare_exchange(names.exchange, aio_pika.ExchangeType.TOPIC)
        dead = await channel.declare_queue(names.dead)
        queue = await channel.declare_queue(names.queue, arguments=names.arguments)
        await queue.bind(exchange, "a.#")
        for number in "123":
            await exchange.publish(aio_pika.Message(number.encode()), f"a.{number}")
        try:
            await exchange.publish(aio_pika.Message(b"back"), "b", mandatory=True)
        except aio_pika.exceptions.PublishError as error:
            told.returned.append(error.message.delivery.reply_text)
        passive = await channel.declare_queue(names.queue, passive=True)
        told.ready = passive.declaration_result.message_count or 0
        async with queue.iterator(timeout=60) as deliveries:
            async for message in deliveries:
                match decide(told, message.body.decode(), redelivered=bool(message.redelivered)):
                    case "requeue":
                        await message.nack(requeue=True)
                    case "ack":
                        await message.ack()
                    case "reject":
                        await message.reject(requeue=False)
                        break
        await channel.default_exchange.publish(aio_pika.Message(b"4", expiration=0.02), names.queue)
        async with dead.iterator(timeout=60) as deliveries:
            async for message in deliveries:
                deaths: Any = message.headers["x-death"]
                told.deaths.append(deaths[0]["reason"])
                await message.ack()
                if len(told.deaths) == 2:
                    break
    return told


def tell_kombu(url: str, names: Names) -> Told:
    told = Told()
    with kombu.Connection(url.rstrip("/") + "//", transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        exchange = kombu.Exchange(names.exchange, "topic", durable=False, channel=channel)
        dead = kombu.Queue(names.dead, channel=channel, durable=False, exchange=None)
        queue = kombu.Queue(
            names.queue, exchange, "a.#", channel=channel, durable=False, queue_arguments=names.arguments
        )
        dead.queue_declare()
        queue.declare()
        returned = lambda error, *_: told.returned.append(error.reply_text)  # noqa: E731 -- kombu keeps the function
        producer = kombu.Producer(channel, exchange, on_return=returned)
        for number in "123":
            producer.publish(number, routing_key=f"a.{number}", mandatory=True, serializer="raw")
        producer.publish("back", routing_key="b", mandatory=True, serializer="raw")
        told.ready = queue.queue_declare(passive=True).message_count

        def work(message: Any) -> None:
            match decide(told, _text(message.body), redelivered=message.delivery_info["redelivered"]):
                case "requeue":
                    message.requeue()
                case "ack":
                    message.ack()
                case "reject":
                    message.reject()

        def bury(message: Any) -> None:
            told.deaths.append(message.headers["x-death"][0]["reason"])
            message.ack()

        with kombu.Consumer(channel, [queue], on_message=work, prefetch_count=1):
            _drain(connection, lambda: len(told.seen) == 4)
        producer.publish("4", routing_key="a.4", expiration=0.02, serializer="raw")
        with kombu.Consumer(channel, [dead], on_message=bury):
            _drain(connection, lambda: len(told.deaths) == 2)
    return told


def _text(body: Any) -> str:
    return body if isinstance(body, str) else bytes(body).decode()


def _drain(connection: Any, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done() and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.05)


def tell_amqpstorm(url: str, names: Names) -> Told:
    told = Told()
    parameters = pika.URLParameters(url)
    with amqpstorm.Connection(parameters.host, "guest", "guest", port=parameters.port) as connection:
        channel = connection.channel()
        channel.confirm_deliveries()
        channel.exchange.declare(names.exchange, "topic")
        channel.queue.declare(names.dead)
        channel.queue.declare(names.queue, arguments=names.arguments)
        channel.queue.bind(names.queue, names.exchange, "a.#")
        for number in "123":
            assert channel.basic.publish(number, f"a.{number}", names.exchange, mandatory=True)
        try:
            channel.basic.publish("back", "b", names.exchange, mandatory=True)
        except amqpstorm.AMQPMessageError as error:
            told.returned.append("NO_ROUTE" if error.error_code == 312 else str(error))
        told.ready = channel.queue.declare(names.queue, passive=True)["message_count"]
        channel.basic.qos(1)

        def work(message: Any) -> None:
            match decide(told, message.body, redelivered=message.method["redelivered"]):
                case "requeue":
                    message.nack(requeue=True)
                case "ack":
                    message.ack()
                case "reject":
                    message.reject(requeue=False)

        def bury(message: Any) -> None:
            told.deaths.append(_text(message.properties["headers"]["x-death"][0]["reason"]))
            message.ack()

        tag = channel.basic.consume(work, names.queue)
        _process(channel, lambda: len(told.seen) == 4)
        channel.basic.cancel(tag)
        channel.basic.publish("4", names.queue, properties={"expiration": "20"})
        channel.basic.consume(bury, names.dead)
        _process(channel, lambda: len(told.deaths) == 2)
    return told


def _process(channel: Any, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done() and time.monotonic() < deadline:
        channel.process_data_events()


@pytest.mark.parametrize("tell", [tell_pika, tell_pika_asyncio, tell_aio_pika, tell_kombu, tell_amqpstorm])
def test_a_client_plays_the_whole_story(
    broker: Any, name: Callable[[], str], tell: Callable[[str, Names], Told]
) -> None:
    assert tell(broker.url, Names(name(), name(), name())) == EXPECTED
