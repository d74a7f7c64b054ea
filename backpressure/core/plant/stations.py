"""A consumer of the plant: what it holds, what it has done, and what it reports. Knows nothing of the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from backpressure.core.plant.network import Line
from backpressure.core.reports import ConsumerReport
from backpressure.core.schedule import RetryPolicy
from backpressure.core.turns import ReportTurns

Acks = Literal["each", "auto", "commit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strangers:
    """Consumers that never report.

    Attributes:
        count: how many of the consumers they are, the oldest first.
        prefetch: the most that each of them holds; 0: no limit.
        acks: *each*: every message when its work is done. *auto*: the broker takes a message for done as soon as it is
        delivered, and prefetch limits nothing. *commit*: as Kafka's consumers do, every ``commit_interval_s``, all that
        was handed to the application, the message in work included; prefetch limits nothing.
        commit_interval_s: time between two commits.
    """

    count: int
    prefetch: int = 0
    acks: Acks = "each"
    commit_interval_s: float = 5.0

    @property
    def most_held(self) -> float:
        """The most that one holds."""
        return self.prefetch if self.prefetch and self.acks == "each" else inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The consumers, all alike except for ``strangers``.

    ``spread`` is half the width of the uniform distribution relative to its mean. ``state``: *paused* consumers say so;
    *frozen* ones fall silent and keep what they hold.
    """

    count: int = 1
    rate_per_s: float = 100.0
    distribution: Literal["fixed", "exponential", "uniform"] = "fixed"
    spread: float = 0.5
    prefetch: int = 3
    state: Literal["working", "paused", "frozen"] = "working"
    strangers: Strangers | None = None

    @property
    def capacity_per_s(self) -> float:
        """What they do together while they have work."""
        return 0.0 if self.stopped else self.count * self.rate_per_s

    @property
    def commits(self) -> bool:
        """Whether messages are in a log, of which consumers commit how far they are."""
        return self.strangers is not None and self.strangers.acks == "commit"

    @property
    def stopped(self) -> bool:
        """Whether they begin no new work."""
        return self.state != "working"


class PlantMessage(float):
    """When a message was sent, and what has happened to it; without anything special, a plain number stands for it.

    Attributes:
        chance: its random number for the share of poison; None: not drawn yet.
        attempts: those that failed.
        there_s: when it reaches the consumer it was delivered to.
        redelivered: it went back to the queue.
        done: it has been processed, or dead-lettered, at least once.
    """

    __slots__ = ("attempts", "chance", "done", "redelivered", "there_s")

    def __init__(self, _sent_s: float) -> None:
        self.chance: float | None = None
        self.attempts = 0
        self.there_s = 0.0
        self.redelivered = False
        self.done = False


def remembered(message: float) -> PlantMessage:
    """Return ``message`` as a `PlantMessage`."""
    return message if isinstance(message, PlantMessage) else PlantMessage(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Which attempts fail, and what follows.

    ``failure_rate`` is a share of the attempts, ``poison_rate`` one of the messages, which fail each time. ``draw``
    returns numbers in [0, 1).
    """

    draw: Callable[[], float]
    retry: RetryPolicy
    failure_rate: float = 0.0
    poison_rate: float = 0.0

    def strike(self, message: PlantMessage) -> bool:
        """Return whether the next attempt on ``message`` fails."""
        if self.poison_rate:
            if message.chance is None:
                message.chance = self.draw()
            if message.chance < self.poison_rate:
                return True
        return self.failure_rate > 0 and self.draw() < self.failure_rate


@dataclass(slots=True, eq=False)
class PlantConsumer:
    """One consumer.

    Attributes:
        next_look_s: when it looks next whether to report; turns: whether it does.
        held: what it was delivered, by the time it was sent; the first is in work while ``busy``, unless ``again`` is.
        again: what it makes another attempt on.
        waiting: what waits for another attempt: a heap of (due, order, message).
        given_up: what is to be dead-lettered as soon as the broker takes messages.
        ghosts: how many of ``again`` and the first of ``held`` are in the queue again, for its connection was lost.
        line: its connection, as far as from the broker.
        acking: messages that are done, but whose acknowledgement has not reached the broker.
        hung, overdue: it does nothing; and its work would have ended meanwhile.
        speed: how fast it works, relative to the settings.
        stranger: on what terms it consumes; None: it reports, and has the prefetch of all.
        uncommitted: messages that are done, but not committed; -1: the one in work is committed already.
        next_commit_s: when it commits next.
        failing: what makes the current attempt fail; None: it succeeds.
        failed, retried: attempts that failed, and those of them that are made again.
        wasted_s: time spent on attempts that failed.
    """

    number: int
    next_look_s: float
    turns: ReportTurns
    held: deque[float] = field(default_factory=deque)
    again: PlantMessage | None = None
    waiting: list[tuple[float, int, PlantMessage]] = field(default_factory=list)
    given_up: list[PlantMessage] = field(default_factory=list)
    line: Line = field(default_factory=Line)
    stranger: Strangers | None = None
    uncommitted: int = 0
    next_commit_s: float = 0.0
    ghosts: int = 0
    acking: int = 0
    busy: bool = False
    gone: bool = False
    hung: bool = False
    overdue: bool = False
    speed: float = 1.0
    failing: Failures | None = None
    service_s: float = 0.0
    done_s: float = 0.0
    processed: int = 0
    failed: int = 0
    retried: int = 0
    dead_lettered: int = 0
    redelivered: int = 0
    service_sum_s: float = 0.0
    service_sum_s2: float = 0.0
    wasted_s: float = 0.0

    @property
    def unsettled(self) -> int:
        """What it has been delivered and has not settled: its share of the queue's unacked."""
        return len(self.held) + len(self.waiting) + len(self.given_up) + (self.again is not None) - self.ghosts

    @property
    def acks(self) -> Acks:
        """When the broker takes its messages for done."""
        return "each" if self.stranger is None else self.stranger.acks

    def commit(self) -> None:
        """Commit what was handed to the application."""
        self.uncommitted = -int(self.busy)

    def everything(self) -> list[float]:
        """Return all that is unsettled."""
        begun = self.held if self.again is None else [self.again, *self.held]
        waiting = (message for _, _, message in sorted(self.waiting))
        return [*list(begun)[self.ghosts :], *waiting, *self.given_up]

    def lose(self) -> list[PlantMessage]:
        """Lose the connection without noticing: return what the broker requeues while work on it continues here."""
        self.held = deque(map(remembered, self.held))
        lost = [remembered(message) for message in self.everything()]
        self.waiting.clear()
        self.given_up.clear()
        self.acking = 0
        self.ghosts = len(self.held) + (self.again is not None)
        return lost

    def forget(self) -> None:
        """Notice that the connection is lost: only work in progress continues."""
        begun = self.busy and self.again is None
        ghosts_held = min(self.ghosts - (self.again is not None), len(self.held))
        for _ in range(ghosts_held - begun):
            del self.held[int(begun)]
        self.ghosts = min(self.ghosts, int(self.busy))

    def report(self, now: float, prefetch: int, *, paused: bool, every_s: float | None) -> ConsumerReport | None:
        """Return the counters now, if it reports now; it was told to report ``every_s``, None: as often as usual."""
        working_s = max(0.0, now - (self.done_s - self.service_s)) if self.busy else 0.0
        on_the_way = sum(isinstance(message, PlantMessage) and message.there_s > now for message in self.held)
        held = self.unsettled + self.ghosts - on_the_way
        made = ConsumerReport(
            id=f"consumer-{self.number}",
            pid=self.number,
            host="plant",
            at_ns=int(now * 1e9),
            queue="plant",
            delivered=self.processed + self.dead_lettered + held,
            processed=self.processed,
            failed=self.failed,
            retried=self.retried,
            dead_lettered=self.dead_lettered,
            redelivered=self.redelivered,
            duplicates=0,
            out_of_order=0,
            held=held,
            prefetch=prefetch,
            paused=paused,
            capacity_per_s=None,
            busy_s=self.service_sum_s + self.wasted_s + working_s,
            service_sum_s=self.service_sum_s,
            service_sum_s2=self.service_sum_s2,
            rss_bytes=0,
            cpu_s=0.0,
        )
        self.turns.tell(every_s, now)
        return made if self.turns.look(made, now, working_s) else None
