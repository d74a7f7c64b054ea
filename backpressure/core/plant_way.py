"""The way from producers to the broker and back, where it takes time: messages first, then their confirms, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from backpressure.core.plant_producer import PlantProducer
from backpressure.core.plant_queue import WorkQueue

__all__ = ["Way"]


class Way:
    """What is on its way; nothing overtakes."""

    def __init__(self) -> None:
        self._messages: deque[tuple[float, float, PlantProducer]] = deque()
        self._confirms: deque[tuple[float, float, PlantProducer, bool]] = deque()

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
        way_s: float,
    ) -> None:
        """Take ``sent`` on its way, and hand over what has got there between ``start_s`` and ``now``.

        A queue that stands still takes nothing: messages lie before it, in order.
        """
        for sent_s, producer in sent:
            producer.in_flight += 1
            self._messages.append((max(sent_s + way_s, self._last_s), sent_s, producer))
        while not queue.stands_still and self._messages and self._messages[0][0] <= now:
            due_s, sent_s, producer = self._messages.popleft()
            at_s = max(start_s, due_s)
            self._confirms.append((at_s + way_s, sent_s, producer, queue.arrive(at_s, sent_s)))
        while self._confirms and self._confirms[0][0] <= now:
            settled_s, sent_s, producer, taken = self._confirms.popleft()
            producer.in_flight -= 1
            producer.settle(taken=taken, after_s=settled_s - sent_s)

    @property
    def _last_s(self) -> float:
        return self._messages[-1][0] if self._messages else 0.0
