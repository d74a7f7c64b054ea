"""Publishing with delivery reports as confirms.

librdkafka survives an outage: messages in flight stay in flight and are written exactly once when the broker is back.
So an outage is not a loss but a *blockage* (`PublisherListener.on_blocked`). Only after a fatal error, for instance
when the broker has lost what it had acknowledged, are all messages in flight lost, and a new producer is created.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from backpressure.core.message import Message
from backpressure.errors import NotConnectedError
from backpressure.settings import BrokerSettings, QueueSettings
from backpressure.transports.base import PublisherListener
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.client import KafkaLink, client_configuration
from backpressure.transports.kafka.failures import MISSING, reason_of, refusal_of
from backpressure.transports.kafka.fenced import FencedBrokers
from backpressure.transports.kafka.records import content_of, topic_name

Report = tuple[int, KafkaError | None]
"""The tag of a message, and why it was not written if it was not."""
_POLL_S = 0.1
_PARTITIONS_KNOWN_FOR_S = 5.0  # partitions may be added later
_LOOK_S = 0.5
_ANY_PARTITION = -1  # librdkafka chooses
_OPTIONS = {
    "enable.idempotence": True,  # implies acks=all, and order within a partition
    "linger.ms": 1,  # messages sent together travel in one batch; a longer time would only add latency
    "message.timeout.ms": 0,  # never give up: a message reported as failed might have been written
    "sticky.partitioning.linger.ms": 0,  # with unknown partitions, choose one for each message, not each batch
    "queue.buffering.max.messages": 1_000_000,  # the largest possible confirm window
}
_FLUSH_S = 1.0  # who stops has waited for confirms before
_NO_ROUTE = "NO_ROUTE (312)"  # the same text as with AMQP


class Spread:
    """Whose turn it is, topic by topic."""

    def __init__(self) -> None:
        self._partitions: dict[str, list[int]] = {}
        self._turns: dict[str, Iterator[int]] = {}

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics in use; call `learn` for each now and then."""
        return tuple(self._turns)

    def learn(self, topic: str, partitions: Iterable[int]) -> None:
        """Set the partitions of ``topic``; none when it is missing."""
        numbers = sorted(partitions)
        if self._partitions.get(topic) != numbers:
            self._partitions[topic] = numbers
            self._turns.pop(topic, None)

    def next(self, topic: str) -> int | None:
        """Return the partition for the next message of ``topic``, or None while its partitions are unknown."""
        if topic not in self._turns:
            self._turns[topic] = cycle(self._partitions.get(topic, ()))
        return next(self._turns[topic], None)


class ProducerThread:
    """Sends until closed; all callbacks run on the event loop."""

    def __init__(
        self,
        broker: BrokerSettings,
        outage: Outage,
        name: str,
        *,
        on_reports: Callable[[Sequence[Report]], None],
        on_blocked: Callable[[str], None],
        on_unblocked: Callable[[], None],
        on_fatal: Callable[[KafkaError], None],
    ) -> None:
        """``on_reports`` gets delivery reports in batches; after ``on_fatal`` nothing can be sent any more."""
        self._link = KafkaLink(broker, outage, on_down=on_blocked, on_up=on_unblocked)
        self._on_reports = on_reports
        self._on_fatal = on_fatal
        self._reports: deque[Report] = deque()
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(client_configuration(broker, name) | _OPTIONS | {"error_cb": self._on_error})
        self._polling = threading.Thread(target=self._poll_until_closed, name=name, daemon=True)
        self._fenced = FencedBrokers(broker, self._link.on_silence)
        self._spread = Spread()
        self._look_at = time.monotonic() + _PARTITIONS_KNOWN_FOR_S
        self._closed = False

    async def start(self) -> None:
        """Connect; raises `TransportError`."""
        metadata = await self._link.dial(self._producer)
        for name, topic in metadata.topics.items():
            self._spread.learn(name, topic.partitions)
        self._fenced.learn(metadata)
        self._polling.start()

    def send(self, tag: int, topic: str, content: Mapping[str, Any]) -> None:
        """Send one message, given as keyword arguments of `Producer.produce`.

        Raises `BufferError` when there is no room, `KafkaException` after a fatal error.
        """
        number = self._spread.next(topic)
        partition = _ANY_PARTITION if number is None else number
        report = partial(self._on_delivery, tag)
        self._producer.produce(topic, partition=partition, on_delivery=report, **content)

    def close(self, timeout_s: float) -> None:
        """Wait that long for messages in flight, then end; blocks."""
        self._producer.flush(timeout_s)
        self._closed = True
        self._polling.join()

    def _poll_until_closed(self) -> None:
        while not self._closed:
            self._producer.poll(_POLL_S)
            self._fenced.watch(answered=self._hand_over(), waiting=len(self._producer) > 0)
            if self._link.down:
                self._link.look_again(self._producer)
            elif time.monotonic() >= self._look_at:
                self._look_at_partitions()
        self._producer.poll(0)
        self._hand_over()

    def _look_at_partitions(self) -> None:
        for topic in self._spread.topics:
            with suppress(KafkaException):  # then the next time
                found = self._producer.list_topics(topic, timeout=_LOOK_S).topics[topic]
                if not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._spread.learn, topic, found.partitions)
        self._look_at = time.monotonic() + _PARTITIONS_KNOWN_FOR_S

    def _hand_over(self) -> bool:
        """Hand over the reports; return whether there were any."""
        batch = [self._reports.popleft() for _ in range(len(self._reports))]
        if batch and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_reports, batch)
        return bool(batch)

    def _on_delivery(self, tag: int, error: KafkaError | None, _record: Record) -> None:
        self._reports.append((tag, error))

    def _on_error(self, error: KafkaError) -> None:
        self._link.on_error(error)
        if error.fatal():
            self._loop.call_soon_threadsafe(self._on_fatal, error)


class Routes:
    """The bindings of one experiment."""

    def __init__(self, queue: QueueSettings) -> None:
        self._bound = (queue.exchange, queue.key)
        self._topics = tuple(
            topic_name(name) for name in ([queue.work, queue.audit] if queue.auditing else [queue.work])
        )

    def topics(self, exchange: str, routing_key: str) -> tuple[str, ...]:
        """Return the topics: the default exchange reaches the queue named by the key, any other those bound to it."""
        if not exchange:
            return (topic_name(routing_key),)
        return self._topics if (exchange, routing_key) == self._bound else ()


@dataclass(slots=True)
class _Open:
    """An unsettled message: how many topics it still has to reach, and its size."""

    topics: int
    size_bytes: int
    message_id: str | None


class KafkaPublisher:
    """A `Publisher`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, routes: Routes) -> None:
        self._broker = broker
        self._outage = outage
        self._name = name
        self._routes = routes
        self._listener: PublisherListener
        self._sender: ProducerThread | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._epoch = 0
        self._last_tag = 0
        self._open: dict[int, _Open] = {}
        self._open_bytes = 0

    @property
    def ready(self) -> bool:
        """Whether `publish` may be called now."""
        return self._sender is not None

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes accepted by `publish` and not confirmed; librdkafka does not report what the socket has taken."""
        return self._open_bytes

    async def start(self, listener: PublisherListener) -> None:
        """See `Publisher.start`."""
        self._listener = listener
        await self._connect()

    def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
        """See `Publisher.publish`; a message that librdkafka has no room for, or does not take, is nacked."""
        if self._sender is None:
            raise NotConnectedError(f"not connected to the broker at {self._broker.address()}")
        topics = self._routes.topics(exchange, routing_key)
        content = content_of(message)
        self._last_tag += 1
        self._open[self._last_tag] = _Open(len(topics), len(message.body), message.message_id)
        self._open_bytes += len(message.body)
        if not topics:
            self._report_soon(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        for topic in topics:
            try:
                self._sender.send(self._last_tag, topic, content)
            except BufferError:
                self._report_soon(KafkaError(KafkaError._QUEUE_FULL))  # noqa: SLF001 -- librdkafka's own codes begin so
            except KafkaException as error:
                self._report_soon(error.args[0])
        return self._last_tag

    async def stop(self) -> None:
        """See `Publisher.stop`."""
        if self._renewal is not None:
            self._renewal.cancel()
        sender, self._sender = self._sender, None
        if sender is not None:
            await asyncio.to_thread(sender.close, _FLUSH_S)
            self._forget()

    async def _connect(self) -> None:
        self._epoch += 1
        sender = ProducerThread(
            self._broker,
            self._outage,
            self._name,
            on_reports=partial(self._on_reports, self._epoch),
            on_blocked=self._listener.on_blocked,
            on_unblocked=self._listener.on_unblocked,
            on_fatal=partial(self._on_fatal, self._epoch),
        )
        await sender.start()
        self._sender = sender
        self._listener.on_ready()

    def _report_soon(self, error: KafkaError) -> None:
        """Settle the last message as librdkafka would have done."""
        asyncio.get_running_loop().call_soon(self._on_reports, self._epoch, [(self._last_tag, error)])

    def _on_reports(self, epoch: int, reports: Sequence[Report]) -> None:
        if epoch != self._epoch:
            return
        alone = len({tag for tag, error in reports if error is not None}) == 1
        for tag, error in reports:
            message = self._open.get(tag)
            if message is None:
                continue  # another topic of the same message failed before
            message.topics -= 1
            if error is None and message.topics > 0:
                continue
            del self._open[tag]
            self._open_bytes -= message.size_bytes
            if error is None or error.code() in MISSING:
                if error is not None:
                    self._listener.on_returned(message.message_id, _NO_ROUTE)
                self._listener.on_confirmed(tag, multiple=False)
            else:
                self._listener.on_nacked(tag, multiple=False, refusal=refusal_of(error, alone=alone))

    def _on_fatal(self, epoch: int, error: KafkaError) -> None:
        sender = self._sender
        if epoch != self._epoch or sender is None:
            return
        self._sender = None
        self._forget()
        loss = NotConnectedError(f"the producer at {self._broker.address()} cannot go on ({reason_of(error)})")
        self._outage.begin(loss)
        self._listener.on_lost(loss)
        self._renewal = asyncio.create_task(self._renew(sender), name=f"renew {self._name}")

    async def _renew(self, sender: ProducerThread) -> None:
        await asyncio.to_thread(sender.close, 0.0)
        await self._connect()

    def _forget(self) -> None:
        """Forget the unsettled messages: none of them will be settled."""
        self._epoch += 1
        self._last_tag = 0
        self._open.clear()
        self._open_bytes = 0
