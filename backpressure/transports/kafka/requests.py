"""Questions and orders to the cluster, on an admin client that answers with futures of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from backpressure.core.kafka_names import topic_name
from backpressure.errors import NotConnectedError
from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.client import Link, client_configuration
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.outage import Outage

__all__ = ["Requests"]

Result = TypeVar("Result")


class Requests:
    """One admin client."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self.address = broker.address()
        self.timeout_s = broker.connect_timeout_s
        self._link = Link(broker, outage)
        self._configuration = client_configuration(broker, name) | {"error_cb": self._link.on_error}
        self._client: AdminClient | None = None

    @property
    def client(self) -> AdminClient:
        """The client, connected once; raises `NotConnectedError` before and after."""
        if self._client is None:
            raise NotConnectedError(f"not connected to the broker at {self.address}")
        return self._client

    async def start(self) -> None:
        """Connect; raises `TransportError`."""
        client = AdminClient(self._configuration)
        await self._link.dial(client)
        self._client = client

    async def stop(self) -> None:
        """Close."""
        await asyncio.to_thread(self._release)

    async def answer(self, future: Future[Result], queue: str = "") -> Result:
        """Return the cluster's answer about ``queue``; raises `TransportError` with its reason."""
        try:
            return await asyncio.wrap_future(future)
        except KafkaException as error:
            raise kafka_error(error.args[0], self.address, queue) from error

    async def partitions(self, queue: str) -> list[TopicPartition]:
        """Return the partitions of the queue's topic; raises `QueueNotFoundError`."""
        topic = topic_name(queue)
        asked = self.client.describe_topics(TopicCollection([topic]), request_timeout=self.timeout_s)
        described: Any = await self.answer(asked[topic], queue)
        return [TopicPartition(topic, partition.id) for partition in described.partitions]

    def _release(self) -> None:
        self._client = None  # destroying it joins its threads
