"""Reading the lag, ten times a second and more.

Depth is the lag: the messages between the group's commits and the ends of the partitions, minus those that were settled
out of order. Our commits tell delivered messages from waiting ones (see ``settled``). Consumers of others commit every
few seconds, so their lag grows and falls in steps: readings then have the offsets themselves, for whoever can tell when
a commit was made. Where such a group has committed nothing yet, its place is taken to be the end at the first reading:
most clients begin there, and one that begins earlier commits within seconds.

The ends are those of the moment, but commits report settled messages a while later: at 300 messages a second an empty
queue would seem to hold ten, and a law that keeps it short would keep it empty. So that many messages, at the rate of
the last commits, are subtracted again.

`LagReader` asks through a consumer that joins no group: it knows the leader of each partition and the coordinator of
the group, so an answer takes two requests. The functions of the admin client take three times as many, and ten answers
a second are much for a broker that serves a few hundred messages a second.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from backpressure.core.evidence import OffsetReading
from backpressure.errors import QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import NamesItsBroker, QueueReading
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.client import KafkaRequests, client_configuration
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.fenced import FencedBrokers
from backpressure.transports.kafka.group import POLL_S
from backpressure.transports.kafka.records import group_id, topic_name
from backpressure.transports.kafka.settled import Mark
from backpressure.transports.kafka.subscriber import COMMIT_AFTER_S

_PARTITIONS_KNOWN_FOR_S = 5.0
_BEGINNINGS_KNOWN_FOR_S = 1.0  # only a purge or retention changes them
_CONSUMERS_KNOWN_FOR_S = 0.5
_COUNT_STAYS_TRUE_S = 5.0
_MEMBERS_WITHIN_S = 1.0
_PATIENCE_S = 0.2
_ANSWER_WITHIN_S = 2.0  # each of a reading's requests; a later answer would tell of another time
_RATE_WINDOW_S = 0.5
_TOLD_AFTER_S = (COMMIT_AFTER_S + POLL_S) / 2
"""The mean time from settling a message to its commit."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition: the offset where unsettled messages begin, that of the next message, and the last commit's mark.

    ``mark`` is None when nothing was committed (not ``placed``), or when the consumer is not ours (``foreign``).
    """

    partition: int
    start: int
    end: int
    mark: Mark | None
    foreign: bool = False
    placed: bool = True

    @property
    def lag(self) -> int:
        """Unsettled messages, delivered or not."""
        return self.end - self.start - (self.mark.settled_from(self.start) if self.mark else 0)

    @property
    def settled(self) -> int:
        """Settled messages; it only grows, until the partition is created again."""
        return self.end - self.lag

    @property
    def unacked(self) -> int:
        """Delivered messages that are unsettled."""
        if self.mark is None or not self.mark.held:
            return 0
        delivered = min(self.mark.delivered, self.end) - self.start
        return max(0, delivered - self.mark.settled_from(self.start))


# Where warnings are errors, the extension would fail at its own one; `_count_members` says why the older call is used.
warnings.filterwarnings("ignore", r"list_groups\(\) is deprecated", DeprecationWarning)


class LagReader:
    """Reads the lag of one queue; connects at the first `read`.

    Attributes:
        round_trip_s: how long a broker took to answer one of the two questions of the last reading; None: none yet.
    """

    def __init__(self, broker: BrokerSettings, name: str, queue: str, group: str = "") -> None:
        """Read the lag of ``group``; "": of the one that stands for the consumers of ``queue``."""
        self.round_trip_s: float | None = None
        self._queue = queue
        self._topic = topic_name(queue)
        self._address = broker.address()
        self._timeout_s = min(broker.connect_timeout_s, _ANSWER_WITHIN_S)
        self._consumer = Consumer(client_configuration(broker, name) | {"group.id": group or group_id(queue)})
        self._fenced = FencedBrokers(broker)
        self._told: list[tuple[int, int]] = []
        self._moved = False
        self._asking: asyncio.Future[list[PartitionLag]] | None = None
        self._partitions: tuple[float, list[int]] = (0.0, [])
        self._beginnings: tuple[float, dict[int, int]] = (0.0, {})

    async def read(self) -> list[PartitionLag]:
        """Return the lag now; raises `QueueNotFoundError`, or `TransportError` when the broker does not answer.

        Calls during a request share its answer, so a broker that is away blocks one thread at most.
        """
        self._fenced.watch(answered=self._moved, waiting=True)
        self._moved = False
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
        try:
            return self._lags()
        finally:
            while self._consumer.poll(0) is not None:
                pass  # librdkafka keeps every failed attempt to connect until somebody listens

    def _lags(self) -> list[PartitionLag]:
        now = time.monotonic()
        if now - self._partitions[0] > _PARTITIONS_KNOWN_FOR_S:
            self._partitions = now, self._numbers()
        _, numbers = self._partitions
        try:
            if now - self._beginnings[0] > _BEGINNINGS_KNOWN_FOR_S:
                self._beginnings = now, self._offsets(numbers, OFFSET_BEGINNING)
            asked_at = time.monotonic()
            ends = self._offsets(numbers, OFFSET_END)
            ended_at = time.monotonic()
            places = [TopicPartition(self._topic, number) for number in numbers]
            committed = self._consumer.committed(places, timeout=self._timeout_s)
            self.round_trip_s = min(ended_at - asked_at, time.monotonic() - ended_at)
        except KafkaException:
            self._partitions, self._beginnings = (0.0, []), (0.0, {})
            raise
        told = [(ends[place.partition], place.offset) for place in committed]
        self._moved |= told != self._told  # a broker that was cut off tells the same again and again
        self._told = told
        _, beginnings = self._beginnings
        return [_lag(place, beginnings[place.partition], ends[place.partition]) for place in committed]

    def _numbers(self) -> list[int]:
        metadata = self._consumer.list_topics(self._topic, timeout=self._timeout_s)
        self._fenced.learn(metadata)
        topic = metadata.topics[self._topic]
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
    """Retrieve the exception, so that asyncio does not log it as never retrieved."""
    if not answer.cancelled():
        answer.exception()


def _lag(committed: TopicPartition, beginning: int, end: int) -> PartitionLag:
    mark = Mark.parse(committed.metadata)
    start = min(max(committed.offset, beginning), end)
    placed = committed.offset >= 0
    return PartitionLag(committed.partition, start, end, mark, foreign=placed and mark is None, placed=placed)


class Progress:
    """The rate at which a total grows, over the last half second."""

    def __init__(self) -> None:
        self._history: deque[tuple[float, int]] = deque()

    def rate_per_s(self, total: int, now: float) -> float:
        """Record ``total`` and return its rate; 0 after it fell, as it does when a topic is created again."""
        if self._history and total < self._history[-1][1]:
            self._history.clear()
        self._history.append((now, total))
        while len(self._history) > 2 and now - self._history[1][0] >= _RATE_WINDOW_S:
            self._history.popleft()
        start, first = self._history[0]
        return (total - first) / (now - start) if now > start else 0.0


class KafkaProbe:
    """A `QueueProbe`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, group: str = "") -> None:
        """Read what ``group`` has left of every queue; "": the group that stands for the queue's consumers."""
        self._broker = broker
        self._name = name
        self._group = group
        self._first_ends: dict[tuple[str, int], int] = {}
        self._requests = KafkaRequests(broker, outage, name)
        self._readers: dict[str, LagReader] = {}
        self._progress: dict[str, Progress] = defaultdict(Progress)
        self._consumers: dict[str, tuple[float, int | None]] = {}
        self._asking: dict[str, asyncio.Future[tuple[bool, int | None]]] = {}

    async def start(self) -> None:
        """See `QueueProbe.start`."""
        await self._requests.start()

    async def read(self, queue: str, *, exactly: bool = False) -> QueueReading:  # noqa: ARG002 - it always is exact
        """See `QueueProbe.read`."""
        if queue not in self._readers:
            self._readers[queue] = LagReader(self._broker, self._name, queue, self._group)
        asked_at = time.monotonic()
        lags = await self._readers[queue].read()
        read_at = (asked_at + time.monotonic()) / 2
        if self._group or any(each.foreign for each in lags):
            return await self._reading_of_others(queue, lags, read_at)
        consumers = await self._consumers_of(queue, lags)
        unacked = sum(each.unacked for each in lags) if consumers != 0 else 0  # a killed one cannot commit that
        ready = sum(each.lag for each in lags) - unacked
        rate = self._progress[queue].rate_per_s(sum(each.settled for each in lags), time.monotonic())
        return QueueReading(
            ready=max(0, ready - round(rate * _TOLD_AFTER_S)),
            unacked=unacked,
            consumers=consumers,
            lag_by_partition=tuple(each.lag for each in lags),
            entered=sum(each.end for each in lags),
            left=sum(each.settled for each in lags),
            round_trip_s=self._readers[queue].round_trip_s,
        )

    async def _reading_of_others(self, queue: str, lags: list[PartitionLag], read_at: float) -> QueueReading:
        """Return the reading for consumers that are not ours."""
        consumers = await self._consumers_of(queue, lags)
        if consumers != 0:
            lags = [each if each.placed else self._begun_at_first_end(queue, each) for each in lags]
        ends, committed = (tuple(of) for of in zip(*((each.end, each.settled) for each in lags), strict=True))
        return QueueReading(
            ready=sum(each.lag for each in lags),
            unacked=None,
            consumers=consumers,
            lag_by_partition=tuple(each.lag for each in lags),
            entered=sum(ends),
            left=sum(committed),
            offsets=OffsetReading(ends=ends, committed=committed, arrived_s=read_at),
            round_trip_s=self._readers[queue].round_trip_s,
        )

    def _begun_at_first_end(self, queue: str, lag: PartitionLag) -> PartitionLag:
        first = self._first_ends.setdefault((queue, lag.partition), lag.end)
        return replace(lag, start=max(lag.start, min(first, lag.end)))

    async def owns(self, management: NamesItsBroker) -> bool:  # noqa: ARG002 - it has none
        """See `QueueProbe.owns`."""
        return True

    async def stop(self) -> None:
        """Close."""
        readers, self._readers = self._readers, {}
        await asyncio.gather(*self._asking.values(), *(asyncio.to_thread(reader.close) for reader in readers.values()))
        await self._requests.stop()

    async def _consumers_of(self, queue: str, lags: Sequence[PartitionLag]) -> int | None:
        """Ask twice a second, and when the commits show that consumers came or went."""
        read_at, consumers = self._consumers.get(queue, (0.0, None))
        ours = any(each.mark is not None for each in lags)
        held = any(each.mark is not None and each.mark.held for each in lags)
        unexpected = ours and consumers is not None and held is not (consumers > 0)
        if unexpected or time.monotonic() - read_at > _CONSUMERS_KNOWN_FOR_S:
            asking = self._asking.get(queue)
            if asking is None:
                group = self._group or group_id(queue)
                asking = self._asking[queue] = asyncio.ensure_future(asyncio.to_thread(self._count_members, group))
            await asyncio.wait({asking}, timeout=_PATIENCE_S if queue in self._consumers else _MEMBERS_WITHIN_S)
            if asking.done():
                del self._asking[queue]
                told, consumers_now = asking.result()
                if told or time.monotonic() - read_at > _COUNT_STAYS_TRUE_S:
                    consumers = consumers_now
                    self._consumers[queue] = (time.monotonic(), consumers)
        return consumers

    def _count_members(self, group: str) -> tuple[bool, int | None]:
        """Return whether all brokers answered, and how many consumers there are (None: they do not tell). Blocks.

        confluent-kafka's ``describe_consumer_groups`` would ask one broker only, but librdkafka 2.16 ends the process
        when the group's coordinator goes away at the wrong moment (its pull request 5397). The older call asks every
        broker, and says nothing while one of them is away.
        """
        try:
            self._requests.client.poll(0)  # as in `LagReader`
            found = self._requests.client.list_groups(group, timeout=_MEMBERS_WITHIN_S)
        except (KafkaException, TransportError):
            return False, None
        described: Any = next((each for each in found if str(each) == group), None)
        if described is None:
            return True, 0
        return True, None if described.error is not None else len(described.members)
