"""The way from producers to the broker and back, where it takes time: messages first, then their confirms, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

from backpressure.core.plant_network import Network
from backpressure.core.plant_producer import PlantProducer
from backpressure.core.plant_queue import WorkQueue

__all__ = ["Way"]


class Way:
    """What is on its way; nothing overtakes on one producer's connection.

    ``took_s`` is how long the confirm of each message took, by the time at which the message was sent.
    """

    def __init__(self) -> None:
        self.took_s: dict[float, float] = {}
        self._messages: list[tuple[float, int, float, PlantProducer]] = []
        self._confirms: deque[tuple[float, float, PlantProducer, bool]] = deque()
        self._count = 0

    @property
    def busy(self) -> bool:
        """Whether something is on its way."""
        return bool(self._messages or self._confirms)

    def travel(
        self,
        sent: Iterable[tuple[float, PlantProducer]],
        queue: WorkQueue,
        start_s: float,
        now: float,
        network: Network,
    ) -> None:
        """Take ``sent`` on its way, and hand over what has got there between ``start_s`` and ``now``.

        A queue that stands still takes nothing: messages lie before it, in order.
        """
        for sent_s, producer in sent:
            producer.in_flight += 1
            self._count += 1
            heappush(self._messages, (producer.line.carry(sent_s, network), self._count, sent_s, producer))
        while not queue.stands_still and self._messages and self._messages[0][0] <= now:
            due_s, _, sent_s, producer = heappop(self._messages)
            at_s = max(start_s, due_s)
            self._confirms.append(
                (at_s + network.way_s + network.confirm_latency_s, sent_s, producer, queue.arrive(at_s, sent_s))
            )
        while self._confirms and self._confirms[0][0] <= now:
            settled_s, sent_s, producer, taken = self._confirms.popleft()
            producer.in_flight -= 1
            self.took_s[sent_s] = settled_s - sent_s
            producer.settle(taken=taken, after_s=settled_s - sent_s)
