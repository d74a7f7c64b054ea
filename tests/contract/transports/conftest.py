"""The bench of every transport: the same tests run on each, with products that clean up after themselves."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from backpressure.core.message import Delivery, Message
from backpressure.settings import Settings
from backpressure.transports.base import FULL, Publisher, QueueAdmin, Refusal, Subscriber, Transport
from backpressure.transports.factory import connect
from backpressure.transports.kafka_node import PrivateKafka
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.rabbitmq_node import PrivateNode

_PATIENCE_S = 60.0


class PublisherLog:
    """Writes down what a publisher says."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.confirmed: set[int] = set()
        self.nacked: set[int] = set()
        self.refusals: set[Refusal] = set()
        self.published = 0

    def on_ready(self) -> None:
        self.events.append(("ready",))
        self.confirmed, self.nacked, self.published = set(), set(), 0

    def on_confirmed(self, tag: int, multiple: bool) -> None:
        self.events.append(("confirmed", tag))
        self.confirmed |= self._open(tag, multiple)

    def on_nacked(self, tag: int, multiple: bool, refusal: Refusal = FULL) -> None:
        self.events.append(("nacked", tag))
        self.refusals.add(refusal)
        self.nacked |= self._open(tag, multiple)

    def on_returned(self, message_id: str | None, reason: str) -> None:
        self.events.append(("returned", message_id, reason))

    def on_blocked(self, reason: str) -> None:
        self.events.append(("blocked", reason))

    def on_unblocked(self) -> None:
        self.events.append(("unblocked",))

    def on_lost(self, error: Exception) -> None:
        self.events.append(("lost", error))

    def count(self, kind: str) -> int:
        return sum(event[0] == kind for event in self.events)

    @property
    def settled(self) -> set[int]:
        return self.confirmed | self.nacked

    def _open(self, tag: int, multiple: bool) -> set[int]:
        return ({*range(1, tag + 1)} if multiple else {tag}) - self.settled


class SubscriberLog:
    """Writes down what a subscriber says."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.ready = 0
        self.losses: list[Exception] = []

    def on_ready(self) -> None:
        self.ready += 1

    def on_delivery(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def on_lost(self, error: Exception) -> None:
        self.losses.append(error)

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.message.body for delivery in self.deliveries]


class Bench:
    """The products of one transport in one story."""

    def __init__(
        self, kind: str, broker: Any, settings: Settings, transport: Transport, stack: contextlib.AsyncExitStack
    ) -> None:
        self.kind = kind
        self.broker = broker
        self.settings = settings
        self.transport = transport
        self.queue = settings.queue
        self.admin: QueueAdmin
        self.cut: Callable[[], None]
        self.proxy: CutProxy
        self.stack = stack

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        """Wait for what must happen; how fast is not this suite's business."""
        async with asyncio.timeout(_PATIENCE_S):
            while not condition():  # noqa: ASYNC110 -- conditions of all kinds, tested as a user would see them
                await asyncio.sleep(0.005)

    async def started(self, product: Any, *arguments: Any, **options: Any) -> Any:
        """Start a product that stops with the story."""
        self.stack.push_async_callback(product.stop)
        await product.start(*arguments, **options)
        return product

    async def publisher(self) -> tuple[Publisher, PublisherLog]:
        log = PublisherLog()
        return await self.started(self.transport.publisher(), log), log

    async def subscriber(self, prefetch: int = 10, queue: str = "") -> tuple[Subscriber, SubscriberLog]:
        log = SubscriberLog()
        queue = queue or self.queue.work
        return await self.started(self.transport.subscriber(), log, queue=queue, prefetch=prefetch), log

    async def publish(self, *messages: bytes | Message) -> PublisherLog:
        """Publish and wait until each is confirmed or refused."""
        publisher, log = await self.publisher()
        for message in messages:
            self.send(publisher, message)
        await self.until(lambda: len(log.settled) == len(messages))
        return log

    def send(self, publisher: Publisher, message: bytes | Message) -> int:
        message = message if isinstance(message, Message) else Message(message)
        return publisher.publish(message, exchange=self.queue.exchange, routing_key=self.queue.routing_key)

    async def contents(self, queue: str = "") -> list[bytes]:
        admin = await self.started(self.transport.admin())  # a new one: the story may have cut the other's line
        return [delivery.message.body async for delivery in admin.drain(queue or self.queue.work)]

    @asynccontextmanager
    async def alarm(self) -> AsyncIterator[None]:
        """The broker is short of memory."""
        if isinstance(self.transport, MemoryTransport):
            self.transport.broker.block()
            yield
            self.transport.broker.unblock()
        elif isinstance(self.broker, PrivateNode):
            await asyncio.to_thread(self.broker.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
            try:
                yield
            finally:
                await asyncio.to_thread(self.broker.ctl, "set_vm_memory_high_watermark", "0.4")
        else:
            filler, log = await self.publisher()
            for _ in range(17):
                filler.publish(Message(bytes(1_000_000)), exchange="", routing_key=self.queue.dead_letter)
            await self.until(lambda: log.count("blocked") == 1)
            yield
            await self.admin.purge(self.queue.dead_letter)

    async def definitions(self) -> list[str]:
        """Return everything that somebody has declared on the broker."""
        if isinstance(self.transport, MemoryTransport):
            broker = self.transport.broker
            queues = [f"{queue.name} {queue.arguments} {queue.bound}" for queue in broker.queues.values()]
            return sorted([*queues, *(f"{exchange} {bound}" for exchange, bound in broker.bindings.items())])
        async with ManagementClient(self.broker.management_url) as management:
            found = [
                *((queue.name, queue.durable, queue.arguments) for queue in await management.queues()),
                *(exchange.name for exchange in await management.exchanges()),
                *(
                    (binding.source, binding.destination, binding.routing_key)
                    for binding in await management.bindings()
                ),
                *((policy.name, policy.pattern, policy.definition) for policy in await management.policies()),
            ]
        return sorted(map(str, found))

    async def unchanged(self, before: list[str]) -> None:
        """Assert that the definitions are as they were; what was a connection's own may go a moment after it."""
        deadline = time.monotonic() + _PATIENCE_S
        while (now := await self.definitions()) != before and time.monotonic() < deadline:  # noqa: ASYNC110 -- it asks
            await asyncio.sleep(0.05)
        assert now == before

    async def delivered(self, log: SubscriberLog, count: int) -> None:
        """Wait until this many deliveries have come: a message that has left the queue may still be on its way."""
        await self.until(lambda: len(log.deliveries) >= count)

    async def quiet(self, probe: Any, ready: int, queue: str = "") -> None:
        """Wait until a queue, the work queue unless named, holds this many ready messages."""
        async with asyncio.timeout(_PATIENCE_S):
            while (await probe.read(queue or self.queue.work)).ready != ready:  # noqa: ASYNC110 -- nobody is told
                await asyncio.sleep(0.005)

    async def dead_letters(self, count: int) -> list[Delivery]:
        """Take this many dead letters: a broker passes them on some time after it has answered."""
        await self.quiet(await self.started(self.transport.probe()), ready=count, queue=self.queue.dead_letter)
        return [delivery async for delivery in self.admin.drain(self.queue.dead_letter)]


class CutProxy:
    """Stands between client and broker, and can cut the line, or be away altogether."""

    def __init__(self, url: str, port: int = 0) -> None:
        self._broker = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []
        self._lines: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._port = port
        self._left = False

    @property
    def url(self) -> str:
        login = "guest:guest@" if self._broker.username else ""
        return self._broker._replace(netloc=f"{login}127.0.0.1:{self._port}").geturl()

    async def listen(self) -> None:
        self._left = False
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def leave(self) -> None:
        """Stop listening and cut every line."""
        if self._server is not None:
            self._server.close()
        self._left = True
        for _ in range(5):  # turns of the event loop, until `serve` has heard of every connection that was accepted
            await asyncio.sleep(0)
        self.cut()
        await asyncio.gather(*self._lines)
        await asyncio.sleep(0)  # transports that were aborted close their sockets in the next turn

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._broker.hostname, self._broker.port)
        except OSError:
            writer.transport.abort()
            return
        if self._left:  # while it connected: nobody would cut this line any more
            writer.transport.abort()
            far_writer.transport.abort()
            return
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


Story = Callable[[Bench], Awaitable[None]]

_UNBOUNDED = "Kafka has no bounded queues: test_kafka shows what it says instead"
_NO_ALARM = "Kafka has no memory alarm: it writes to disk"
_RIDES_OUT = "the Kafka client rides out a cut line, nothing in flight is lost: see test_kafka"
_FORGETS = "Kafka forgets old messages, it does not dead-letter them"
_PARTITIONS = "consumers share partitions, not messages: see test_kafka"
DIFFERENCES = {
    "kafka": {
        "test_the_bound_of_a_live_queue_can_be_lowered_raised_and_removed": _UNBOUNDED,
        "test_the_last_declaration_decides_about_the_bound": _UNBOUNDED,
        "test_a_full_queue_that_rejects_nacks_the_surplus_and_keeps_the_oldest": _UNBOUNDED,
        "test_a_full_queue_that_drops_its_head_confirms_all_and_dead_letters_the_oldest": _UNBOUNDED,
        "test_reject_publish_dlx_nacks_the_surplus_and_dead_letters_it": _UNBOUNDED,
        "test_a_queue_can_be_bounded_by_its_bytes": _UNBOUNDED,
        "test_what_outlives_the_queues_ttl_is_dead_lettered": _FORGETS,
        "test_a_publisher_is_told_about_the_alarm_and_its_messages_wait_for_the_end": _NO_ALARM,
        "test_consuming_and_probing_go_on_during_an_alarm": _NO_ALARM,
        "test_reports_are_dropped_during_an_alarm_and_flow_again_after_it": _NO_ALARM,
        "test_stopping_does_not_wait_for_the_end_of_an_alarm": _NO_ALARM,
        "test_a_lost_connection_is_reported_once_and_comes_back_with_tags_from_one": _RIDES_OUT,
        "test_what_was_in_flight_at_a_loss_is_never_settled_afterwards": _RIDES_OUT,
        "test_a_delivery_of_a_lost_connection_settles_nothing_and_comes_again": _RIDES_OUT,
        "test_a_pause_outlives_a_lost_connection": _RIDES_OUT,
        "test_other_arguments_are_refused_by_name_and_change_nothing": "a topic has other arguments: see test_kafka",
        "test_two_consumers_share_a_queue_without_sharing_messages": _PARTITIONS,
    }
}


@asynccontextmanager
async def _bench(kind: str, broker: Any, queue: dict[str, Any]) -> AsyncIterator[Bench]:
    run = uuid.uuid4().hex[:8]
    names = {name: f"{run}.{name}" for name in ("exchange", "work", "dead_letter", "audit")}
    document: dict[str, Any] = {
        "queue": {"exchange": f"{run}.exchange"} | names | queue,
        "feedback": {"exchange": f"{run}.feedback"},
        "broker": {"reconnect_min_s": 0.05, "reconnect_max_s": 0.2, "connect_timeout_s": 5.0},
    }
    async with contextlib.AsyncExitStack() as stack:
        if kind == "memory":
            settings = Settings.model_validate(document | {"broker": {"url": f"memory://{run}"}})
            transport: Transport = connect(settings)
            assert isinstance(transport, MemoryTransport)
            bench = Bench(kind, broker, settings, transport, stack)
            bench.cut = transport.broker.disconnect
        else:
            proxy = CutProxy(broker.url, (isinstance(broker, PrivateKafka) and broker.advertised_port) or 0)
            await proxy.listen()
            stack.push_async_callback(proxy.leave)
            document["broker"] |= {"url": proxy.url, "management_url": broker.management_url}
            settings = Settings.model_validate(document)
            bench = Bench(kind, broker, settings, connect(settings), stack)
            bench.proxy = proxy
            bench.cut = proxy.cut
        stack.push_async_callback(_clear_away, settings)
        bench.admin = await bench.started(bench.transport.admin())
        await bench.admin.declare(settings.queue)
        yield bench


async def _clear_away(settings: Settings) -> None:
    admin = connect(settings).admin()
    await admin.start()
    for name in (settings.queue.work, settings.queue.dead_letter, settings.queue.audit):
        await admin.delete(name)
    for name in (settings.queue.exchange, settings.feedback.exchange):
        await admin.delete_exchange(name)
    await admin.stop()


@pytest.fixture(params=["memory", "embedded", "rabbitmq", "kafka"])
def kind(request: pytest.FixtureRequest) -> str:
    """The broker a story is played on."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _agreed(request: pytest.FixtureRequest) -> None:
    """Leave out the stories that a broker plays differently, with the reason; what has no kind is played once."""
    kind = request.getfixturevalue("kind") if "kind" in request.fixturenames else ""
    if reason := DIFFERENCES.get(kind, {}).get(request.node.originalname):
        pytest.skip(reason)


@pytest.fixture
def broker(kind: str, request: pytest.FixtureRequest) -> Any:
    """The running broker; None for the one in memory."""
    fixtures = {"memory": None, "embedded": "embedded_broker", "rabbitmq": "rabbitmq_node", "kafka": "kafka_node"}
    fixture = fixtures[kind]
    return None if fixture is None else request.getfixturevalue(fixture)


@pytest.fixture
def play(kind: str, broker: Any) -> Callable[..., None]:
    """``play(story, **queue settings)``: run one story with everything declared, and clean up."""

    def _play(story: Story, **queue: Any) -> None:
        async def evening() -> None:
            async with _bench(kind, broker, queue) as bench:
                await story(bench)

        asyncio.run(evening())

    return _play
