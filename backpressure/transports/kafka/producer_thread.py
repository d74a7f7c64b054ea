"""One idempotent librdkafka producer and the thread that polls it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import cycle
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.client import KafkaLink, client_configuration
from backpressure.transports.kafka.fenced import FencedBrokers

__all__ = ["ProducerThread", "Report", "Spread"]

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
        self._fenced = FencedBrokers(broker)
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
