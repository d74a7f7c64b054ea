"""Creating, emptying and removing the topics that stand for the queues of an experiment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic

from backpressure.core.message import Delivery
from backpressure.errors import PreconditionFailedError, QueueNotFoundError, TransportError, UnsupportedError
from backpressure.settings import BrokerSettings, QueueSettings
from backpressure.transports.base import BrokerIdentity, FoundQueue
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.client import KafkaRequests, client_configuration
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.group import SESSION_TIMEOUT_S
from backpressure.transports.kafka.probe import LagReader, PartitionLag
from backpressure.transports.kafka.records import GROUPS, group_id, message_from, topic_name
from backpressure.transports.kafka.release import broker_release
from backpressure.transports.kafka.settled import PartitionProgress

_VISIBLE_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.05
_FOR_EVER = {"retention.ms": "-1"}  # retention would delete messages before they are processed
_log = logging.getLogger("backpressure")
_GONE_WITHIN_S = 10.0
_BATCH = 500
_POLL_S = 0.05
_CLAIM_WITHIN_S = 2 * SESSION_TIMEOUT_S  # a killed consumer stays in the group until its session ends
_CLAIM_EVERY_S = 0.25
_STILL_THERE = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
}


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic; replication is the cluster's default."""

    name: str
    partitions: int
    configuration: Mapping[str, str] = field(default_factory=dict)


def topics_of(queue: QueueSettings) -> list[Topic]:
    """Return the topics to create, the dead-letter topic first: no message must be dead-lettered before it exists."""
    retention = _FOR_EVER
    if queue.message_ttl_ms is not None:
        ttl_ms = str(queue.message_ttl_ms)
        retention = {"retention.ms": ttl_ms, "segment.ms": ttl_ms}  # only whole segments are deleted
    topics = [
        Topic(topic_name(queue.dead_letter), 1, _FOR_EVER),
        Topic(topic_name(queue.work), queue.partitions, retention),
    ]
    return [*topics, Topic(topic_name(queue.audit), queue.partitions, _FOR_EVER)] if queue.auditing else topics


async def create_topics(requests: KafkaRequests, topics: Iterable[Topic]) -> list[Topic]:
    """Create topics, wait until they can be used, and return those that existed before.

    Raises `TransportError` after removing those that it has created.
    """
    by_name = {topic.name: topic for topic in topics}
    if not by_name:
        return []
    asked = requests.client.create_topics(
        [NewTopic(topic.name, topic.partitions, config=dict(topic.configuration)) for topic in by_name.values()],
        request_timeout=requests.timeout_s,
    )
    created, existing, failures = [], [], []
    for name, future in asked.items():
        try:
            await asyncio.wrap_future(future)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                existing.append(by_name[name])
            else:
                failures.append(kafka_error(error.args[0], requests.address, name))
        else:
            created.append(name)
    if failures:
        if created:
            await asyncio.gather(*map(asyncio.wrap_future, requests.client.delete_topics(created).values()))
        raise failures[0]
    for name in created:
        await _wait_until_visible(requests, name)
    return existing


async def _wait_until_visible(requests: KafkaRequests, name: str) -> None:
    """Wait: the controller knows the topic, the brokers learn of it a moment later."""
    try:
        async with asyncio.timeout(_VISIBLE_WITHIN_S):
            while True:
                try:
                    await requests.partitions(name)
                except QueueNotFoundError:
                    await asyncio.sleep(_LOOK_EVERY_S)
                else:
                    return
    except TimeoutError:
        raise TransportError(f"topic {name!r} was created but does not appear at {requests.address}") from None


class KafkaAdmin:
    """A `QueueAdmin`. A queue's exchange, routing key, type, durability and bounds mean nothing here."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._broker = broker
        self._name = name
        self._requests = KafkaRequests(broker, outage, name)

    async def start(self) -> None:
        """See `QueueAdmin.start`."""
        await self._requests.start()

    async def identity(self) -> BrokerIdentity:
        """See `QueueAdmin.identity`."""
        return BrokerIdentity("Apache Kafka", await broker_release(self._broker), self._requests.address)

    async def declare(self, queue: QueueSettings, *, keep_bound: bool = False) -> None:  # noqa: ARG002 - topics have no bound
        """See `QueueAdmin.declare`. A work topic must have the partitions, and the retention if one is asked for."""
        _say_unbounded(queue.work, queue.max_length, queue.max_length_bytes)
        missing = await self.missing(queue)
        if await create_topics(self._requests, [topic for topic in topics_of(queue) if topic.name in missing]):
            await self.missing(queue)  # another process was faster: compare with its topics

    async def missing(self, queue: QueueSettings) -> list[str]:
        """See `QueueAdmin.missing`."""
        topics = topics_of(queue)
        names = [topic.name for topic in topics if not await self._partitions(topic.name)]
        work = next(topic for topic in topics if topic.name == topic_name(queue.work))
        if work.name in names:
            return names
        partitions = await self._partitions(work.name)
        if partitions != work.partitions:
            raise _differs(work, "partitions", str(work.partitions), str(partitions))
        if queue.message_ttl_ms is not None:
            await self._check_retention(work)
        return names

    async def look(
        self,
        queue: str,
        *,
        exchange: str,  # noqa: ARG002 -- has none
        keys: Sequence[str],  # noqa: ARG002 -- all lead to the topic
        dead_letter: str,
    ) -> FoundQueue:
        """See `QueueAdmin.look`; a rejected record reaches another topic only through us."""
        await self._requests.partitions(queue)
        has_topic = bool(await self._partitions(topic_name(dead_letter)))
        return FoundQueue(dead_letters=False, has_dead_letter_queue=has_topic)

    async def _partitions(self, topic: str) -> int:
        """Return the number of partitions; 0 when there is no such topic."""
        try:
            return len(await self._requests.partitions(topic))
        except QueueNotFoundError:
            return 0

    async def queues(self) -> list[str]:
        """Return our queues by name: topics of ``pace.…``, and those that one of our groups consumes.

        Others may use the cluster too, so nothing else counts as ours.
        """
        client, timeout_s = self._requests.client, self._requests.timeout_s
        metadata = await asyncio.to_thread(client.list_topics, timeout=timeout_s)
        groups = await self._requests.answer(client.list_consumer_groups(request_timeout=timeout_s))
        consumed = {group.group_id.removeprefix(GROUPS) for group in groups.valid if group.group_id.startswith(GROUPS)}
        return sorted(consumed | {topic for topic in metadata.topics if topic.startswith(GROUPS)})

    async def purge(self, queue: str) -> int:
        """See `QueueAdmin.purge`; what consumers have fetched ahead is out of its reach."""
        partitions = await self._requests.partitions(queue)
        reader = LagReader(self._broker, self._name, queue)
        try:
            lags = await reader.read()
        finally:
            await asyncio.to_thread(reader.close)
        ends = [TopicPartition(each.topic, each.partition, OFFSET_END) for each in partitions]
        for future in self._requests.client.delete_records(ends, request_timeout=self._requests.timeout_s).values():
            await self._requests.answer(future, queue)
        return sum(each.lag - each.unacked for each in lags)

    async def delete(self, queue: str) -> None:
        """See `QueueAdmin.delete`; the group's commits go with the topic."""
        with suppress(QueueNotFoundError):
            await self._delete_topic(queue)
        group = group_id(queue)
        asked = self._requests.client.delete_consumer_groups([group], request_timeout=self._requests.timeout_s)
        with suppress(KafkaException):  # there is none, or it has consumers and is deleted when they leave
            await asyncio.wrap_future(asked[group])

    async def delete_exchange(self, exchange: str) -> None:
        """See `QueueAdmin.delete_exchange`; the feedback topic is the only one that there can be."""
        with suppress(QueueNotFoundError):
            await self._delete_topic(exchange)

    async def set_bound(self, queue: str, *, max_length: int | None, overflow: str) -> None:  # noqa: ARG002 -- nothing overflows
        """See `QueueAdmin.set_bound`; raises for any bound at all."""
        await self._requests.partitions(queue)
        if max_length is None:
            return
        raise UnsupportedError(
            f"the bound of {queue!r} cannot be changed: Kafka has no bounded queues, and retention only forgets, it "
            "never pushes back; hold the queue by a strategy that adapts (pace laws lists them)"
        )

    def drain(self, queue: str) -> AsyncIterator[Delivery]:
        """See `QueueAdmin.drain`; raises `TransportError` while consumers are still there."""
        return drain(self._broker, f"{self._name}-drain", queue)

    async def stop(self) -> None:
        """Close."""
        await self._requests.stop()

    async def _check_retention(self, work: Topic) -> None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, work.name)
        asked = self._requests.client.describe_configs([resource], request_timeout=self._requests.timeout_s)
        (future,) = asked.values()
        described: Any = await self._requests.answer(future, work.name)
        wanted, current = work.configuration["retention.ms"], described["retention.ms"].value
        if wanted != current:
            raise _differs(work, "retention.ms", wanted, current)

    async def _delete_topic(self, queue: str) -> None:
        topic = topic_name(queue)
        asked = self._requests.client.delete_topics([topic], request_timeout=self._requests.timeout_s)
        await self._requests.answer(asked[topic], queue)
        async with asyncio.timeout(_GONE_WITHIN_S):
            while True:  # raises when the topic is deleted
                await self._requests.partitions(queue)
                await asyncio.sleep(_LOOK_EVERY_S)


@cache  # once per process is enough
def _say_unbounded(queue: str, *bounds: int | None) -> None:
    if any(bounds):
        _log.info(
            "%s has no bound: queue.max_length means nothing to Kafka. What keeps it short is a strategy that adapts "
            "(pace laws lists them); what is unconfirmed is bounded by producer.confirm_window",
            queue,
        )


def _differs(topic: Topic, argument: str, wanted: str, current: str) -> PreconditionFailedError:
    return PreconditionFailedError(topic.name, argument, f"{wanted} was requested, but the topic has {current}")


async def drain(broker: BrokerSettings, name: str, queue: str) -> AsyncIterator[Delivery]:
    """Yield every unsettled message, and settle it when the next one is requested; see `QueueAdmin.drain`.

    Others can commit for a group only when it has no members: raises `TransportError` when its consumers do not leave.
    """
    reader = LagReader(broker, name, queue)
    try:
        lags = await reader.read()
    finally:
        await asyncio.to_thread(reader.close)
    topic = topic_name(queue)
    consumer = Consumer(
        client_configuration(broker, name)
        | {"group.id": group_id(queue), "enable.auto.commit": False, "enable.partition.eof": True}
    )
    drained = _Drained(consumer, topic, lags)
    try:
        await drained.claim(broker.address(), queue)
        consumer.assign([TopicPartition(topic, each.partition, each.start) for each in lags])
        left = {each.partition for each in lags}
        while left:
            for record in await asyncio.to_thread(consumer.consume, _BATCH, _POLL_S):
                number, error = record.partition() or 0, record.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- librdkafka's own codes begin so
                    left.discard(number)
                    continue
                if error is not None:
                    raise kafka_error(error, broker.address(), queue)
                left.add(number)
                offset = record.offset() or 0
                progress = drained.progress[number]
                if not progress.receive(offset):
                    continue
                yield Delivery(
                    message_from(record),
                    tag=offset,
                    epoch=0,
                    redelivered=progress.deliver(offset),
                    routing_key=topic,
                    received_ns=time.monotonic_ns(),
                )
                progress.settle(offset)
    finally:
        await asyncio.to_thread(drained.close)


class _Drained:
    """How far a drain has got."""

    def __init__(self, consumer: Consumer, topic: str, lags: list[PartitionLag]) -> None:
        self.progress = {each.partition: PartitionProgress(each.mark) for each in lags}
        self._consumer = consumer
        self._topic = topic
        self._lags = lags

    async def claim(self, address: str, queue: str) -> None:
        """Commit the current offsets again, until the group allows it."""
        places = [
            TopicPartition(self._topic, each.partition, each.start, str(each.mark) if each.mark else "")
            for each in self._lags
        ]
        deadline = time.monotonic() + _CLAIM_WITHIN_S
        while True:
            try:
                await asyncio.to_thread(self._consumer.commit, offsets=places, asynchronous=False)
            except KafkaException as error:
                if error.args[0].code() not in _STILL_THERE:
                    raise kafka_error(error.args[0], address, queue) from error
            else:
                return
            if time.monotonic() > deadline:
                raise TransportError(f"{queue!r} cannot be drained while it has consumers: stop them first")
            await asyncio.sleep(_CLAIM_EVERY_S)

    def close(self) -> None:
        """Commit what was taken and leave."""
        commits = {number: progress.commit(held=False) for number, progress in self.progress.items()}
        places = [
            TopicPartition(self._topic, number, commit.offset, commit.metadata)
            for number, commit in commits.items()
            if commit is not None
        ]
        try:
            if places:
                self._consumer.commit(offsets=places, asynchronous=False)
        finally:
            self._consumer.close()
