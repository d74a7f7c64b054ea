"""The producer: offers messages on a schedule, sends them at the law's pace, and keeps each until it is settled.

Sending is pipelined: up to ``confirm_window`` messages are in flight and nothing ever waits for a single confirm. Three
things may hold a message back: the schedule (nothing offered yet), the token bucket (the law's rate), and the window
(the broker's answers). Requested messages (`submit`) skip the first two.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from collections.abc import Callable, Sequence
from math import inf, isfinite

from backpressure.core.histogram import Histogram
from backpressure.core.message import MAX_SESSION
from backpressure.core.reports import ProducerReport
from backpressure.core.schedule import ArrivalSchedule
from backpressure.core.signals import Decision
from backpressure.core.token_bucket import TokenBucket
from backpressure.engines.clock import Clock
from backpressure.engines.composer import Composer
from backpressure.engines.outbox import Outbox, Outgoing, Settlement
from backpressure.engines.pacing import Pacing
from backpressure.engines.topology import QueueKeeper
from backpressure.engines.waker import Waker
from backpressure.errors import NotConnectedError
from backpressure.settings import Settings
from backpressure.telemetry.journal import JournalWriter
from backpressure.telemetry.process import ProcessCost
from backpressure.telemetry.tracing import Tracer
from backpressure.transports.base import QueueReading, Transport

__all__ = ["ProducerEngine"]

log = logging.getLogger(__name__)

_SAY_FULL_EVERY_S = 30.0
_SHORTEST_SLEEP_S = 0.002  # messages due within this go out together: one wake-up, one write
_MOST_BUFFERED_BYTES = 4 << 20


class ProducerEngine:
    """One producer process. `run` it until its limit is reached or `stop` is called."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        clock: Clock,
        *,
        journal: JournalWriter | None = None,
        tracer: Tracer | None = None,
        on_progress: Callable[[ProducerReport], None] | None = None,
    ) -> None:
        """Wire the producer; nothing connects yet.

        Args:
            transport: the broker.
            settings: all knobs; see `reconfigure` for those that may change later.
            clock: time.
            journal: where settled messages are recorded, if anywhere.
            tracer: traces messages from their first sending until they are settled; None: no traces.
            on_progress: called each ``producer.progress_every`` settled messages.
        """
        self.settings = settings
        self.session = secrets.randbits(60) & MAX_SESSION
        self._composer = Composer(settings, self.session)
        self.id = self._composer.id
        self.api_url = ""
        self._transport = transport
        self._clock = clock
        self._tracer = tracer
        self._on_progress = on_progress
        self._publisher = transport.publisher()
        self._waker = Waker()
        self._queues = QueueKeeper(transport, settings.queue, on_restored=self._waker.wake)
        self._cost = ProcessCost()
        self._host = socket.gethostname()
        self._outbox = Outbox(
            self.session,
            settings.producer.confirm_window,
            settings.producer.nack_pause_ms / 1000,
            clock,
            journal,
        )
        now = clock.now()
        self._schedule = self._new_schedule(now)
        self._bucket = TokenBucket(settings.producer.rate, settings.producer.burst_ms / 1000, now)
        self._pacing = Pacing(transport, settings, clock, self)
        self._limiter_delay = Histogram()
        self._scheduled = 0
        self._next_progress = settings.producer.progress_every
        self._connected = False
        self._stopping = False
        self._application_limited = False
        self._said_full_at = -inf
        self.paused = settings.producer.start_paused
        self.blocked = False
        self.blocked_events = 0

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, create the queues (and purge them if asked to); raises `TransportError`."""
        await self._queues.create(purge=self.settings.producer.purge)
        await self._publisher.start(self)
        await self._pacing.start()
        self._schedule.restart(self._clock.now())

    async def run(self) -> None:
        """Send until the limit is reached and settled, or until `stop`; then wait for outstanding confirms."""
        tick = asyncio.create_task(self._pacing.run(), name="pacing")
        try:
            while not self._stopping and not self._finished():
                if tick.done():
                    tick.result()  # a law of the user's may fail: better no producer than one out of control
                self._send_due()
                await self._waker.wait(self._pause_s())
            await self._settle_open()
        finally:
            tick.cancel()
            await asyncio.gather(tick, return_exceptions=True)
        await self._pacing.read_queue()  # the closing line says what is in the queue now

    async def _settle_open(self) -> None:
        """Send nothing new; wait a while for the broker to answer for what is in flight."""
        deadline = self._clock.now() + self.settings.producer.drain_timeout_s
        while len(self._outbox.in_flight) and self._clock.now() < deadline:
            await self._waker.wait(min(0.05, self.settings.producer.drain_timeout_s))

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping = True
        self._waker.wake()

    async def close(self) -> None:
        """Journal what stayed open, send the last report, close the connections."""
        self._stopping = True  # nothing requested from now on would ever be sent
        self._outbox.abandon()
        self._pacing.report()
        await self._queues.stop()
        await self._publisher.stop()
        await self._pacing.stop()

    # --- sending --------------------------------------------------------------------------------------------------

    def _finished(self) -> bool:
        limit = self.settings.producer.limit
        return bool(limit) and self._scheduled >= limit and not self._outbox.open

    def _may_send(self) -> bool:
        return (
            self._connected
            and self._queues.in_place
            and not self.blocked
            and self._outbox.in_flight.space > 0
            and self._publisher.write_buffer_bytes < _MOST_BUFFERED_BYTES
        )

    def _send_due(self) -> None:
        """Send what may be sent now: first what is urgent, then refused messages and new ones at the law's pace."""
        now = self._clock.now()
        while self._outbox.urgent and self._may_send():
            self._send(self._outbox.next_urgent())
        if self.paused:
            return
        sent = 0
        while sent < self.settings.producer.batch_size and self._bucket.available(now) >= 1 and self._may_send():
            if self._outbox.due_again(now):
                self._bucket.take(1, now)
                self._send(self._outbox.next_again())
            elif self._offers(now):
                due = self._due(now)
                self._bucket.take(1, now)
                self._scheduled += 1
                self._send(self._composer.scheduled(self._clock.to_wall_ns(due)))
            else:
                self._application_limited = True
                break
            sent += 1

    def _offers(self, now: float) -> bool:
        limit = self.settings.producer.limit
        return (not limit or self._scheduled < limit) and self._schedule.pending(now) > 0

    def _due(self, now: float) -> float:
        """Take the next arrival and return when it should have been sent: when it was offered and the law allowed it.

        A message that leaves late because this process was busy keeps the time it was due at: its delay is real.
        """
        arrived = self._schedule.take()
        due = arrived if self._bucket.rate_per_s == inf else max(arrived, self._bucket.accrued_at(0, now))
        self._limiter_delay.record(due - arrived)
        return due

    def _send(self, item: Outgoing) -> None:
        queue = self.settings.queue
        if self._tracer is not None and item.span is None:
            item.traced(self._tracer.sending(item.message, self._clock.wall_ns()))
        message = item.stamped(self._clock.wall_ns())
        try:
            tag = self._publisher.publish(message, exchange=queue.exchange, routing_key=queue.routing_key)
        except NotConnectedError:
            self._connected = False
            self._outbox.not_sent(item)
            return
        self._outbox.sent(tag, item)

    def _pause_s(self) -> float | None:
        """Return how long nothing can be sent for, or None: until something happens."""
        if not self._may_send() or (self.paused and not self._outbox.urgent):
            return 0.05
        now = self._clock.now()
        waits = [self._schedule.wait_s(now) if not self._limit_reached() else inf]
        if (again := self._outbox.again_wait_s(now)) is not None:
            waits.append(again)
        wait = max(min(waits), self._bucket.wait_s(now))
        if not wait:
            return 0.0  # the batch was full before everything due was sent
        return min(max(wait, _SHORTEST_SLEEP_S), 0.05)

    def _limit_reached(self) -> bool:
        limit = self.settings.producer.limit
        return bool(limit) and self._scheduled >= limit

    # --- what the broker says (PublisherListener) -------------------------------------------------------------------

    def on_ready(self) -> None:
        """A channel is open: what an earlier one left unconfirmed goes out first."""
        self._connected = True
        self.blocked = False
        self._bucket.drain(self._clock.now())
        self._waker.wake()

    def on_confirmed(self, tag: int, multiple: bool) -> None:
        """The broker took it."""
        self._outbox.confirm(tag, multiple=multiple)
        self._after_settling()

    def on_nacked(self, tag: int, multiple: bool) -> None:
        """The broker refused it: the queue is full."""
        now = self._clock.now()
        if now - self._said_full_at >= _SAY_FULL_EVERY_S:
            self._said_full_at = now
            fate = "sent again" if self._composer.retries else "given up"
            log.warning("the queue is full (bound: %s): what it refuses is %s", self.settings.queue.max_length, fate)
        self._outbox.nack(tag, multiple=multiple)
        self._after_settling()

    def on_returned(self, message_id: str | None, reason: str) -> None:
        """No queue is bound for it."""
        self._outbox.mark_returned(message_id, reason)

    def on_blocked(self, reason: str) -> None:
        """An alarm at the broker: stop publishing until it is over."""
        self.blocked = True
        self.blocked_events += 1
        log.warning("the broker blocks publishing: %s", reason)

    def on_unblocked(self) -> None:
        """The alarm is over."""
        self.blocked = False
        log.warning("the broker accepts messages again")
        self._waker.wake()

    def on_lost(self, error: Exception) -> None:  # noqa: ARG002 - the transport has logged it
        """The connection is gone; everything unconfirmed will be published again."""
        self._connected = False
        self._outbox.connection_lost()
        self._queues.lost()

    def _after_settling(self) -> None:
        self._waker.wake()
        every = self.settings.producer.progress_every
        if every and self._on_progress is not None and self._outbox.settled >= self._next_progress:
            self._next_progress = (self._outbox.settled // every + 1) * every
            self._on_progress(self.report())

    # --- what others ask ------------------------------------------------------------------------------------------

    async def submit(
        self, messages: Sequence[tuple[str | None, bytes, float | None]], *, traceparent: str = ""
    ) -> list[Settlement]:
        """Send requested messages ahead of the schedule and return how each ended, in order.

        Args:
            messages: (message id or None for one of ours, body, work asked of the consumer in seconds or None).
            traceparent: the trace they belong to (W3C Trace Context), if it is known.

        Raises:
            NotConnectedError: no broker, or it blocks publishing, or the producer is about to end.
        """
        if self._stopping:
            raise NotConnectedError("the producer is stopping")
        if self.blocked:
            raise NotConnectedError("the broker blocks publishing")
        if not self._connected or not self._queues.in_place:
            raise NotConnectedError("the broker is away")
        loop = asyncio.get_running_loop()
        results = []
        for given_id, body, processing_time_s in messages:
            item = self._composer.requested(given_id, body, processing_time_s, self._clock.wall_ns(), traceparent)
            item.result = loop.create_future()
            self._outbox.add_urgent(item)
            results.append(item.result)
        self._waker.wake()
        return list(await asyncio.gather(*results))

    async def reconfigure(self, settings: Settings) -> None:
        """Go on with other settings: rate, strategy and its parameters, queue bound, batch, window, payload.

        One call at a time: each replaces all settings.

        Raises:
            ConfigError, TransportError: nothing was changed.
        """
        old = self.settings.queue
        self._pacing.check(settings)  # what can be wrong is found out before the broker is asked
        if (settings.queue.max_length, settings.queue.overflow) != (old.max_length, old.overflow):
            await self._queues.set_bound(settings.queue)
        self.settings = settings
        self._pacing.reconfigure(settings)
        now = self._clock.now()
        if not self.paused:
            self._schedule.set_rate(settings.producer.rate, now)
        self._outbox.in_flight.limit = settings.producer.confirm_window
        self._queues.queue = settings.queue
        self._composer.use(settings)
        self._waker.wake()

    async def purge(self) -> int:
        """Drop what is ready in the work queue and return how many messages that were; raises `TransportError`."""
        return await self._queues.purge()

    def pause(self) -> None:
        """Offer nothing more until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Offer messages again, from now on."""
        if self.paused:
            self.paused = False
            now = self._clock.now()
            self._schedule.restart(now)
            self._schedule.set_rate(self.settings.producer.rate, now)
            self._bucket.drain(now)
            self._waker.wake()

    # --- the loop that paces (PacedProducer) ------------------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        """Send at the law's rate from now on."""
        self._bucket.set_rate(decision.rate_per_s, self._clock.now())
        limit = self.settings.producer.confirm_window
        self._outbox.in_flight.limit = min(limit, decision.window or limit)
        self._waker.wake()

    def take_application_limited(self) -> bool:
        """Return whether there was less to send than allowed since the last call."""
        limited, self._application_limited = self._application_limited or self.paused, False
        return limited

    @property
    def decision(self) -> Decision:
        """What the law last decided."""
        return self._pacing.decision

    @property
    def body(self) -> bytes:
        """The body of generated messages."""
        return self._composer.body

    @property
    def message_bytes(self) -> int:
        """About what one message weighs in the broker: body, properties and headers."""
        return self._composer.message_bytes

    @property
    def cpu_percent(self) -> float:
        """Share of one processor used lately."""
        return self._cost.cpu_percent

    @property
    def queue_reading(self) -> QueueReading | None:
        """The last depth the probe read, if any."""
        return self._pacing.reading

    @property
    def depth(self) -> int | None:
        """Ready plus unacked as the law sees it (ready alone where nobody tells of unacked), or None."""
        return self._pacing.signals.depth

    def report(self) -> ProducerReport:
        """Return the counters now."""
        now = self._clock.now()
        self._cost.refresh(now)
        if not self.paused:
            self._schedule.pending(now)
        limit = self.settings.producer.limit
        box, decision, age_s = self._outbox, self._pacing.decision, self._pacing.signals.age_s
        return ProducerReport(
            id=self.id,
            session=self.session,
            pid=os.getpid(),
            host=self._host,
            at_ns=self._clock.wall_ns(),
            queue=self.settings.queue.work,
            offered=min(self._schedule.offered, limit or self._schedule.offered),
            published=box.published,
            confirmed=box.confirmed,
            nacked=box.nacked,
            rejected=box.rejected,
            returned=box.returned,
            republished=box.republished,
            in_flight=len(box.in_flight),
            window=box.in_flight.limit,
            target_rate_per_s=self.settings.producer.rate if self._offering else 0.0,  # the others may have its share
            pacing_rate_per_s=min(decision.rate_per_s, self.settings.producer.rate),
            weight=self.settings.producer.weight,
            application_limited=self._application_limited or not self._offering,
            blocked=self.blocked,
            blocked_events=self.blocked_events,
            strategy=self.settings.producer.strategy,
            reason=decision.reason,
            rss_bytes=self._cost.rss_bytes,
            cpu_s=self._cost.cpu_s,
            bottleneck_per_s=decision.bottleneck_per_s,
            signal_age_s=age_s if isfinite(age_s) else None,
            confirm_latency=box.confirm_latency.copy(),
            limiter_delay=self._limiter_delay.copy(),
            api_url=self.api_url,
        )

    @property
    def _offering(self) -> bool:
        return not (self.paused or self._stopping)

    def _new_schedule(self, now: float) -> ArrivalSchedule:
        producer = self.settings.producer
        seed = self.settings.process.seed
        source = random.Random(seed)  # noqa: S311 - arrival times, not secrets
        gap = (lambda: source.expovariate(1.0)) if producer.arrivals == "poisson" else None
        return ArrivalSchedule(producer.rate, producer.burst_ms / 1000, now, gap)
