"""The producer: a sender and the loop that paces it, for as long as there is something to send.

`Sender` decides what leaves when, `Pacing` how fast it may leave. This module starts, drives and stops them, and serves
requests: for single messages, for other settings, for the counters.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from math import isfinite

from backpressure.core.journal import Outcome
from backpressure.core.message import MAX_SESSION
from backpressure.core.reports import ProducerReport
from backpressure.core.signals import Decision
from backpressure.derived import law_config, own_limit_per_s, retries
from backpressure.engines.clock import Clock
from backpressure.engines.outbox import Outgoing, Settlement
from backpressure.engines.pacing import MISSING_QUEUE, Pacing
from backpressure.engines.payloads import PayloadSource
from backpressure.engines.sender import Sender
from backpressure.errors import NotConnectedError, RefusedError
from backpressure.laws import create
from backpressure.settings import Settings
from backpressure.telemetry.journal_file import JournalWriter
from backpressure.telemetry.own_process import ProcessCost
from backpressure.telemetry.tracing import Tracer
from backpressure.transports.base import QueueReading, Transport

log = logging.getLogger(__name__)

_BLOCKED_PATIENCE_S = 2.0  # a broker that takes nothing, or is away, hardly answers within the rest of the patience


class ProducerEngine:
    """One producer process. `run` it until its limit is reached or `stop` is called.

    Attributes:
        settings: those in force.
        session: identity of this producer in message ids and reports.
        api_url: where its control API is; "" without one.
        job_done: whether it has ended because all messages of a job with an end are settled.
        bounds_queues: whether the queue has a bound that is ours to set.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        clock: Clock,
        *,
        journal: JournalWriter | None = None,
        tracer: Tracer | None = None,
        on_progress: Callable[[ProducerReport], None] | None = None,
        source: PayloadSource | None = None,
    ) -> None:
        """Wire the producer; nothing connects yet.

        Args:
            transport: the broker.
            settings: all knobs; see `reconfigure` for those that may change later.
            clock: time.
            journal: where settled messages are recorded, if anywhere.
            tracer: traces messages from their first sending until they are settled; None: no traces.
            on_progress: called each ``producer.progress_every`` settled messages.
            source: makes body and headers; None: they follow from the settings.
        """
        self.bounds_queues = transport.bounds_queues and not settings.queue.predeclared
        self.settings = settings if self.bounds_queues else _unbounded(settings)
        self.session = secrets.randbits(60) & MAX_SESSION
        self.api_url = ""
        self._clock = clock
        self._on_progress = on_progress
        law = create(settings.producer.strategy, law_config(settings))
        self._sender = Sender(
            transport,
            settings,
            self.session,
            clock,
            retries=retries(settings, law),
            journal=journal,
            tracer=tracer,
            on_settled=self._progress,
            source=source,
        )
        self._source = source
        self.job_done = False
        self._submissions = Submissions(self._sender)
        self._pacing = Pacing(
            settings,
            clock,
            self._sender,
            law=law,
            probe=transport.probe(),
            feedback=transport.feedback(),
            report=self.report,
            ask_for_reports=self._sender.composer.ask_for_reports,
        )
        self._cost = ProcessCost()
        self._host = socket.gethostname()
        self._next_progress = settings.producer.progress_every

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, create the queues (and purge them if asked to); raises `TransportError`."""
        await self._sender.queues.create(purge=self.settings.producer.purge)
        await self._sender.start()
        await self._pacing.start()
        self._sender.schedule.restart(self._clock.now())

    async def run(self) -> None:
        """Send until the limit is reached and settled, or until `stop`; then wait for outstanding confirms.

        Raises `PaceError` at the end when the source of payloads has failed.
        """
        sender = self._sender
        tick = asyncio.create_task(self._pacing.run(), name="pacing")
        tasks = [tick]
        if self._source is not None:
            tasks.append(asyncio.create_task(self._source.run(sender.waker.wake), name="payloads"))
        try:
            while not sender.stopping and not (sender.limit_reached and not sender.outbox.open):
                if tick.done():
                    tick.result()  # a user's own law may fail: no producer is better than one out of control
                sender.send_due()
                await sender.waker.wait(sender.pause_s())
            self.job_done = not sender.stopping
            await self._settle_open()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not len(sender.outbox.in_flight):  # else the broker answers nothing
            await self._pacing.read_queue_anew()  # the closing line says what is in the queue now
        if self._source is not None and self._source.failure is not None:
            raise self._source.failure

    async def _settle_open(self) -> None:
        """Send nothing new; wait a while for the broker to answer for what is in flight, less while it blocks."""
        begun, patience_s = self._clock.now(), self.settings.producer.drain_timeout_s
        while len(self._sender.outbox.in_flight):
            most_s = min(patience_s, _BLOCKED_PATIENCE_S) if self._sender.blocked else patience_s
            if self._clock.now() >= begun + most_s:
                return
            await self._sender.waker.wait(min(0.05, patience_s))

    def stop(self) -> None:
        """Ask `run` to end."""
        self._sender.stopping = True
        self._sender.waker.wake()

    async def close(self) -> None:
        """Journal what stayed open, send the last report, close the connections."""
        self._sender.stopping = True  # nothing requested from now on would ever be sent
        self._sender.outbox.abandon()
        if unsettled := self._sender.outbox.unsettled:
            log.warning("%d messages had no answer of the broker at the end: they may have arrived or not", unsettled)
        self._pacing.report(last=True)
        await self._sender.stop()
        await self._pacing.stop()

    def _progress(self) -> None:
        every, settled = self.settings.producer.progress_every, self._sender.outbox.settled
        if every and self._on_progress is not None and settled >= self._next_progress:
            self._next_progress = (settled // every + 1) * every
            self._on_progress(self.report())

    # --- what others ask ------------------------------------------------------------------------------------------

    async def submit(
        self, messages: Sequence[tuple[str | None, bytes, float | None]], *, traceparent: str = ""
    ) -> list[Settlement]:
        """Send requested messages ahead of the schedule and return how each ended, in order.

        One that the broker has not answered for in ten seconds is unsettled, and may still arrive.

        Args:
            messages: (message id or None for one of ours, body, work asked of the consumer in seconds or None).
            traceparent: the trace they belong to (W3C Trace Context), if it is known.

        Raises:
            NotConnectedError: no broker, or it blocks publishing, or the producer is about to end.
            RefusedError: too much was asked for and is not sent yet.
        """
        if self._sender.stopping:
            raise NotConnectedError("the producer is stopping")
        return await self._submissions.submit(messages, traceparent, self.settings.producer.confirm_window)

    async def reconfigure(self, settings: Settings) -> None:
        """Switch to other settings: rate, strategy and its parameters, queue bound, batch, window, payload.

        One call at a time: each replaces all settings.

        Raises:
            ConfigError, TransportError: nothing was changed.
        """
        old = self.settings.queue
        law = self._pacing.law_for(settings)  # what can be wrong is found out before the broker is asked
        if (settings.queue.max_length, settings.queue.overflow) != (old.max_length, old.overflow):
            await self._sender.queues.set_bound(settings.queue)
        self.settings = settings
        self._pacing.use(settings, law)
        self._sender.use(settings, retries=retries(settings, law))

    async def purge(self) -> int:
        """Drop what is ready in the work queue and return how many messages that were; raises `TransportError`."""
        return await self._sender.queues.purge()

    def pause(self) -> None:
        """Offer nothing more until `resume`."""
        self._sender.pause()

    def resume(self) -> None:
        """Offer messages again, from now on."""
        self._sender.resume()

    # --- what it looks like from outside ----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Who the messages say they are from."""
        return self._sender.composer.id

    @property
    def paused(self) -> bool:
        """Whether nothing is offered."""
        return self._sender.paused

    @property
    def blocked(self) -> bool:
        """Whether the broker has told it to stop publishing."""
        return self._sender.blocked

    @property
    def obstacle(self) -> str:
        """What keeps it from sending now; empty while nothing does."""
        if self._sender.stopping:
            return "it is stopping"
        if self._sender.lacks_queue:
            return MISSING_QUEUE
        if not self._sender.connected:
            return "the broker is away"
        return "the broker blocks publishing" if self.blocked else ""

    @property
    def decision(self) -> Decision:
        """What the law last decided."""
        return self._pacing.decision

    @property
    def body(self) -> bytes:
        """The body of generated messages."""
        return self._sender.composer.body

    @property
    def message_bytes(self) -> int:
        """Roughly the bytes of one message in the broker: body, properties and headers."""
        return self._sender.composer.message_bytes

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
        """Ready plus unacked as the law sees it (ready alone where unacked is unknown), or None."""
        return self._pacing.signals.depth

    def report(self) -> ProducerReport:
        """Return the counters now."""
        now = self._clock.now()
        self._cost.refresh(now)
        sender = self._sender
        if not sender.paused:
            sender.schedule.pending(now)
        target = sender.offered_per_s
        limit, offered = self.settings.producer.limit, sender.schedule.offered
        if sender.ran_out:
            limit = sender.scheduled  # what the schedule goes on to offer does not exist
        box, decision, age_s = sender.outbox, self._pacing.decision, self._pacing.signals.age_s
        return ProducerReport(
            id=self.id,
            session=self.session,
            pid=os.getpid(),
            host=self._host,
            at_ns=self._clock.wall_ns(),
            queue=self.settings.queue.work,
            offered=min(offered, limit or offered),
            published=box.published,
            confirmed=box.confirmed,
            nacked=box.nacked,
            rejected=box.rejected,
            returned=box.returned,
            republished=box.republished,
            in_flight=len(box.in_flight),
            window=box.in_flight.limit,
            target_rate_per_s=target,
            usable_rate_per_s=min(target, own_limit_per_s(self.settings, self._pacing.law)),
            pacing_rate_per_s=min(decision.rate_per_s, self.settings.producer.offered_per_s),
            weight=self.settings.producer.weight,
            application_limited=sender.was_limited or target == 0,
            blocked=sender.blocked,
            blocked_events=sender.blocked_events,
            strategy=self.settings.producer.strategy,
            reason=decision.reason,
            rss_bytes=self._cost.rss_bytes,
            cpu_s=self._cost.cpu_s,
            bottleneck_per_s=decision.bottleneck_per_s,
            signal_age_s=age_s if isfinite(age_s) else None,
            signal_quality=self._pacing.signals.told_quality,
            unpaced_per_s=self._pacing.signals.unpaced_per_s,
            tick_lateness_s=self._pacing.lateness_s,
            confirm_latency=box.confirm_latency.copy(),
            limiter_delay=sender.limiter_delay.copy(),
            tick_lateness=self._pacing.lateness.copy(),
            api_url=self.api_url,
        )


def _unbounded(settings: Settings) -> Settings:
    queue = settings.queue.model_copy(update={"max_length": None, "max_length_bytes": None})
    return settings.model_copy(update={"queue": queue})


_PATIENCE_S = 10.0
_WINDOWS = 10
_MOST_BYTES = 64 << 20


class Submissions:
    """Messages on request: sent ahead of the schedule, and answered when the broker has answered.

    No caller waits forever. What waits is bounded in number and in bytes; a request beyond that is refused at once.
    """

    def __init__(self, sender: Sender) -> None:
        """``sender`` sends it."""
        self._sender = sender
        self._open = self._open_bytes = 0

    async def submit(
        self, messages: Sequence[tuple[str | None, bytes, float | None]], traceparent: str, window: int
    ) -> list[Settlement]:
        """Send ``messages``, unless ten windows are open already; see `ProducerEngine.submit`."""
        if self._sender.blocked:
            raise NotConnectedError("the broker blocks publishing")
        if not self._sender.connected:
            raise NotConnectedError(MISSING_QUEUE if self._sender.lacks_queue else "the broker is away")
        if self._open >= _WINDOWS * window or self._open_bytes >= _MOST_BYTES:
            raise RefusedError(f"{self._open} requested messages wait for the broker already")
        items = [self._request(*message, traceparent) for message in messages]
        waiting = {item.result for item in items if item.result is not None}
        while waiting:
            _, still = await asyncio.wait(waiting, timeout=_PATIENCE_S)
            if len(still) == len(waiting):
                break  # no answer in all this time
            waiting = still
        return [_settlement(item) for item in items]

    def _request(
        self, given_id: str | None, body: bytes, processing_time_s: float | None, traceparent: str
    ) -> Outgoing:
        item = self._sender.request(given_id, body, processing_time_s, traceparent)
        item.result = asyncio.get_running_loop().create_future()
        self._open += 1
        self._open_bytes += len(body)
        item.result.add_done_callback(lambda _: self._closed(len(body)))
        return item

    def _closed(self, size_bytes: int) -> None:
        self._open -= 1
        self._open_bytes -= size_bytes


def _settlement(item: Outgoing) -> Settlement:
    if item.result is not None and item.result.done():
        return item.result.result()
    reason = f"the broker has not answered for {_PATIENCE_S:g} s, so it may still arrive"
    return Settlement(item.message.message_id or "", Outcome.UNSETTLED, reason, may_have_arrived=True)
