"""How far the consumers of a queue are behind, partition by partition."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from backpressure.transports.kafka.names import group_id
from backpressure.transports.kafka.requests import Requests
from backpressure.transports.kafka.settled import Mark

__all__ = ["PartitionLag", "read_lag"]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition: where unsettled messages begin, where the next message goes, what the last commit says.

    ``mark`` is None where nothing was ever committed, or by a consumer that is not ours.
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
    def unacked(self) -> int:
        """Those of them that a consumer holds."""
        if self.mark is None or not self.mark.held:
            return 0
        delivered = min(self.mark.delivered, self.end) - self.start
        return max(0, delivered - self.mark.settled_from(self.start))


async def read_lag(requests: Requests, queue: str, partitions: Sequence[TopicPartition]) -> list[PartitionLag]:
    """Ask for the offsets at both ends and the group's commits, all at once; raises `TransportError`."""
    group = group_id(queue)
    asked = requests.client.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, list(partitions))], request_timeout=requests.timeout_s
    )
    (first, end), committed = await asyncio.gather(
        requests.ends(queue, partitions), requests.answer(asked[group], queue)
    )
    lags = []
    for place in committed.topic_partitions:
        number = place.partition
        start = min(max(place.offset, first[number]), end[number])
        mark = Mark.parse(place.metadata)
        lags.append(PartitionLag(number, start, end[number], mark, foreign=place.offset >= 0 and mark is None))
    return lags
