"""Where a consumer works: deliveries wait here, are worked on one at a time, and settled only after the work.

A message whose work fails waits for its next attempt while others are worked on; after the last attempt it goes to the
dead-letter queue with the reason. What is held when the connection is lost is redelivered by the broker.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable

from backpressure.core.journal import Outcome
from backpressure.core.message import Delivery, Metadata
from backpressure.core.reports import REPORT_HEADER, told_interval_s
from backpressure.derived import retry_policy
from backpressure.engines.clock import Clock, Waker
from backpressure.engines.confirming import DeadLetters
from backpressure.engines.prefetch import PrefetchControl
from backpressure.engines.tally import Consumed, Job, Tally
from backpressure.engines.topology import QueueKeeper
from backpressure.engines.work import Work, Worker
from backpressure.errors import UncarriableError
from backpressure.settings import Settings
from backpressure.telemetry.tracing import Tracer
from backpressure.transports.base import Transport

log = logging.getLogger(__name__)

_IDLE_S = 0.1  # look this often without being woken
_YIELD_EVERY = 64  # messages whose work takes no time: let the event loop have its turn


class Workbench:
    """Subscriber, prefetch, attempts and settlements of one consumer (a `SubscriberListener`).

    Attributes:
        queues: keeps the queues in place.
        prefetch: how many may be held.
        waker: ends a wait when something has happened.
        paused: no more work is begun.
        expect: begin no more work once this many are settled; 0: no limit.
        told_interval: when the last message of this project's producers came, and how often it says to report, seconds
            (None: as often as usual).
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        clock: Clock,
        *,
        worker: Worker,
        tally: Tally,
        tracer: Tracer | None,
        on_settled: Callable[[Consumed], None],
    ) -> None:
        """Wire it; nothing connects yet. ``on_settled`` is called for every settled message."""
        self._clock = clock
        self._worker = worker
        self._tally = tally
        self._tracer = tracer
        self._on_settled = on_settled
        self._queue = settings.queue.work
        self._random = random.Random(settings.process.seed)  # noqa: S311 - jitter, not secrets
        self._retry = retry_policy(settings)
        self._dead_letters = DeadLetters(transport, settings.queue)
        self._give_up_by = settings.queue.give_up if settings.queue.predeclared else "publish"
        self._subscriber = transport.subscriber()
        self.prefetch = PrefetchControl(settings.consumer, self._subscriber)
        self.waker = Waker()
        self.queues = QueueKeeper(transport, settings.queue, on_restored=self.waker.wake, for_consumer=True)
        self.paused = False
        self.connected = False
        self.told_interval: tuple[float, float | None] | None = None
        self.expect = settings.consumer.expect
        self._ready: deque[Job] = deque()
        self._waiting: list[tuple[float, int, Job]] = []  # heap by the time of the next attempt
        self._order_of_retries = itertools.count()
        self._current: Job | None = None
        self._current_since = 0.0
        self._finished_busy_s = 0.0
        self._giving_up: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Consume; raises `TransportError`."""
        await self._subscriber.start(self, queue=self._queue, prefetch=self.prefetch.count)

    async def stop(self) -> None:
        """Send the acknowledgements and close; what is not settled goes back to the queue."""
        for task in self._giving_up:
            task.cancel()  # not acknowledged: the message goes back to the queue
        await asyncio.gather(*self._giving_up, return_exceptions=True)
        await self.queues.stop()
        await self._dead_letters.stop()
        await self._subscriber.stop()

    def use(self, settings: Settings) -> None:
        """Switch to other settings: prefetch, retries, the number that is expected."""
        self.expect = settings.consumer.expect
        self._retry = retry_policy(settings)
        self.prefetch.reconfigure(settings.consumer)
        self.waker.wake()

    @property
    def rejects(self) -> bool:
        """Whether the broker dead-letters what failed too often, by the queue's own dead-letter exchange."""
        found = self.queues.found
        by_itself = found is not None and bool(found.dead_letters)
        return self._give_up_by == "reject" or (self._give_up_by == "auto" and by_itself)

    @property
    def held(self) -> int:
        """Messages delivered and not settled."""
        return len(self._ready) + len(self._waiting) + len(self._giving_up) + (self._current is not None)

    @property
    def unfinished(self) -> bool:
        """Whether something can be finished now; a message that waits for another attempt cannot."""
        return bool(self._ready or self._giving_up)

    @property
    def satisfied(self) -> bool:
        """Whether as many are settled as were expected; never, where no number is expected."""
        return bool(self.expect) and self._tally.settled >= self.expect

    async def pause(self) -> None:
        """Take nothing more and begin no more work until `resume`."""
        self.paused = True
        await self._subscriber.pause()

    async def resume(self) -> None:
        """Take messages again."""
        self.paused = False
        await self._subscriber.resume()
        self.waker.wake()

    async def take_no_more(self) -> None:
        """Take nothing more, but continue the work, so that what is held can be finished."""
        await self._subscriber.pause()
        self.paused = False

    def busy_s(self, now: float) -> float:
        """Return the seconds spent working, including the current work."""
        return self._finished_busy_s + self.working_s(now)

    def working_s(self, now: float) -> float:
        """Return how long the current work has taken so far."""
        return now - self._current_since if self._current is not None else 0.0

    def make_room(self) -> None:
        """Make room in the prefetch for messages that wait for another attempt or are being dead-lettered."""
        self.prefetch.set_aside(len(self._waiting) + len(self._giving_up))

    # --- work -----------------------------------------------------------------------------------------------------

    async def work(self, go_on: Callable[[], bool]) -> None:
        """Work on whatever there is, as long as ``go_on()``."""
        turns = 0
        while go_on():
            job = self._next_job()
            if job is None:
                await self.waker.wait(self._next_attempt_in_s())
                continue
            turns = (turns + 1) % _YIELD_EVERY
            if not turns:
                await asyncio.sleep(0)
            await self._work_on(job)

    def _may_begin(self) -> bool:
        """Whether work on another message may begin: not while paused, nor beyond the expected number."""
        return not self.paused and not (self.expect and self._tally.settled + len(self._giving_up) >= self.expect)

    def _next_job(self) -> Job | None:
        if not self._may_begin():
            return None
        if self._waiting and self._waiting[0][0] <= self._clock.now():
            return heapq.heappop(self._waiting)[2]
        return self._ready.popleft() if self._ready else None

    def _next_attempt_in_s(self) -> float:
        if not self._waiting or not self._may_begin():
            return _IDLE_S
        return min(max(self._waiting[0][0] - self._clock.now(), 0.0), _IDLE_S)

    async def _work_on(self, job: Job) -> None:
        self._current, self._current_since = job, self._clock.now()
        try:
            work, failure = await self._perform(job)
            job.attempts += 1
            if failure is None:
                self._settle(job, work, Outcome.PROCESSED)
            else:
                self._failed(job, work, failure)
        finally:
            self._current = None
        # Simulated work of no length still takes time to handle, which tells a law how much more the consumer can do.
        self._finished_busy_s += work.service_s or self._clock.now() - self._current_since

    async def _perform(self, job: Job) -> tuple[Work, Exception | None]:
        if self._tracer is None:
            return await self._worker.perform(job.delivery, job.metadata, job.available_at)
        with self._tracer.processing(job.delivery, job.metadata, self._clock.wall_ns()) as span:
            work, failure = await self._worker.perform(job.delivery, job.metadata, job.available_at)
            wait_s = job.wait_s(self._clock.to_wall_ns(work.started_at))
            span.end(self._clock.wall_ns(), wait_s, job.attempts + 1, failure)
        return work, failure

    def _settle(self, job: Job, work: Work, outcome: Outcome, *, by_the_broker: bool = False) -> None:
        self._on_settled(self._tally.settle(job, work, outcome))
        self.prefetch.settling(self.held, self._clock.now())
        if by_the_broker:
            self._subscriber.nack(job.delivery, requeue=False)
        else:
            self._subscriber.ack(job.delivery)

    def _failed(self, job: Job, work: Work, failure: Exception) -> None:
        self._tally.failed += 1
        if job.comes_again:
            return
        pause_s = self._retry.pause_s(job.attempts, self._random.random())
        if pause_s is None:
            # In the background: while the broker blocks publishing, dead letters wait and everything else continues.
            task = asyncio.create_task(self._give_up(job, work, failure), name="give up")
            self._giving_up.add(task)
            task.add_done_callback(self._given_up)
        else:
            self._tally.retried += 1
            job.available_at = self._clock.now() + pause_s
            heapq.heappush(self._waiting, (job.available_at, next(self._order_of_retries), job))
        self.make_room()

    async def _give_up(self, job: Job, work: Work, failure: Exception) -> None:
        """Hand the message to the dead-letter queue; only when that is confirmed is it acknowledged."""
        reason = f"{type(failure).__name__}: {failure}"
        name = job.delivery.message.message_id or "a message without id"
        if self.rejects:
            log.warning("%s is rejected after %d attempts: %s", name, job.attempts, reason)
            self._settle(job, work, Outcome.DEAD_LETTERED, by_the_broker=True)
            return
        try:
            await self._dead_letters.send(job.delivery, reason, job.attempts)
        except UncarriableError as error:
            log.warning("%s is dead-lettered by the broker, without the reason (%s)", name, error)
            self._settle(job, work, Outcome.DEAD_LETTERED, by_the_broker=True)
            return
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the message must not be lost
            log.warning("cannot dead-letter %s (%s): it goes back to the queue", name, error)
            self._subscriber.nack(job.delivery, requeue=True)
            return
        self._settle(job, work, Outcome.DEAD_LETTERED)

    def _given_up(self, task: asyncio.Task[None]) -> None:
        self._giving_up.discard(task)
        self.waker.wake()

    # --- what the broker says (SubscriberListener) -------------------------------------------------------------------

    def on_ready(self) -> None:
        """Consuming has (again) begun."""
        self.connected = True
        self.prefetch.connected(self._subscriber.round_trip_s)
        self.waker.wake()

    def on_delivery(self, delivery: Delivery) -> None:
        """A message arrived."""
        now = self._clock.now()
        self._tally.delivered += 1
        self._tally.redelivered += delivery.redelivered
        metadata = Metadata.read(delivery.message)
        if metadata.session is not None:
            self.told_interval = now, told_interval_s(delivery.message.headers.get(REPORT_HEADER))
        job = Job(delivery, metadata, self._clock.to_wall_ns(now), now)
        dry = self._current is None and not self._ready and metadata.session is not None
        self.prefetch.delivered(now, dry_for_s=(job.wait_s(job.received_ns) or 0.0) if dry else 0.0)
        self._ready.append(job)
        self.waker.wake()

    def on_lost(self, error: Exception) -> None:  # noqa: ARG002 - the transport has logged it
        """What is held and not being worked on will be delivered again."""
        self.connected = False
        self._ready.clear()
        self._waiting.clear()
        if self._current is not None:
            self._current.comes_again = True
        self.queues.lost()
