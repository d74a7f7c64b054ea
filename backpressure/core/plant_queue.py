"""The queue and its consumers in virtual time: what the plant's producers feed. Knows nothing of laws and signals.

Service begins when a message arrives or when its consumer is done with the one before, whichever is later (Lindley's
recursion): exact, and a few microseconds a message.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import log
from typing import Literal

__all__ = ["PlantConsumer", "Queue", "WorkQueue", "Workers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The consumers, all alike.

    ``spread`` is half the width of the uniform distribution relative to its mean. ``state``: *paused* consumers say so;
    *frozen* ones fall silent and keep what they hold; *foreign* ones work and never report.
    """

    count: int = 1
    rate_per_s: float = 100.0
    distribution: Literal["fixed", "exponential", "uniform"] = "fixed"
    spread: float = 0.5
    prefetch: int = 3
    state: Literal["working", "paused", "frozen", "foreign"] = "working"

    @property
    def capacity_per_s(self) -> float:
        """What they do together while they have work."""
        return 0.0 if self.stopped else self.count * self.rate_per_s

    @property
    def stopped(self) -> bool:
        """Whether they begin no new work."""
        return self.state in {"paused", "frozen"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The broker's side: a bound on ready messages, what happens beyond it, and whether it blocks its producers."""

    max_length: int | None = None
    overflow: Literal["reject-publish", "drop-head"] = "reject-publish"
    blocked: bool = False


@dataclass(slots=True)
class PlantConsumer:
    """One consumer; ``held`` are the arrival times of what it was delivered, the first in work while ``busy``."""

    number: int
    next_report_s: float
    held: deque[float] = field(default_factory=deque)
    busy: bool = False
    gone: bool = False
    service_s: float = 0.0
    done_s: float = 0.0
    processed: int = 0
    service_sum_s: float = 0.0
    service_sum_s2: float = 0.0


class WorkQueue:
    """A first-in-first-out queue with prefetch, delivered in turn.

    Attributes:
        ready: arrival times of the messages that are not delivered yet.
        consumers: those that are there.
        arrived, processed, dropped: messages so far.
        busy_s: consumer-seconds of work begun so far.
        starts_s, waits_s: of every message, in order: when its work began, and how long it had waited.
        done_s, sojourns_s: of every message, in order: when its work ended, and how long after its arrival that was.
    """

    def __init__(self, uniform: Callable[[], float], bound: Queue) -> None:
        """``uniform`` returns numbers in [0, 1)."""
        self.bound = bound
        self.workers = Workers(count=0)
        self.ready: deque[float] = deque()
        self.consumers: list[PlantConsumer] = []
        self.arrived = 0
        self.processed = 0
        self.dropped = 0
        self.busy_s = 0.0
        self.starts_s = array("d")
        self.waits_s = array("d")
        self.done_s = array("d")
        self.sojourns_s = array("d")
        self._uniform = uniform
        self._hired = 0
        self._credit: deque[PlantConsumer] = deque()
        self._completions: list[tuple[float, int, PlantConsumer]] = []

    @property
    def depth(self) -> int:
        """Ready plus unacked."""
        return len(self.ready) + sum(len(consumer.held) for consumer in self.consumers)

    def set_workers(self, workers: Workers, now: float, first_report_s: Callable[[], float]) -> None:
        """Change the consumers from ``now`` on; work that has begun ends as it would have, unless its consumer goes."""
        self.workers = workers
        while len(self.consumers) > workers.count:
            leaving = self.consumers.pop()
            leaving.gone = True
            self.ready.extendleft(reversed(leaving.held))
        while len(self.consumers) < workers.count:
            self._hired += 1
            self.consumers.append(PlantConsumer(self._hired, first_report_s()))
        self._credit = deque(consumer for consumer in self.consumers if len(consumer.held) < workers.prefetch)
        for consumer in self.consumers:
            self._work(consumer, now)
        while self.ready and self._credit:
            self._deliver(self.ready.popleft(), now)

    def arrive(self, at_s: float) -> bool:
        """A message comes in; return whether the queue took it. Times must not decrease."""
        self.advance(at_s)
        limit = self.bound.max_length
        if limit is not None and len(self.ready) >= limit and not self._credit:
            if self.bound.overflow == "reject-publish":
                return False
            self.ready.popleft()
            self.dropped += 1
        self.arrived += 1
        if self._credit:
            self._deliver(at_s, at_s)
        else:
            self.ready.append(at_s)
        return True

    def advance(self, until_s: float) -> None:
        """Let the consumers work until ``until_s``."""
        while self._completions and self._completions[0][0] <= until_s:
            done_s, _, consumer = heappop(self._completions)
            if consumer.gone:
                continue
            arrival_s = consumer.held.popleft()
            self.done_s.append(done_s)
            self.sojourns_s.append(done_s - arrival_s)
            consumer.busy = False
            consumer.processed += 1
            consumer.service_sum_s += consumer.service_s
            consumer.service_sum_s2 += consumer.service_s**2
            self.processed += 1
            self._work(consumer, done_s)
            if len(consumer.held) == self.workers.prefetch - 1:
                self._credit.append(consumer)
                if self.ready:
                    self._deliver(self.ready.popleft(), done_s)

    def _deliver(self, arrival_s: float, now: float) -> None:
        consumer = self._credit.popleft()
        consumer.held.append(arrival_s)
        if len(consumer.held) < self.workers.prefetch:
            self._credit.append(consumer)
        self._work(consumer, now)

    def _work(self, consumer: PlantConsumer, now: float) -> None:
        if consumer.busy or not consumer.held or self.workers.stopped:
            return
        consumer.busy = True
        consumer.service_s = self._service_s()
        consumer.done_s = now + consumer.service_s
        self.busy_s += consumer.service_s
        self.starts_s.append(now)
        self.waits_s.append(now - consumer.held[0])
        heappush(self._completions, (consumer.done_s, consumer.number, consumer))

    def _service_s(self) -> float:
        mean_s = 1 / self.workers.rate_per_s
        if self.workers.distribution == "fixed":
            return mean_s
        if self.workers.distribution == "exponential":
            return -mean_s * log(1.0 - self._uniform())
        return mean_s * (1 + self.workers.spread * (2 * self._uniform() - 1))
