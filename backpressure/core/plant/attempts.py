"""Consumers at work in virtual time: attempts, failures, what becomes of each message, and how long it takes.

Service begins when a message has arrived or when its consumer has finished the one before, whichever is later
(Lindley's recursion). This is exact and takes a few microseconds per message. bounded_queue.py delivers the messages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import log

from backpressure.core.plant.network import Network
from backpressure.core.plant.stations import Failures, PlantConsumer, PlantMessage, Workers, remembered

_DONE, _AGAIN, _ACKED = range(3)
"""What happens to a consumer: its work ends, another attempt is due, the broker has its acknowledgement."""


class Workshop(ABC):
    """Consumers and their work on what was delivered to them; `WorkQueue` explains the attributes."""

    def __init__(self, uniform: Callable[[], float]) -> None:
        """``uniform`` returns random numbers in [0, 1); service times are computed from them."""
        self.workers = Workers(count=0)
        self.failures: Failures | None = None
        self.network = Network()
        self.consumers: list[PlantConsumer] = []
        self.processed = 0
        self.dead_lettered = 0
        self.duplicates = 0
        self.redelivered = 0
        self.busy_s = 0.0
        self.starts_s = array("d")
        self.waits_s = array("d")
        self.done_s = array("d")
        self.sojourns_s = array("d")
        self._uniform = uniform
        self._accepting = True
        self._tried = 0
        self._events: list[tuple[float, int, int, PlantConsumer]] = []

    def accept_dead_letters(self, *, accepting: bool) -> None:
        """Set whether the broker accepts dead letters; they wait while it does not."""
        self._accepting = accepting
        if accepting:
            for consumer in self.consumers:
                for message in consumer.given_up:
                    self._dead_letter(consumer, message)
                consumer.given_up.clear()

    def hang(self, count: int) -> list[PlantConsumer]:
        """Hang the oldest ``count`` consumers, which neither work nor report then, and return them."""
        hung = self.consumers[:count]
        for consumer in hung:
            consumer.hung = True
        return hung

    def slow(self, count: int, speed: float) -> list[PlantConsumer]:
        """Let the oldest ``count`` consumers work at ``speed`` from their next message on, and return them."""
        slow = self.consumers[:count]
        for consumer in slow:
            consumer.speed = speed
        return slow

    def go_on(self, hung: Iterable[PlantConsumer], now: float) -> None:
        """Let hung consumers continue; work that would have ended meanwhile ends now."""
        for consumer in hung:
            consumer.hung = False
            if consumer.overdue:
                consumer.overdue = False
                heappush(self._events, (now, consumer.number, _DONE, consumer))
            self._work(consumer, now)

    def advance(self, until_s: float) -> None:
        """Let the consumers work until ``until_s``."""
        while self._events and self._events[0][0] <= until_s:
            at_s, _, kind, consumer = heappop(self._events)
            if consumer.gone:
                continue
            if kind == _ACKED:
                if consumer.acking:
                    consumer.acking -= 1
                    self._free(consumer, at_s)
            elif consumer.hung:
                consumer.overdue = consumer.overdue or kind == _DONE
            elif kind == _DONE:
                self._end(consumer, at_s)
            else:
                self._work(consumer, at_s)

    def _end(self, consumer: PlantConsumer, now: float) -> None:
        """The current attempt is over."""
        consumer.busy = False
        again, ghost = consumer.again, consumer.ghosts > 0
        message = consumer.held.popleft() if again is None else again
        consumer.again = None
        consumer.ghosts -= ghost
        if consumer.failing is not None:
            self._failed(consumer, remembered(message), consumer.failing, now, ghost=ghost)
        else:
            self.done_s.append(now)
            self.sojourns_s.append(now - message)
            consumer.processed += 1
            consumer.uncommitted += 1
            consumer.service_sum_s += consumer.service_s
            consumer.service_sum_s2 += consumer.service_s**2
            self.processed += 1
            if isinstance(message, PlantMessage):
                self.duplicates += message.done
                self._settled(consumer, message)
        self._work(consumer, now)
        if again is None:
            if self.network.way_s and not ghost:
                consumer.acking += 1
                heappush(self._events, (now + self.network.way_s, consumer.number, _ACKED, consumer))
            else:
                self._free(consumer, now)

    def _failed(
        self, consumer: PlantConsumer, message: PlantMessage, failures: Failures, now: float, *, ghost: bool
    ) -> None:
        consumer.failed += 1
        consumer.wasted_s += consumer.service_s
        if ghost:
            return
        message.attempts += 1
        pause_s = failures.retry.pause_s(message.attempts, failures.draw())
        if pause_s is not None:
            consumer.retried += 1
            self._tried += 1
            heappush(consumer.waiting, (now + pause_s, self._tried, message))
            heappush(self._events, (now + pause_s, consumer.number, _AGAIN, consumer))
        elif not self._accepting:
            consumer.given_up.append(message)
        else:
            self._dead_letter(consumer, message)

    def _dead_letter(self, consumer: PlantConsumer, message: PlantMessage) -> None:
        consumer.dead_lettered += 1
        self.dead_lettered += not message.done
        self._settled(consumer, message)

    def _settled(self, consumer: PlantConsumer, message: PlantMessage) -> None:
        self.redelivered += message.redelivered
        consumer.redelivered += message.redelivered
        message.done = True

    @abstractmethod
    def _free(self, consumer: PlantConsumer, now: float) -> None:
        """``consumer`` holds one less: if it was full, it can take another."""

    def _work(self, consumer: PlantConsumer, now: float) -> None:
        """Begin the next attempt, if there is one and the consumer is free."""
        if consumer.busy or consumer.hung or self.workers.stopped:
            return
        if consumer.waiting and consumer.waiting[0][0] <= now:
            message: float = heappop(consumer.waiting)[2]
            consumer.again = remembered(message)
        elif consumer.held:
            message = consumer.held[0]
            if isinstance(message, PlantMessage):
                now = max(now, message.there_s)
        else:
            return
        consumer.busy = True
        consumer.service_s = self._service_s() / consumer.speed
        consumer.done_s = now + consumer.service_s
        self.busy_s += consumer.service_s
        consumer.failing = None
        if self.failures is not None:
            message = remembered(message)
            if consumer.again is None:
                consumer.held[0] = message
            consumer.failing = self.failures if self.failures.strike(message) else None
        if consumer.failing is None:
            self.starts_s.append(now)
            self.waits_s.append(now - message)
        heappush(self._events, (consumer.done_s, consumer.number, _DONE, consumer))

    def _service_s(self) -> float:
        mean_s = 1 / self.workers.rate_per_s
        if self.workers.distribution == "fixed":
            return mean_s
        if self.workers.distribution == "exponential":
            return -mean_s * log(1.0 - self._uniform())
        return mean_s * (1 + self.workers.spread * (2 * self._uniform() - 1))
