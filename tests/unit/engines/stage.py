"""The surroundings of engine tests: a broker in memory that records what reaches it, and links with delays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from virtual_time import VirtualClock

from backpressure.config import replaced
from backpressure.core.journal import ConsumerRecord, ProducerRecord
from backpressure.core.message import Message, Metadata
from backpressure.core.message import message_id as id_of
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.producer import ProducerEngine
from backpressure.settings import Settings
from backpressure.transports.base import Publisher, PublisherListener, Subscriber, SubscriberListener
from backpressure.transports.memory import MemoryBroker, MemoryTransport

__all__ = [
    "DEAD",
    "WORK",
    "Arrival",
    "LateTransport",
    "RecordingBroker",
    "Records",
    "consuming",
    "foreign",
    "ours",
    "producing",
    "put",
    "settings_of",
    "until",
]

WORK = "work.queue"
DEAD = "work.queue.dlq"


def settings_of(**changes: Any) -> Settings:
    """Return settings for a broker in memory; ``producer__rate=10`` stands for ``producer.rate = 10``."""
    dotted = {key.replace("__", ".", 1): value for key, value in changes.items()}
    return replaced(Settings(), {"broker.url": "memory://test", "process.seed": 1, **dotted})


@dataclass(frozen=True)
class Arrival:
    """One message as it reached the broker."""

    at: float
    message: Message
    accepted: bool

    @property
    def sequence(self) -> int:
        return int(self.message.headers["sequence"])  # type: ignore[arg-type]  # ours carry an integer

    @property
    def id(self) -> str | None:
        return self.message.message_id


class RecordingBroker(MemoryBroker):
    """A `MemoryBroker` that remembers every message published to an exchange by name, taken or not."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals: list[Arrival] = []

    def publish(self, message: Message, exchange: str, routing_key: str) -> tuple[bool, bool]:
        routed, accepted = super().publish(message, exchange, routing_key)
        if exchange:
            self.arrivals.append(Arrival(asyncio.get_running_loop().time(), message, accepted))
        return routed, accepted

    def texts(self, queue: str) -> list[str]:
        """Return the bodies of what is ready in ``queue``, oldest first."""
        return [entry.message.body.decode() for entry in self.queues[queue].ready]

    def taken(self) -> list[str | None]:
        """Return the ids of all messages the broker accepted, in order."""
        return [arrival.id for arrival in self.arrivals if arrival.accepted]


class Records(list[ProducerRecord | ConsumerRecord]):
    """A journal in memory."""

    def write(self, record: ProducerRecord | ConsumerRecord) -> None:
        self.append(record)


class LateTransport(MemoryTransport):
    """A transport whose answers take ``late_s`` seconds: what a network does to confirms and deliveries."""

    def __init__(self, settings: Settings, broker: MemoryBroker, late_s: float) -> None:
        super().__init__(settings, broker)
        self.late_s = late_s

    def publisher(self) -> Any:
        return _LatePublisher(super().publisher(), self)

    def subscriber(self) -> Any:
        return _LateSubscriber(super().subscriber(), self)


class _Late:
    """Passes calls on, those of a listener ``late_s`` later; what is on its way when the link is lost is lost too."""

    def __init__(self, listener: Any, transport: LateTransport) -> None:
        self._listener = listener
        self._transport = transport
        self._link = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self._later(name, args, kwargs)

    def on_lost(self, error: Exception) -> None:
        self._link += 1
        self._listener.on_lost(error)

    def on_ready(self) -> None:
        self._listener.on_ready()

    def _later(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        link = self._link

        def arrive() -> None:
            if link == self._link:
                getattr(self._listener, name)(*args, **kwargs)

        asyncio.get_running_loop().call_later(self._transport.late_s, arrive)


class _LatePublisher:
    def __init__(self, inner: Publisher, transport: LateTransport) -> None:
        self._inner = inner
        self._transport = transport

    async def start(self, listener: PublisherListener) -> None:
        await self._inner.start(_Late(listener, self._transport))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _LateSubscriber:
    def __init__(self, inner: Subscriber, transport: LateTransport) -> None:
        self._inner = inner
        self._transport = transport

    async def start(self, listener: SubscriberListener, *, queue: str, prefetch: int) -> None:
        await self._inner.start(_Late(listener, self._transport), queue=queue, prefetch=prefetch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@asynccontextmanager
async def producing(
    settings: Settings, broker: MemoryBroker, *, transport: Any = None, **options: Any
) -> AsyncIterator[tuple[ProducerEngine, asyncio.Task[None]]]:
    """Start a producer and run it; what is still running at the end is stopped cleanly."""
    engine = ProducerEngine(transport or MemoryTransport(settings, broker), settings, VirtualClock(), **options)
    async with _running(engine) as task:
        yield engine, task


@asynccontextmanager
async def consuming(
    settings: Settings, broker: MemoryBroker, *, transport: Any = None, **options: Any
) -> AsyncIterator[tuple[ConsumerEngine, asyncio.Task[None]]]:
    """Start a consumer and run it; what is still running at the end is stopped cleanly."""
    engine = ConsumerEngine(transport or MemoryTransport(settings, broker), settings, VirtualClock(), **options)
    async with _running(engine) as task:
        yield engine, task


@asynccontextmanager
async def _running(engine: ProducerEngine | ConsumerEngine) -> AsyncIterator[asyncio.Task[None]]:
    await engine.start()
    task = asyncio.create_task(engine.run())
    try:
        yield task
        engine.stop()
        await task
    finally:
        await engine.close()


async def put(broker: MemoryBroker, settings: Settings, *messages: Message) -> None:
    """Create the queues and put ``messages`` into the work queue, as if somebody had published them earlier."""
    admin = MemoryTransport(settings, broker).admin()
    await admin.declare(settings.queue)
    for message in messages:
        broker.publish(message, settings.queue.exchange, settings.queue.routing_key)


def ours(sequence: int, *, session: int = 7, body: str | None = None, **known: Any) -> Message:
    """Return a message as a producer of ours sends it."""
    metadata = Metadata(session=session, sequence=sequence, producer_id="alice", **known)
    body = body if body is not None else f"{session}/{sequence}"
    return Message(body.encode(), message_id=id_of(session, sequence), headers=metadata.headers())


def foreign(body: str) -> Message:
    """Return a message without any metadata of ours."""
    return Message(body.encode())


async def until(condition: Callable[[], object], within_s: float = 600.0) -> None:
    """Let virtual time pass until ``condition`` holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition():
        assert loop.time() < deadline, "it never came true"
        await asyncio.sleep(0.001)
