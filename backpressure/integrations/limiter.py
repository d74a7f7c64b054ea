"""Paces everything that a process sends to one queue, whatever it sends with.

`Limiter` is `Pacer` made ready for threads, event loops and forks: callers wait in line, and a thread of its own
(`QueueWatcher`) reads the queue and exchanges reports. It does not know its callers: `Paced`, the middlewares of
frameworks, or a client of your own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import ceil, inf
from types import TracebackType
from typing import Self

from backpressure.core.controllers import LawConfig
from backpressure.core.pacer import Pacer
from backpressure.core.reports import Report
from backpressure.core.signals import Law
from backpressure.core.sums import FleetSum, SumNews
from backpressure.core.unpaced import WHAT_TO_DO, told
from backpressure.errors import BackpressureError, ConfigError, NotConnectedError, RefusedError
from backpressure.integrations.watcher import QueueWatcher
from backpressure.laws import create
from backpressure.transports.base import QueueReading

_log = logging.getLogger("backpressure")
_TELL_AFTER_S = 5.0  # counts may come
_SHORTEST_SLEEP_S = 0.002  # messages allowed within this go out together
_LOOK_AGAIN_S = 1.0
_LONGEST_WAIT_S = 3600.0
_LONGEST_SLEEP_S = 0.05  # a higher rate is noticed after this


class Turns:
    """A lock for threads and for tasks of any event loop at once: first come, first served.

    Of many callers who wait for the same limiter only the first watches the clock. So a thousand tasks cost no more
    than one, and messages leave in the order in which `publish` was called. Cancelling a waiting task, or a timeout,
    gives its place to the next.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[Callable[[], None]] = deque()  # whoever has its turn comes first; each is how to wake it

    def __len__(self) -> int:
        """Return how many callers have their turn, or wait for it."""
        return len(self._line)

    @contextmanager
    def turn(self, timeout_s: float | None = None) -> Iterator[bool]:
        """Wait in this thread for the turn; yield whether it came in time."""
        came = threading.Event()
        wake = came.set
        if self._join(wake):
            came.set()
        try:
            yield came.wait(timeout_s)
        finally:
            self._leave(wake)

    @asynccontextmanager
    async def turn_of_task(self) -> AsyncIterator[None]:
        """Wait in this task for the turn."""
        loop = asyncio.get_running_loop()
        came = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(_resolve, came)
            except RuntimeError:  # that loop has ended, with a task of it still in line
                self._leave(wake)

        if self._join(wake):
            came.set_result(None)
        try:
            await came
            yield
        finally:
            self._leave(wake)

    def _join(self, wake: Callable[[], None]) -> bool:
        """Stand in line; return whether it is this caller's turn at once."""
        with self._lock:
            self._line.append(wake)
            return len(self._line) == 1

    def _leave(self, wake: Callable[[], None]) -> None:
        with self._lock:
            if wake not in self._line:
                return
            had_turn = self._line[0] == wake
            self._line.remove(wake)
            following = self._line[0] if had_turn and self._line else None
        if following is not None:
            following()


def _resolve(came: asyncio.Future[None]) -> None:
    if not came.done():
        came.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceStatus:
    """How one queue is paced at this moment; counts are totals since the limiter was opened.

    Attributes:
        queue: its name.
        watching: whether the queue has been read within the last second.
        blocked: whether the broker has told this process to stop publishing.
        rate_per_s: what may be sent from here, messages per second.
        reason: why.
        bottleneck_per_s: what the law takes for the rate of all consumers together; None: it has no estimate.
        unpaced_per_s: messages a second that arrive from producers that nobody paces; 0: none is seen.
        ready: messages waiting in the queue, by the last reading; None: there was none.
        consumers: consumers of the queue, likewise.
        waiting: callers who wait to send.
        in_flight: messages sent and not answered.
        sent: messages that were allowed to go, each attempt counted.
        confirmed: messages that the broker took.
        refused: attempts that it refused.
        shed: messages not sent, because nothing was allowed to go in time.
        waited_s: what callers have waited altogether, seconds.
        retry_after_s: when it is worth to try again; 0: now.
    """

    queue: str
    watching: bool
    blocked: bool
    rate_per_s: float
    reason: str
    bottleneck_per_s: float | None
    unpaced_per_s: float
    ready: int | None
    consumers: int | None
    waiting: int
    in_flight: int
    sent: int
    confirmed: int
    refused: int
    shed: int
    waited_s: float
    retry_after_s: float


class Limiter:
    """Says when the next message to a queue may go; every method may be called from any thread.

    Use it as a context manager, or `open` and `close` it. What may be sent is `sending`: put it around the call that
    sends one message and returns when the broker has answered.
    """

    def __init__(
        self,
        queue: str,
        url: str,
        *,
        law: str | Law = "pace",
        max_per_s: float = inf,
        min_per_s: float = 0.0,
        weight: float = 1.0,
        target_wait_s: float = 0.02,
        group: str = "",
        management_url: str = "",
        prometheus_url: str = "",
        feedback: str = "pace.feedback",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe what to pace; nothing connects before `open`.

        Args:
            queue: the queue that consumers read (Kafka: the topic).
            url: its broker, ``amqp://user:password@host:port/vhost`` or ``kafka://host:port``; of several servers,
                ``amqp://one,two/``, any that answers is used.
            law: which rate-control law; see ``pace laws``.
            max_per_s: the most to send, messages per second.
            min_per_s: the least to allow, whatever the law says; 0: as the law says.
            weight: the share against other producers of the queue.
            target_wait_s: the wait in the queue to aim for, seconds.
            group: the consumer group that reads the topic (Kafka only); "": the one of this project's consumers.
            management_url: RabbitMQ's management API, which tells what consumers hold that do not report; "": on the
                host of ``url``, if the broker has its usual port.
            prometheus_url: RabbitMQ's plugin rabbitmq_prometheus, which tells that of quorum queues; "": likewise.
            feedback: the fanout exchange (Kafka: the topic) of the reports.
            clock: seconds of a monotonic clock.

        Raises:
            ConfigError: a value is not allowed.
        """
        for name, value in (("max_per_s", max_per_s), ("weight", weight), ("target_wait_s", target_wait_s)):
            if not value > 0:
                raise ConfigError(name, value, "expected more than 0")
        if not 0 <= min_per_s <= max_per_s:
            raise ConfigError("min_per_s", min_per_s, "expected 0 to max_per_s")
        self.queue = queue
        self.url = url
        self._place = (feedback, group, management_url, prometheus_url)
        self._law = law
        self._config = LawConfig(target_wait_s=target_wait_s, floor_per_s=min_per_s or None)
        self._min_per_s, self._max_per_s, self._weight = min_per_s, max_per_s, weight
        self._clock = clock
        self._watcher: QueueWatcher | None = None
        self._closed = False
        self._start()

    def _start(self) -> None:
        law = create(self._law, self._config) if isinstance(self._law, str) else self._law
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._turns = Turns()
        self._reading: QueueReading | None = None
        self._read_at = -inf
        self._obstacle = ""
        self._told: set[str] = set()
        self._missing, self._missing_since = "", 0.0
        self._sent = self._confirmed = self._refused = self._shed = 0
        self._waited_s = 0.0
        session = secrets.randbits(60)
        self._pacer = Pacer(
            law,
            now=self._clock(),
            demand_per_s=self._max_per_s,
            floor_per_s=self._min_per_s,
            weight=self._weight,
            queue=self.queue,
            session=session,
        )

    # --- life ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to watch the queue, in a thread; a broker that is away is waited for. Opening twice is harmless.

        Raises:
            ConfigError: the URL is none of a broker, or the client library for it is not installed.
        """
        self._closed = False
        if self._watcher is None:
            self._watcher = QueueWatcher.join(self.url, *self._place, member=self)

    def close(self) -> None:
        """Stop watching; closing twice is harmless. It may take as long as the broker takes to say goodbye.

        Callers who wait get a `NotConnectedError`: nobody will tell when the next message may go.
        """
        self._closed = True
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.leave(self)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_process(self) -> None:
        """Begin again in a process that was forked: threads and locks are not inherited, nor is the share."""
        if self._pid != os.getpid():
            watched, self._watcher = self._watcher is not None, None
            self._start()
            if watched:
                self.open()

    # --- sending ------------------------------------------------------------------------------------------------

    def may_send(self) -> bool:
        """Return whether a message that is sent now need not wait. It takes nothing: another one may come first."""
        self._check_process()
        with self._lock:
            return not self._turns and self._allowed(self._clock())

    def wait_s(self) -> float:
        """Return how long a message that is sent now would wait, in seconds, at the present rate; 0: not at all.

        While nothing may be sent (the queue drains, nobody consumes, an alarm) nobody knows: look again in a second.
        """
        self._check_process()
        now = self._clock()
        with self._lock:
            wait, rate = self._pacer.next_send_s(now), self._pacer.decision.rate_per_s
            blocked = self._pacer.blocked
        wait += len(self._turns) / rate if rate > 0 else 0.0
        if wait == inf:
            return _LOOK_AGAIN_S
        return max(wait, _LOOK_AGAIN_S) if blocked else min(wait, _LONGEST_WAIT_S)

    @property
    def retry_after_s(self) -> int:
        """Whole seconds after which it is worth to try again, at least 1: the value of ``Retry-After`` in HTTP."""
        return max(1, ceil(self.wait_s()))

    def try_acquire(self) -> bool:
        """Take the right to send one message if it need not wait; the caller sends it, and says what became of it."""
        self._check_process()
        with self._lock:
            if self._turns or not self._allowed(self._clock()):
                self._shed += 1
                return False
            self._take()
            return True

    def acquire(self, timeout: float | None = None) -> None:
        """Wait until the next message may go; the caller sends it, and says what became of it.

        Raises:
            BackpressureError: it may not within ``timeout`` seconds.
            NotConnectedError: this is closed meanwhile.
        """
        self._check_process()
        if self._at_once():
            return
        began = self._clock()
        deadline = inf if timeout is None else began + timeout
        try:
            with self._turns.turn(timeout) as came:
                while came:
                    pause_s = self._pause_s()
                    if not pause_s:
                        return
                    left_s = deadline - self._clock()
                    if left_s <= 0:
                        break
                    time.sleep(min(pause_s, left_s))
        finally:
            self._waited(began)
        raise self._pressure()

    async def acquire_async(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - an error of its own
        """Do as `acquire`, in a task: other tasks go on. Cancelling the task takes nothing."""
        self._check_process()
        if self._at_once():
            return
        began = self._clock()
        try:
            async with asyncio.timeout(timeout), self._turns.turn_of_task():
                while pause_s := self._pause_s():  # noqa: ASYNC110 - time passes, nothing happens
                    await asyncio.sleep(pause_s)
        except TimeoutError:
            raise self._pressure() from None
        finally:
            self._waited(began)

    @contextmanager
    def sending(self, timeout: float | None = None) -> Iterator[None]:
        """Wait until the next message may go, and count what becomes of the one that is sent inside.

        A `RefusedError` counts as refused, any other exception as unknown, and the rest as confirmed.

        Raises:
            BackpressureError: it may not go within ``timeout`` seconds.
        """
        self.acquire(timeout)
        with self.counted():
            yield

    @asynccontextmanager
    async def sending_async(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - an error of its own
    ) -> AsyncIterator[None]:
        """Do as `sending`, in a task."""
        await self.acquire_async(timeout)
        with self.counted():
            yield

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what becomes of one message that was allowed to go, and is sent inside; see `sending`."""
        try:
            yield
        except RefusedError:
            self.refused()
            raise
        except BaseException:
            self.lost()
            raise
        self.confirmed()

    def confirmed(self) -> None:
        """The broker took a message."""
        with self._lock:
            self._confirmed += 1
            self._pacer.confirmed()

    def refused(self) -> None:
        """The broker refused a message: the queue is full."""
        with self._lock:
            self._refused += 1
            self._pacer.nacked()

    def lost(self) -> None:
        """Nobody knows what became of a message: the connection was lost, or the caller gave up."""
        with self._lock:
            self._pacer.lost()

    def _allowed(self, now: float) -> bool:
        return not self._pacer.blocked and self._pacer.may_send(now)

    def _take(self) -> None:
        self._pacer.sent(self._clock())
        self._sent += 1

    def _at_once(self) -> bool:
        with self._lock:
            if self._turns or not self._allowed(self._clock()):
                return False
            self._take()
            return True

    def _pause_s(self) -> float:
        """Take the right to send and return 0, or return for how long to sleep before asking again."""
        now = self._clock()
        with self._lock:
            if self._allowed(now):
                self._take()
                return 0.0
            if self._closed:
                raise NotConnectedError(f"nothing more may be sent to {self.queue!r}: its limiter was closed")
            wait = self._pacer.next_send_s(now)
        return min(max(wait, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S)

    def _waited(self, began: float) -> None:
        with self._lock:
            self._waited_s += self._clock() - began

    def _pressure(self) -> BackpressureError:
        with self._lock:
            self._shed += 1
        return BackpressureError(self.queue, self.wait_s(), self.status().reason)

    # --- what the watcher calls ---------------------------------------------------------------------------------

    @property
    def report_every_s(self) -> float:
        """How often to report; the more processes report, the less often each does."""
        return self._pacer.report_every_s

    @property
    def patience_s(self) -> float:
        """How long to wait for a reading before the pace is decided without one."""
        return self._pacer.patience_s

    def take_reading(self, reading: QueueReading | None, *, blocked: bool, age_s: float = 0.0) -> None:
        """Decide the pace after a reading of the queue of ``age_s`` ago; None: there was no answer."""
        self._decide(reading, blocked=blocked, age_s=age_s)
        self._tell_what_limits()

    def _tell_what_limits(self) -> None:
        """Log once what keeps the law from knowing more, and that others take capacity; each with what to do."""
        now, pacer = self._clock(), self._pacer
        if pacer.missing != self._missing:
            self._missing, self._missing_since = pacer.missing, now
        if pacer.missing and pacer.missing not in self._told and now - self._missing_since > _TELL_AFTER_S:
            self._told.add(pacer.missing)
            _log.warning("%s: the pace is limited: %s", self.queue, pacer.missing)
        if pacer.unpaced_per_s and WHAT_TO_DO not in self._told:
            self._told.add(WHAT_TO_DO)
            arriving = told(pacer.unpaced_per_s)
            _log.warning("%s: %s; only what they leave is sent from here: %s", self.queue, arriving, WHAT_TO_DO)

    def _decide(self, reading: QueueReading | None, *, blocked: bool, age_s: float) -> None:
        now = self._clock()
        with self._lock:
            self._pacer.blocked = blocked
            if reading is None:
                if self._reading is not None:  # before the first one, the law would guess
                    self._pacer.decide(now)
                return
            self._reading, self._read_at, self._obstacle = reading, now, ""
            if reading.offsets is not None:
                self._pacer.offsets(reading.offsets, reading.consumers, now=now, round_trip_s=reading.round_trip_s)
                return
            if reading.statistics is not None or reading.terms is not None or reading.missing:
                self._pacer.counted(reading.statistics, reading.terms, reading.missing, now=now)
            left = reading.left if reading.lag_by_partition else None
            self._pacer.reading(
                reading.ready,
                reading.consumers,
                unacked=reading.unacked,
                left=left,
                now=now,
                age_s=age_s,
                round_trip_s=reading.round_trip_s,
                entered=None if reading.lag_by_partition else reading.entered,
            )

    def take_obstacle(self, obstacle: str) -> None:
        """Take note of why the queue cannot be read, until it is."""
        with self._lock:
            self._obstacle = obstacle

    def wants_counts(self, reading: int) -> bool:
        """Whether the reading of that number should also tell what consumers hold that do not say it themselves."""
        return self._pacer.wants_counts(reading)

    def take_report(self, report: Report) -> None:
        """Hear what another process reports."""
        now = self._clock()
        with self._lock:
            self._pacer.heard(report, now=now)

    def take_sum(self, told: FleetSum) -> SumNews:
        """Hear what all reports add up to; return what that means for the pace."""
        now = self._clock()
        with self._lock:
            return self._pacer.heard_sum(told, now=now)

    @property
    def listens(self) -> bool:
        """Whether it has to hear reports."""
        return self._pacer.listens

    @property
    def hears_sums(self) -> bool:
        """Whether it has to hear sums."""
        return self._pacer.hears_sums

    def due_sum(self, *, possible: bool) -> bytes | None:
        """Return what to tell all producers now, if there is anything; ``possible``: there is a way to do so."""
        with self._lock:
            self._pacer.takes_sums = possible
            return self._pacer.due_sum(self._clock())

    def answer(self, payload: bytes) -> bytes | None:
        """Return what to answer to a report that asks how often to report; None: others do."""
        with self._lock:
            return self._pacer.answer(payload, now=self._clock())

    def report(self, interval_s: float = 0.0) -> bytes:
        """Return what other processes are told of this one; the next report follows after ``interval_s``."""
        with self._lock:
            return self._pacer.own_report(now=self._clock(), interval_s=interval_s)

    # --- watching -----------------------------------------------------------------------------------------------

    def status(self) -> PaceStatus:
        """Return how the queue is paced at this moment."""
        wait_s = self.wait_s()
        now = self._clock()
        with self._lock:
            decision, reading = self._pacer.decision, self._reading
            only_waits = reading is None and self._obstacle
            reason = self._obstacle if only_waits else "; ".join(filter(None, (self._obstacle, decision.reason)))
            if self._pacer.blocked:
                reason = "the broker has stopped all publishing (memory or disk alarm)"
            return PaceStatus(
                queue=self.queue,
                watching=now - self._read_at < 1.0,
                blocked=self._pacer.blocked,
                rate_per_s=min(decision.rate_per_s, self._max_per_s),
                reason=reason,
                bottleneck_per_s=decision.bottleneck_per_s,
                unpaced_per_s=self._pacer.unpaced_per_s,
                ready=None if reading is None else reading.ready,
                consumers=None if reading is None else reading.consumers,
                waiting=len(self._turns),
                in_flight=self._pacer.in_flight,
                sent=self._sent,
                confirmed=self._confirmed,
                refused=self._refused,
                shed=self._shed,
                waited_s=self._waited_s,
                retry_after_s=wait_s,
            )
