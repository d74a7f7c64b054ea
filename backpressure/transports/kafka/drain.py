"""Consuming everything in a queue, on behalf of its consumers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from backpressure.core.message import Delivery
from backpressure.errors import TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.client import client_configuration
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.group import SESSION_TIMEOUT_S
from backpressure.transports.kafka.probe import LagReader, PartitionLag
from backpressure.transports.kafka.records import group_id, message_from, topic_name
from backpressure.transports.kafka.settled import PartitionProgress

__all__ = ["drain"]

_BATCH = 500
_POLL_S = 0.05
_CLAIM_WITHIN_S = 2 * SESSION_TIMEOUT_S  # a killed consumer stays in the group until its session ends
_CLAIM_EVERY_S = 0.25
_STILL_THERE = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
}


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
