"""How far the consumers of a queue are behind, partition by partition.

Asked by a consumer that joins nothing: it knows where every partition is led and its group is coordinated, so that an
answer takes two requests. (The admin client's own functions take three times as many; to a broker that serves a few
hundred messages a second, ten answers a second are no trifle.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from backpressure.core.kafka_names import group_id, topic_name
from backpressure.errors import QueueNotFoundError
from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.client import client_configuration
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.settled import Mark

__all__ = ["LagReader", "PartitionLag"]

_PARTITIONS_KNOWN_FOR_S = 5.0
_BEGINNINGS_KNOWN_FOR_S = 1.0  # only a purge or retention moves them


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition: where unsettled messages begin, where the next message goes, what the last commit says.

    ``mark`` is None where nothing was ever committed, or by a consumer that is not ours (``foreign``).
    """

    partition: int
    start: int
    end: int
    mark: Mark | None
    foreign: bool = False

    @property
    def lag(self) -> int:
        """Messages that are not settled, delivered or not."""
        return self.end - self.start - (self.mark.settled_from(self.start) if self.mark else 0)

    @property
    def settled(self) -> int:
        """Messages that are done with: it only grows, until the partition begins anew."""
        return self.end - self.lag

    @property
    def unacked(self) -> int:
        """Those of them that a consumer holds."""
        if self.mark is None or not self.mark.held:
            return 0
        delivered = min(self.mark.delivered, self.end) - self.start
        return max(0, delivered - self.mark.settled_from(self.start))


class LagReader:
    """Answers for one queue; connects when it is first asked."""

    def __init__(self, broker: BrokerSettings, name: str, queue: str) -> None:
        self._queue = queue
        self._topic = topic_name(queue)
        self._address = broker.address()
        self._timeout_s = broker.connect_timeout_s
        self._consumer = Consumer(client_configuration(broker, name) | {"group.id": group_id(queue)})
        self._asking: asyncio.Future[list[PartitionLag]] | None = None
        self._partitions: tuple[float, list[int]] = (0.0, [])
        self._beginnings: tuple[float, dict[int, int]] = (0.0, {})

    async def read(self) -> list[PartitionLag]:
        """Return the lag now; raises `QueueNotFoundError`, or `TransportError` when the broker does not answer.

        Who asks while a question is open shares its answer: a broker that is away holds up one thread, not many.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._ask))
            self._asking.add_done_callback(_take_note)
        try:
            return await asyncio.shield(self._asking)
        except KafkaException as error:
            raise kafka_error(error.args[0], self._address, self._queue) from error

    def close(self) -> None:
        """Disconnect; blocks."""
        self._consumer.close()

    def _ask(self) -> list[PartitionLag]:
        now = time.monotonic()
        if now - self._partitions[0] > _PARTITIONS_KNOWN_FOR_S:
            self._partitions = now, self._numbers()
        _, numbers = self._partitions
        try:
            if now - self._beginnings[0] > _BEGINNINGS_KNOWN_FOR_S:
                self._beginnings = now, self._offsets(numbers, OFFSET_BEGINNING)
            ends = self._offsets(numbers, OFFSET_END)
            places = [TopicPartition(self._topic, number) for number in numbers]
            committed = self._consumer.committed(places, timeout=self._timeout_s)
        except KafkaException:
            self._partitions, self._beginnings = (0.0, []), (0.0, {})
            raise
        _, beginnings = self._beginnings
        return [_lag(place, beginnings[place.partition], ends[place.partition]) for place in committed]

    def _numbers(self) -> list[int]:
        topic = self._consumer.list_topics(self._topic, timeout=self._timeout_s).topics[self._topic]
        if topic.error is not None:
            raise QueueNotFoundError(self._queue)
        return sorted(topic.partitions)

    def _offsets(self, numbers: Iterable[int], meaning: int) -> dict[int, int]:
        places = [TopicPartition(self._topic, number, meaning) for number in numbers]
        answers = self._consumer.offsets_for_times(places, timeout=self._timeout_s)
        for answer in answers:
            if answer.error is not None:
                raise KafkaException(answer.error)
        return {answer.partition: answer.offset for answer in answers}


def _take_note(answer: asyncio.Future[list[PartitionLag]]) -> None:
    """Look at a failure that nobody waited for, lest asyncio complain of it."""
    if not answer.cancelled():
        answer.exception()


def _lag(committed: TopicPartition, beginning: int, end: int) -> PartitionLag:
    mark = Mark.parse(committed.metadata)
    start = min(max(committed.offset, beginning), end)
    return PartitionLag(committed.partition, start, end, mark, foreign=committed.offset >= 0 and mark is None)
