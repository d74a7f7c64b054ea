"""The consumer: takes messages within its prefetch, works on them one at a time, settles each only after the work.

A message whose work fails waits here for its next attempt while others go on, then goes to the dead-letter queue with
the reason. What is held when the connection is lost comes again from the broker; what is held at the end is finished
first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import os
import random
import socket
from collections import deque
from collections.abc import Callable

from backpressure.core.journal import Outcome
from backpressure.core.message import Delivery, Metadata
from backpressure.core.recent import RecentHistogram
from backpressure.core.reports import ConsumerReport, encode
from backpressure.core.retry import RetryPolicy
from backpressure.engines.clock import Clock
from backpressure.engines.dead_letters import DeadLetters
from backpressure.engines.prefetch import PrefetchControl
from backpressure.engines.tally import Consumed, Job, Tally
from backpressure.engines.topology import QueueKeeper
from backpressure.engines.waker import Waker
from backpressure.engines.work import HandledWork, Handler, SimulatedWork, Work, Worker
from backpressure.settings import Settings
from backpressure.telemetry.journal import JournalWriter
from backpressure.telemetry.process import ProcessCost
from backpressure.telemetry.tracing import Tracer
from backpressure.transports.base import Transport

__all__ = ["ConsumerEngine"]

log = logging.getLogger(__name__)

_IDLE_S = 0.1  # look around this often, woken or not
_YIELD_EVERY = 64  # messages whose work takes no time: let the event loop have its turn
_RECENT_S = 10.0


class ConsumerEngine:
    """One consumer process. `run` it until what it expects is done or `stop` is called."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        clock: Clock,
        *,
        handler: Handler | None = None,
        journal: JournalWriter | None = None,
        tracer: Tracer | None = None,
        on_progress: Callable[[ConsumerReport], None] | None = None,
        on_consumed: Callable[[Consumed], None] | None = None,
    ) -> None:
        """Wire the consumer; nothing connects yet.

        Args:
            transport: the broker.
            settings: all knobs; see `reconfigure` for those that may change later.
            clock: time.
            handler: does the work; None simulates it at ``consumer.rate``.
            journal: where settled messages are recorded, if anywhere.
            tracer: traces each attempt; None: no traces.
            on_progress: called each ``consumer.progress_every`` settled messages.
            on_consumed: called for every settled message.
        """
        self.settings = settings
        self.id = settings.consumer.name or f"consumer-{os.getpid()}"
        self.api_url = ""
        self.paused = False
        self.tally = Tally(clock, journal)
        self.recent_wait = RecentHistogram(_RECENT_S)
        self._simulated = SimulatedWork(settings.consumer, clock, settings.process.seed) if handler is None else None
        self._worker: Worker = self._simulated or HandledWork(handler, clock)  # type: ignore[arg-type]  # one of the two
        self._transport = transport
        self._clock = clock
        self._tracer = tracer
        self._on_progress = on_progress
        self._on_consumed = on_consumed
        self._subscriber = transport.subscriber()
        self._feedback = transport.feedback()
        self._dead_letters = DeadLetters(transport, settings.queue.dead_letter)
        self._prefetch = PrefetchControl(settings.consumer, self._subscriber)
        self._random = random.Random(settings.process.seed)  # noqa: S311 - jitter, not secrets
        self._retry = _retry_policy(settings)
        self._ready: deque[Job] = deque()
        self._waiting: list[tuple[float, int, Job]] = []  # heap by the time of the next attempt
        self._order_of_retries = itertools.count()
        self._current: Job | None = None
        self._current_since = 0.0
        self._finished_busy_s = 0.0
        self._giving_up: set[asyncio.Task[None]] = set()
        self._waker = Waker()
        self._queues = QueueKeeper(transport, settings.queue, on_restored=self._waker.wake, only_missing=True)
        self._cost = ProcessCost()
        self._host = socket.gethostname()
        self._stopping = False
        self._working: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._out_of_patience = False
        self._next_progress = settings.consumer.progress_every

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, create the queues, consume; raises `TransportError`."""
        await self._queues.create()
        await self._feedback.start()
        await self._subscriber.start(self, queue=self.settings.queue.work, prefetch=self._prefetch.count)

    async def run(self) -> None:
        """Work until `stop`, or until ``consumer.expect`` messages are settled; then finish what is held."""
        ticks = asyncio.create_task(self._report_forever(), name="report")
        self._working = asyncio.create_task(self._work_and_finish(), name="work")
        try:
            await self._working
        except asyncio.CancelledError:
            if not self._out_of_patience:
                raise
            log.warning("stopped in the middle of a message: it goes back to the queue")
        finally:
            if self._patience is not None:
                self._patience.cancel()
            ticks.cancel()
            await asyncio.gather(ticks, return_exceptions=True)

    async def _work_and_finish(self) -> None:
        await self._work(lambda: not self._stopping and not self._satisfied())
        await self._finish_held()

    async def _finish_held(self) -> None:
        await self._subscriber.pause()
        self.paused = False
        if self._satisfied():
            return  # what came beyond the expected number goes back to the queue
        deadline = self._clock.now() + self.settings.consumer.drain_timeout_s
        await self._work(lambda: bool(self._ready or self._giving_up) and self._clock.now() < deadline)

    def stop(self) -> None:
        """Ask `run` to end: within ``consumer.drain_timeout_s``, however long the work at hand would take."""
        if not self._stopping and self._working is not None:
            patience_s = self.settings.consumer.drain_timeout_s
            self._patience = asyncio.get_running_loop().call_later(patience_s, self._abandon)
        self._stopping = True
        self._waker.wake()

    def _abandon(self) -> None:
        if self._working is not None and not self._working.done():
            self._out_of_patience = True
            self._working.cancel()

    async def close(self) -> None:
        """Send the last report and acknowledgements, close the connections."""
        self._feedback.send(encode(self.report()))
        for task in self._giving_up:
            task.cancel()  # not acknowledged: the message goes back to the queue
        await asyncio.gather(*self._giving_up, return_exceptions=True)
        await self._queues.stop()
        await self._dead_letters.stop()
        await self._subscriber.stop()
        await self._feedback.stop()

    def _satisfied(self) -> bool:
        expect = self.settings.consumer.expect
        return bool(expect) and self.tally.settled >= expect

    # --- work -----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Messages delivered and not settled."""
        return len(self._ready) + len(self._waiting) + len(self._giving_up) + (self._current is not None)

    async def _work(self, go_on: Callable[[], bool]) -> None:
        idle_turns = 0
        while go_on():
            job = self._next_job()
            if job is None:
                await self._waker.wait(self._next_attempt_in_s())
                continue
            idle_turns = (idle_turns + 1) % _YIELD_EVERY
            if not idle_turns:
                await asyncio.sleep(0)
            await self._work_on(job)

    def _may_begin(self) -> bool:
        """Whether work on another message may begin: not while paused, nor beyond the expected number."""
        expect = self.settings.consumer.expect
        return not self.paused and not (expect and self.tally.settled + len(self._giving_up) >= expect)

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
                self._acknowledge(job)
            else:
                self._failed(job, work, failure)
        finally:
            self._current = None
        self._finished_busy_s += work.service_s

    async def _perform(self, job: Job) -> tuple[Work, Exception | None]:
        if self._tracer is None:
            return await self._worker.perform(job.delivery, job.metadata, job.available_at)
        with self._tracer.processing(job.delivery, job.metadata, self._clock.wall_ns()) as span:
            work, failure = await self._worker.perform(job.delivery, job.metadata, job.available_at)
            wait_s = job.wait_s(self._clock.to_wall_ns(work.started_at))
            span.end(self._clock.wall_ns(), wait_s, job.attempts + 1, failure)
        return work, failure

    def _failed(self, job: Job, work: Work, failure: Exception) -> None:
        self.tally.failed += 1
        if job.comes_again:
            return
        pause_s = self._retry.pause_s(job.attempts, self._random.random())
        if pause_s is None:
            # Beside the work: while the broker blocks publishing, dead letters wait and everything else goes on.
            task = asyncio.create_task(self._give_up(job, work, failure), name="give up")
            self._giving_up.add(task)
            task.add_done_callback(self._given_up)
        else:
            self.tally.retried += 1
            job.available_at = self._clock.now() + pause_s
            heapq.heappush(self._waiting, (job.available_at, next(self._order_of_retries), job))
        self._make_room()

    def _make_room(self) -> None:
        self._prefetch.set_aside(len(self._waiting) + len(self._giving_up))

    def _acknowledge(self, job: Job) -> None:
        self._prefetch.settling(self.held, self._clock.now())
        self._subscriber.ack(job.delivery)

    async def _give_up(self, job: Job, work: Work, failure: Exception) -> None:
        """Hand the message to the dead-letter queue; only when that is confirmed is it acknowledged."""
        reason = f"{type(failure).__name__}: {failure}"
        try:
            await self._dead_letters.send(job.delivery.message, reason, job.attempts)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the message must not be lost
            log.warning("cannot dead-letter %s (%s): it goes back to the queue", job.delivery.message.message_id, error)
            self._subscriber.nack(job.delivery, requeue=True)
            return
        self._settle(job, work, Outcome.DEAD_LETTERED)
        self._acknowledge(job)

    def _given_up(self, task: asyncio.Task[None]) -> None:
        self._giving_up.discard(task)
        self._waker.wake()

    def _settle(self, job: Job, work: Work, outcome: Outcome) -> None:
        consumed = self.tally.settle(job, work, outcome)
        if self._on_consumed is not None:
            self._on_consumed(consumed)
        self._progress()

    def _progress(self) -> None:
        every = self.settings.consumer.progress_every
        if every and self._on_progress is not None and self.tally.settled >= self._next_progress:
            self._next_progress = (self.tally.settled // every + 1) * every
            self._on_progress(self.report())

    # --- what the broker says (SubscriberListener) -------------------------------------------------------------------

    def on_ready(self) -> None:
        """Consuming has (again) begun."""
        self._waker.wake()

    def on_delivery(self, delivery: Delivery) -> None:
        """A message arrived."""
        now = self._clock.now()
        self.tally.delivered += 1
        self.tally.redelivered += delivery.redelivered
        metadata = Metadata.read(delivery.message)
        job = Job(delivery, metadata, self._clock.to_wall_ns(now), now)
        dry = self._current is None and not self._ready and metadata.session is not None
        self._prefetch.delivered(now, dry_for_s=(job.wait_s(job.received_ns) or 0.0) if dry else 0.0)
        self._ready.append(job)
        self._waker.wake()

    def on_lost(self, error: Exception) -> None:  # noqa: ARG002 - the transport has logged it
        """What is held and not being worked on will be delivered again."""
        self._ready.clear()
        self._waiting.clear()
        if self._current is not None:
            self._current.comes_again = True
        self._queues.lost()

    # --- what others ask ------------------------------------------------------------------------------------------

    def reconfigure(self, settings: Settings) -> None:
        """Go on with other settings: rate, distribution, prefetch, failures, retries."""
        self.settings = settings
        self._retry = _retry_policy(settings)
        self._prefetch.reconfigure(settings.consumer)
        if self._simulated is not None:
            self._simulated.settings = settings.consumer
        self._waker.wake()

    def slow_down(self, factor: float) -> None:
        """Make every service time ``factor`` times what the settings say; 1 is back to normal."""
        if self._simulated is not None:
            self._simulated.factor = factor

    @property
    def cpu_percent(self) -> float:
        """Share of one processor used lately."""
        return self._cost.cpu_percent

    @property
    def slow_down_factor(self) -> float:
        """The factor of the last `slow_down`."""
        return self._simulated.factor if self._simulated is not None else 1.0

    async def pause(self) -> None:
        """Take nothing more and start no more work until `resume`; the work at hand is finished."""
        self.paused = True
        await self._subscriber.pause()

    async def resume(self) -> None:
        """Consume again."""
        self.paused = False
        await self._subscriber.resume()
        self._waker.wake()

    def report(self) -> ConsumerReport:
        """Return the counters now."""
        now = self._clock.now()
        self._cost.refresh(now)
        working_s = now - self._current_since if self._current is not None else 0.0
        return ConsumerReport(
            id=self.id,
            pid=os.getpid(),
            host=self._host,
            at_ns=self._clock.to_wall_ns(now),
            queue=self.settings.queue.work,
            held=self.held,
            prefetch=self._prefetch.count,
            prefetch_auto=self.settings.consumer.prefetch == "auto",
            paused=self.paused,
            capacity_per_s=self._worker.capacity_per_s,
            busy_s=self._finished_busy_s + working_s,
            rss_bytes=self._cost.rss_bytes,
            cpu_s=self._cost.cpu_s,
            api_url=self.api_url,
            **self.tally.report_fields(),
        )

    async def _report_forever(self) -> None:
        while True:
            report = self.report()
            self._make_room()
            now = self._clock.now()
            self._prefetch.tick(report, now)
            self.recent_wait.mark(report.queue_wait, now)
            self._feedback.send(encode(report))
            interval_s = self.settings.feedback.interval_ms / 1000
            due_at = self._clock.now() + interval_s
            await asyncio.sleep(interval_s)
            self._prefetch.stalled(self._clock.now() - due_at, self._clock.now())


def _retry_policy(settings: Settings) -> RetryPolicy:
    retry = settings.retry
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        backoff_min_s=retry.backoff_min_ms / 1000,
        backoff_max_s=retry.backoff_max_ms / 1000,
        multiplier=retry.multiplier,
        jitter=retry.jitter,
    )
