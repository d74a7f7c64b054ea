"""The topics that stand for the queues of an experiment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic

from backpressure.core.kafka_names import topic_name
from backpressure.errors import QueueNotFoundError, TransportError
from backpressure.settings import QueueSettings
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.requests import Requests

__all__ = ["Topic", "create_topics", "topics_of"]

_VISIBLE_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.05
_FOR_EVER = {"retention.ms": "-1"}  # a topic that forgets on its own loses messages nobody has processed


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic; replication is the cluster's default."""

    name: str
    partitions: int
    configuration: Mapping[str, str] = field(default_factory=dict)


def topics_of(queue: QueueSettings) -> list[Topic]:
    """Return the topics to create, the dead-letter topic first: nothing may be dead-lettered into the void."""
    retention = _FOR_EVER
    if queue.message_ttl_ms is not None:
        ttl_ms = str(queue.message_ttl_ms)
        retention = {"retention.ms": ttl_ms, "segment.ms": ttl_ms}  # only whole segments are forgotten
    topics = [
        Topic(topic_name(queue.dead_letter), 1, _FOR_EVER),
        Topic(topic_name(queue.work), queue.partitions, retention),
    ]
    return [*topics, Topic(topic_name(queue.audit), queue.partitions, _FOR_EVER)] if queue.auditing else topics


async def create_topics(requests: Requests, topics: Iterable[Topic]) -> list[Topic]:
    """Create what is not there, wait until it can be used, and return those that were there before.

    Raises `TransportError`; then nothing that was created stays.
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


async def _wait_until_visible(requests: Requests, name: str) -> None:
    """The controller has it; brokers learn of it a moment later."""
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
