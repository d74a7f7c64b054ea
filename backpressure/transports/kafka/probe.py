"""Reading the lag, ten times a second and more.

Depth is the lag: what lies between the group's commits and the ends of the partitions, less what was settled out of
order. Commits of ours tell delivered messages from waiting ones (see ``settled``); of a foreign consumer only the lag
is known.

The ends are of this moment, but commits tell of settled messages a while later: at 300 messages a second a queue that
holds nothing would seem to hold ten, and a law that keeps it short would keep it empty. So that much, at the rate of
the last commits, is taken off again.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from backpressure.core.kafka_names import group_id
from backpressure.settings import BrokerSettings
from backpressure.transports.base import QueueReading
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.lag import LagReader, PartitionLag
from backpressure.transports.kafka.polling import POLL_S
from backpressure.transports.kafka.requests import Requests
from backpressure.transports.kafka.subscriber import COMMIT_AFTER_S
from backpressure.transports.outage import Outage

__all__ = ["KafkaProbe", "Progress"]

_CONSUMERS_KNOWN_FOR_S = 0.5
_RATE_WINDOW_S = 0.5
_TOLD_AFTER_S = (COMMIT_AFTER_S + POLL_S) / 2
"""How long a settled message waits to be told of, on average."""


class Progress:
    """How fast a total grows, over the last half second."""

    def __init__(self) -> None:
        self._history: deque[tuple[float, int]] = deque()

    def rate_per_s(self, total: int, now: float) -> float:
        """Take note of ``total`` and return its rate; 0 after it fell, as when a topic begins anew."""
        if self._history and total < self._history[-1][1]:
            self._history.clear()
        self._history.append((now, total))
        while len(self._history) > 2 and now - self._history[1][0] >= _RATE_WINDOW_S:
            self._history.popleft()
        start, first = self._history[0]
        return (total - first) / (now - start) if now > start else 0.0


class KafkaProbe:
    """A `QueueProbe`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._broker = broker
        self._name = name
        self._requests = Requests(broker, outage, name)
        self._readers: dict[str, LagReader] = {}
        self._progress: dict[str, Progress] = defaultdict(Progress)
        self._consumers: dict[str, tuple[float, int]] = {}

    async def start(self) -> None:
        """See `QueueProbe.start`."""
        await self._requests.start()

    async def read(self, queue: str) -> QueueReading:
        """See `QueueProbe.read`."""
        if queue not in self._readers:
            self._readers[queue] = LagReader(self._broker, self._name, queue)
        lags = await self._readers[queue].read()
        consumers = await self._consumers_of(queue, lags)
        unacked = sum(each.unacked for each in lags) if consumers else 0  # whoever vanished could not say so
        ready = sum(each.lag for each in lags) - unacked
        foreign = any(each.foreign for each in lags)
        if not foreign:
            rate = self._progress[queue].rate_per_s(sum(each.settled for each in lags), time.monotonic())
            ready = max(0, ready - round(rate * _TOLD_AFTER_S))
        return QueueReading(
            ready=ready,
            unacked=None if foreign else unacked,
            consumers=consumers,
            lag_by_partition=tuple(each.lag for each in lags),
        )

    async def stop(self) -> None:
        """Close."""
        readers, self._readers = self._readers, {}
        await asyncio.gather(*(asyncio.to_thread(reader.close) for reader in readers.values()))
        await self._requests.stop()

    async def _consumers_of(self, queue: str, lags: Sequence[PartitionLag]) -> int:
        """Ask twice a second, and whenever the commits tell of consumers that came or went."""
        read_at, consumers = self._consumers.get(queue, (0.0, 0))
        held = any(each.mark is not None and each.mark.held for each in lags)
        if held is not (consumers > 0) or time.monotonic() - read_at > _CONSUMERS_KNOWN_FOR_S:
            consumers = await self._ask_for_consumers(queue)
            self._consumers[queue] = (time.monotonic(), consumers)
        return consumers

    async def _ask_for_consumers(self, queue: str) -> int:
        group = group_id(queue)
        asked = self._requests.client.describe_consumer_groups([group], request_timeout=self._requests.timeout_s)
        try:
            described: Any = await asyncio.wrap_future(asked[group])
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise kafka_error(error.args[0], self._requests.address, queue) from error
        return len(described.members)
