"""Reading the lag, ten times a second and more.

Depth is the lag: what lies between the group's commits and the ends of the partitions, less what was settled out of
order. Commits of ours tell delivered messages from waiting ones (see ``settled``); of a foreign consumer only the lag
is known.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from backpressure.settings import BrokerSettings
from backpressure.transports.base import QueueReading
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.lag import read_lag
from backpressure.transports.kafka.names import group_id
from backpressure.transports.kafka.requests import Requests
from backpressure.transports.outage import Outage

__all__ = ["KafkaProbe"]

_PARTITIONS_KNOWN_FOR_S = 5.0


class KafkaProbe:
    """A `QueueProbe`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._requests = Requests(broker, outage, name)
        self._partitions: dict[str, tuple[float, list[TopicPartition]]] = {}

    async def start(self) -> None:
        """See `QueueProbe.start`."""
        await self._requests.start()

    async def read(self, queue: str) -> QueueReading:
        """See `QueueProbe.read`."""
        partitions = await self._partitions_of(queue)
        lags, consumers = await asyncio.gather(read_lag(self._requests, queue, partitions), self._consumers(queue))
        unacked = sum(each.unacked for each in lags)
        return QueueReading(
            ready=sum(each.lag for each in lags) - unacked,
            unacked=None if any(each.foreign for each in lags) else unacked,
            consumers=consumers,
            lag_by_partition=tuple(each.lag for each in lags),
        )

    async def stop(self) -> None:
        """Close."""
        await self._requests.stop()

    async def _partitions_of(self, queue: str) -> list[TopicPartition]:
        """Ask now and then only: partitions are added rarely, and a topic that is gone says so itself."""
        read_at, partitions = self._partitions.get(queue, (0.0, []))
        if not partitions or time.monotonic() - read_at > _PARTITIONS_KNOWN_FOR_S:
            partitions = await self._requests.partitions(queue)
            self._partitions[queue] = (time.monotonic(), partitions)
        return partitions

    async def _consumers(self, queue: str) -> int:
        group = group_id(queue)
        asked = self._requests.client.describe_consumer_groups([group], request_timeout=self._requests.timeout_s)
        try:
            described: Any = await asyncio.wrap_future(asked[group])
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise kafka_error(error.args[0], self._requests.address, queue) from error
        return len(described.members)
