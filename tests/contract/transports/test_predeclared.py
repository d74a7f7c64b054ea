"""A queue that somebody else has declared is used as it is: nothing is declared, bound, limited, emptied or deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pika import BlockingConnection, URLParameters

from backpressure.config import replaced
from backpressure.engines.clock import Clock
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import (
    ConfigError,
    ExchangeNotFoundError,
    QueueNotFoundError,
    TransportError,
    UnsupportedError,
)
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.memory_broker import MemoryQueue

Play = Callable[..., None]

on_exchanges = pytest.mark.parametrize("kind", ["memory", "embedded", "rabbitmq"])
on_amqp = pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])


class Owner:
    """A foreign client: it declares queues with any arguments, with plain pika where there is a socket."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.queue = f"{bench.queue.work}.orders"
        self.exchange = f"{bench.queue.exchange}.shop"

    async def declares(self, queue: str = "", **arguments: Any) -> None:
        """Declare a queue with ``arguments``, and bind it to an exchange with the key ``order.new``."""
        queue = queue or self.queue
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        if isinstance(self.bench.transport, MemoryTransport):
            broker = self.bench.transport.broker
            broker.declare(MemoryQueue(queue, True, named))
            broker.bindings.setdefault(self.exchange, []).append(("order.new", queue))
            return
        await asyncio.to_thread(self._declare, queue, named)
        self.bench.stack.push_async_callback(asyncio.to_thread, self._remove, queue)

    def _declare(self, queue: str, arguments: dict[str, Any]) -> None:
        connection = BlockingConnection(URLParameters(self.bench.broker.url))
        channel = connection.channel()
        channel.exchange_declare(self.exchange, "topic", durable=True)
        channel.queue_declare(queue, durable=True, arguments=arguments)
        channel.queue_bind(queue, self.exchange, "order.*")
        connection.close()

    def leads_through(self, exchange: str) -> None:
        """Have a temporary exchange before the one that the queue is bound to."""
        connection = BlockingConnection(URLParameters(self.bench.broker.url))
        channel = connection.channel()
        channel.exchange_declare(exchange, "fanout", durable=True, auto_delete=True)
        channel.exchange_bind(self.exchange, exchange)
        connection.close()

    def _remove(self, queue: str) -> None:
        """Clean up on a connection of its own: a story may have cut all that go through the proxy."""
        connection = BlockingConnection(URLParameters(self.bench.broker.url))
        channel = connection.channel()
        channel.queue_delete(queue)
        channel.exchange_delete(self.exchange)
        connection.close()

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of our programs; ``queue__x=1`` stands for ``queue.x = 1``."""
        dotted = {name.replace("__", ".", 1): value for name, value in changes.items()}
        ours = {
            "queue.predeclared": True,
            "queue.work": self.queue,
            "queue.dead_letter": f"{self.queue}.failed",
            "queue.exchange": "",
            "queue.auditing": False,
            "broker.wait": False,
            "producer.rate": 0,
            "producer.limit": 20,
            "producer.strategy": "unbounded",
            "consumer.rate": 0,
            "consumer.expect": 20,
            "retry.max_attempts": 2,
            "retry.backoff_min_ms": 0,
        }
        return replaced(self.bench.settings, ours | dotted)


@asynccontextmanager
async def running(engine: Any) -> AsyncIterator[Any]:
    """Start an engine, and close it however the story ends."""
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def producer(bench: Any, settings: Settings) -> ProducerEngine:
    return ProducerEngine(_transport(bench, settings), settings, Clock())


def consumer(bench: Any, settings: Settings, handler: Any = None) -> ConsumerEngine:
    return ConsumerEngine(_transport(bench, settings), settings, Clock(), handler=handler)


def _transport(bench: Any, settings: Settings) -> Any:
    if isinstance(bench.transport, MemoryTransport):
        return MemoryTransport(settings, bench.transport.broker)
    return connect(settings)


@on_exchanges
@pytest.mark.parametrize("exchange", ["the default one", "their own"])
def test_a_producer_and_a_consumer_leave_the_definitions_as_they_were(play: Play, exchange: str) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares(x_message_ttl=600_000, x_max_length=5000)
        own = {"queue__exchange": owner.exchange, "queue__routing_key": "order.new"} if "own" in exchange else {}
        settings = owner.settings(**own)
        before = await bench.definitions()
        async with running(consumer(bench, settings)) as consuming, running(producer(bench, settings)) as producing:
            async with asyncio.timeout(60):
                await asyncio.gather(producing.run(), consuming.run())
            assert producing.report().confirmed == 20
            assert producing.report().returned == 0
            assert consuming.report().processed == 20
            assert producing.settings.queue.max_length is None  # it is not ours, and not known
        await bench.unchanged(before)

    play(story)


@on_exchanges
def test_a_message_that_fails_too_often_goes_to_the_dead_letter_exchange_of_the_queue(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        theirs = f"{owner.queue}.theirs"
        await owner.declares(theirs)
        await owner.declares(x_dead_letter_exchange="", x_dead_letter_routing_key=theirs)
        await _fail(bench, owner.settings(consumer__expect=1))
        probe = await bench.started(bench.transport.probe())
        await bench.quiet(probe, ready=1, queue=theirs)
        await bench.quiet(probe, ready=0, queue=owner.queue)

    play(story)


@on_exchanges
@pytest.mark.parametrize("arguments", [{}, {"x_dead_letter_exchange": "nowhere"}], ids=["no exchange", "unbound one"])
def test_without_such_an_exchange_it_is_published_to_the_named_queue(play: Play, arguments: dict[str, str]) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        failed = owner.settings().queue.dead_letter
        await owner.declares(failed)
        await owner.declares(**arguments)
        await _fail(bench, owner.settings(consumer__expect=1))
        probe = await bench.started(bench.transport.probe())
        await bench.quiet(probe, ready=1, queue=failed)
        await bench.quiet(probe, ready=0, queue=owner.queue)

    play(story)


@on_exchanges
def test_without_any_place_for_dead_letters_the_message_stays_and_the_start_says_so(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares()
        settings = owner.settings(consumer__expect=1)
        attempts = 0

        async def handler(_delivery: Any, _metadata: Any) -> None:
            nonlocal attempts
            attempts += 1
            raise ValueError("bad order")

        async with running(consumer(bench, settings, handler)) as consuming:
            assert "goes back to the queue" in caplog.text
            assert settings.queue.dead_letter in caplog.text
            await _publish(bench, settings)
            run = asyncio.create_task(consuming.run())
            await bench.until(lambda: attempts > 4)  # given up twice, and tried again
            consuming.stop()
            await run
            assert consuming.report().dead_lettered == 0
        await bench.quiet(await bench.started(bench.transport.probe()), ready=1, queue=owner.queue)

    play(story)


@on_exchanges
@pytest.mark.parametrize(("give_up", "target"), [("publish", "failed"), ("reject", "theirs"), ("auto", "theirs")])
def test_what_becomes_of_a_failed_message_can_be_chosen(play: Play, give_up: str, target: str) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        for name in ("failed", "theirs"):
            await owner.declares(f"{owner.queue}.{name}")
        await owner.declares(x_dead_letter_exchange="", x_dead_letter_routing_key=f"{owner.queue}.theirs")
        await _fail(bench, owner.settings(consumer__expect=1, queue__give_up=give_up))
        await bench.quiet(await bench.started(bench.transport.probe()), ready=1, queue=f"{owner.queue}.{target}")

    play(story)


async def _fail(bench: Any, settings: Settings) -> None:
    """Publish one message that fails until the consumer gives it up."""

    async def handler(_delivery: Any, _metadata: Any) -> None:
        raise ValueError("bad order")

    await _publish(bench, settings)
    async with running(consumer(bench, settings, handler)) as consuming, asyncio.timeout(60):
        await consuming.run()
        assert consuming.report().dead_lettered == 1


async def _publish(bench: Any, settings: Settings) -> None:
    one = replaced(settings, {"producer.limit": 1})
    async with running(producer(bench, one)) as producing, asyncio.timeout(60):
        await producing.run()
        assert producing.report().confirmed == 1


@on_exchanges
def test_the_queue_is_neither_emptied_nor_bounded(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares()
        settings = owner.settings()
        await _publish(bench, settings)
        before = await bench.definitions()
        with pytest.raises(ConfigError, match="predeclared"):
            await producer(bench, replaced(settings, {"producer.purge": True})).start()
        async with running(producer(bench, settings)) as producing:
            with pytest.raises(UnsupportedError, match="predeclared"):
                await producing.purge()
            with pytest.raises(UnsupportedError, match="whoever declared it"):
                await producing.reconfigure(replaced(producing.settings, {"queue.max_length": 5}))
            await producing.reconfigure(replaced(producing.settings, {"producer.rate": 5}))
            assert set(before) <= set(await bench.definitions())
        await bench.quiet(await bench.started(bench.transport.probe()), ready=1, queue=owner.queue)

    play(story)


@on_exchanges
def test_what_is_not_there_is_named_and_not_created(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        before = await bench.definitions()
        for engine in (producer(bench, owner.settings()), consumer(bench, owner.settings())):
            with pytest.raises(QueueNotFoundError, match=f"queue '{owner.queue}' does not exist: --predeclared"):
                await engine.start()
            await engine.close()
        await bench.unchanged(before)
        await owner.declares()
        settings = owner.settings(queue__exchange="no.such.exchange")
        before = await bench.definitions()
        engine = producer(bench, settings)
        with pytest.raises(ExchangeNotFoundError, match=r"exchange 'no\.such\.exchange' does not exist: --predeclared"):
            await engine.start()
        await engine.close()
        async with running(consumer(bench, settings)):  # a consumer needs no exchange
            pass
        await bench.unchanged(before)

    play(story)


@on_exchanges
@pytest.mark.parametrize("key", ["invoice.new", "order"])
def test_a_producer_whose_messages_would_not_come_into_the_queue_is_refused(play: Play, key: str) -> None:
    """It would take what goes elsewhere for what consumers have done, and send ever more."""

    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares()
        before = await bench.definitions()
        settings = owner.settings(queue__exchange=owner.exchange, queue__routing_key=key)
        engine = producer(bench, settings)
        with pytest.raises(
            UnsupportedError, match=rf"key '{key}' elsewhere.*and not to '.*orders' \(bound with 'order"
        ):
            await engine.start()
        await engine.close()
        async with running(consumer(bench, settings)):  # a consumer publishes nothing
            pass
        assert await bench.definitions() == before

    play(story)


@on_amqp
def test_where_messages_may_go_on_to_other_exchanges_nobody_is_refused(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares()
        await asyncio.to_thread(owner.leads_through, "invoices")
        engine = producer(bench, owner.settings(queue__exchange="invoices", queue__routing_key="order.new"))
        await engine.start()
        await engine.close()

    play(story)


@on_exchanges
def test_a_queue_that_is_deleted_during_an_outage_is_not_created_again(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares()
        engine = producer(bench, owner.settings(broker__wait=True))
        async with running(engine):
            sender = engine._sender  # its keeper of the queues is asked what it knows
            assert sender.queues.in_place
            await bench.admin.delete(owner.queue)
            bench.cut()
            await bench.until(lambda: not sender.queues.in_place)
            with pytest.raises((QueueNotFoundError, TransportError)):
                await sender.queues.create()
            assert not sender.queues.in_place
            assert not any(owner.queue in line for line in await bench.definitions())

    play(story)


@on_amqp
def test_a_consumer_that_has_the_queue_for_itself_is_named_in_one_line(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares()
        connection = await asyncio.to_thread(BlockingConnection, URLParameters(bench.broker.url))
        channel = connection.channel()
        channel.basic_consume(owner.queue, lambda *_: None, exclusive=True)
        engine = consumer(bench, owner.settings())
        with pytest.raises(UnsupportedError, match="in exclusive use"):
            await engine.start()
        await engine.close()
        await asyncio.to_thread(connection.close)

    play(story)


@on_amqp
def test_a_consumer_that_is_not_let_in_leaves_nothing_behind(play: Play) -> None:
    async def story(bench: Any) -> None:
        connection = await asyncio.to_thread(BlockingConnection, URLParameters(bench.broker.url))
        connection.channel().basic_consume(bench.queue.work, lambda *_: None, exclusive=True)
        before = await bench.definitions()
        engine = ConsumerEngine(connect(bench.settings), bench.settings, Clock())
        with pytest.raises(UnsupportedError, match="in exclusive use"):
            await engine.start()
        await engine.close()
        await bench.unchanged(before)
        await asyncio.to_thread(connection.close)

    play(story)


@on_amqp
def test_a_queue_of_another_connection_is_named_in_one_line(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        connection = await asyncio.to_thread(BlockingConnection, URLParameters(bench.broker.url))
        connection.channel().queue_declare(owner.queue, exclusive=True)
        for engine in (consumer(bench, owner.settings()), producer(bench, owner.settings())):
            with pytest.raises(UnsupportedError, match="in exclusive use"):
                await engine.start()
            await engine.close()
        await asyncio.to_thread(connection.close)

    play(story)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["rabbitmq"])
@pytest.mark.parametrize("arguments", [{"x_queue_type": "quorum"}, {"x_max_priority": 5}, {"x_queue_mode": "lazy"}])
def test_every_kind_of_queue_of_messages_works(play: Play, arguments: dict[str, Any]) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares(**arguments)
        settings = owner.settings()
        async with running(consumer(bench, settings)) as consuming, running(producer(bench, settings)) as producing:
            async with asyncio.timeout(60):
                await asyncio.gather(producing.run(), consuming.run())
            assert consuming.report().processed == 20

    play(story)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["rabbitmq"])
def test_a_stream_is_refused_in_one_line(play: Play) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares(x_queue_type="stream")
        for engine in (consumer(bench, owner.settings()), producer(bench, owner.settings())):
            with pytest.raises(UnsupportedError, match="is a stream"):
                await engine.start()
            await engine.close()

    play(story)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["rabbitmq"])
def test_a_user_who_may_only_read_and_write_the_queue_can_use_it(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """No right to declare anything, and none for the management API: what is lost is said, and the rest works."""

    async def story(bench: Any) -> None:
        owner = Owner(bench)
        await owner.declares()
        user = f"clerk-{owner.queue}"
        await asyncio.to_thread(bench.broker.ctl, "add_user", user, "clerk")
        allowed = f"^({owner.queue}|amq.default)$".replace(".", "\\.")
        await asyncio.to_thread(bench.broker.ctl, "set_permissions", user, "^$", allowed, allowed)
        try:
            url = bench.settings.broker.url.replace("guest:guest@", f"{user}:clerk@")
            settings = owner.settings(broker__url=url)
            before = await bench.definitions()
            async with running(consumer(bench, settings)) as consuming, running(producer(bench, settings)) as producing:
                async with asyncio.timeout(60):
                    await asyncio.gather(producing.run(), consuming.run())
                assert consuming.report().processed == 20
                await bench.unchanged(before)
            assert "whether the queue has a dead-letter exchange is unknown" in caplog.text
            assert "no reports are heard or sent" in caplog.text
        finally:
            await asyncio.to_thread(bench.broker.ctl, "delete_user", user)

    play(story)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["rabbitmq"])
def test_a_listener_that_may_not_create_a_queue_takes_its_exchange_back(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        exchange = bench.settings.feedback.exchange
        user = f"clerk-{owner.queue}"
        await asyncio.to_thread(bench.broker.ctl, "add_user", user, "clerk")
        allowed = f"^{exchange}$".replace(".", "\\.")
        await asyncio.to_thread(bench.broker.ctl, "set_permissions", user, allowed, ".*", ".*")
        try:
            before = await bench.definitions()
            url = bench.settings.broker.url.replace("guest:guest@", f"{user}:clerk@")
            feedback = await bench.started(connect(owner.settings(broker__url=url)).feedback(), lambda _: None)
            assert "no reports are heard" in caplog.text
            await bench.unchanged(before)
            await bench.until(lambda: not feedback.send(b"nobody hears it"))
        finally:
            await asyncio.to_thread(bench.broker.ctl, "delete_user", user)

    play(story)


@on_amqp
def test_a_consumer_that_starts_first_reports_as_soon_as_a_producer_listens(play: Play) -> None:
    async def story(bench: Any) -> None:
        settings = Owner(bench).settings()
        heard: list[bytes] = []
        speaker = await bench.started(connect(settings).feedback())
        assert not speaker.send(b"nobody listens")
        for _ in range(2):  # the exchange vanishes with its only listener, and comes back with the next
            listener = connect(settings).feedback()
            await listener.start(heard.append)
            try:
                async with asyncio.timeout(60):
                    while not heard:
                        speaker.send(b"report")
                        await asyncio.sleep(0.02)
            finally:
                await listener.stop()
            heard.clear()
            async with asyncio.timeout(60):
                while speaker.send(b"nobody listens any more"):  # noqa: ASYNC110 - nobody is told
                    await asyncio.sleep(0.02)

    play(story)


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["kafka"])
def test_a_topic_is_used_as_it_is_and_none_is_created(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def story(bench: Any) -> None:
        owner = Owner(bench)
        owner.queue = bench.queue.work
        settings = owner.settings(queue__partitions=7, queue__message_ttl_ms=5)  # the topic has one, and keeps all
        before = await asyncio.to_thread(lambda: set(bench.admin._requests.client.list_topics(timeout=60).topics))
        async with running(consumer(bench, settings)) as consuming, running(producer(bench, settings)) as producing:
            async with asyncio.timeout(60):
                await asyncio.gather(producing.run(), consuming.run())
            assert consuming.report().processed == 20
        after = await asyncio.to_thread(lambda: set(bench.admin._requests.client.list_topics(timeout=60).topics))
        assert after - {"__consumer_offsets"} == before - {"__consumer_offsets"}
        assert "no reports are heard or sent" in caplog.text
        assert "goes back to the queue" in caplog.text

    play(story)
