"""The consumer: a workbench, the reports from which producers learn its pace, and an end that loses nothing.

`Workbench` decides what is worked on, when, and how it is settled. Before the consumer ends it finishes what it holds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from math import inf

from backpressure.core.histogram import RecentHistogram
from backpressure.core.reports import ConsumerReport, encode_compact
from backpressure.core.turns import ReportTurns, decode_interval
from backpressure.engines.clock import Clock
from backpressure.engines.tally import Consumed, Tally
from backpressure.engines.work import HandledWork, Handler, SimulatedWork, Worker
from backpressure.engines.workbench import Workbench
from backpressure.errors import FeedbackError, TransportError
from backpressure.settings import Settings
from backpressure.telemetry.journal_file import JournalWriter
from backpressure.telemetry.own_process import ProcessCost
from backpressure.telemetry.tracing import Tracer
from backpressure.transports.base import QueueProbe, Transport

log = logging.getLogger(__name__)

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
        self.id = settings.consumer.identity()
        self.api_url = ""
        self.tally = Tally(clock, journal)
        self.recent_wait = RecentHistogram(_RECENT_S)
        self._simulated = SimulatedWork(settings.consumer, clock, settings.process.seed) if handler is None else None
        self._worker: Worker = self._simulated or HandledWork(handler, clock)  # type: ignore[arg-type]  # one of the two
        self._bench = Workbench(
            transport,
            settings,
            clock,
            worker=self._worker,
            tally=self.tally,
            tracer=tracer,
            on_settled=self._settled,
        )
        self._others = OtherConsumers(transport, settings.queue.work, clock)
        self._feedback = transport.feedback()
        self._turns = ReportTurns(settings.feedback.interval_ms / 1000, random.random)
        self._clock = clock
        self._on_progress = on_progress
        self._on_consumed = on_consumed
        self._cost = ProcessCost()
        self._host = socket.gethostname()
        self._next_progress = settings.consumer.progress_every
        self._stopping = False
        self._working: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._out_of_patience = False

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, create the queues, consume; raises `TransportError`."""
        await self._bench.queues.create()
        self._say_what_becomes_of_failures()
        await self._bench.start()  # before the feedback: a consumer that is not let in creates no exchange for reports
        await self._feedback.start(on_answer=self._on_answer)

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
        bench = self._bench
        await bench.work(lambda: not self._stopping and not bench.satisfied)
        if self.tally.order.gaps and not bench.paused:
            await self._others.look()
        await bench.take_no_more()
        if bench.satisfied:
            return  # what came beyond the expected number goes back to the queue
        deadline = self._clock.now() + self.settings.consumer.drain_timeout_s
        await bench.work(lambda: bench.unfinished and self._clock.now() < deadline)

    def stop(self) -> None:
        """Ask `run` to end within ``consumer.drain_timeout_s``, however long the present work would take."""
        if not self._stopping and self._working is not None:
            patience_s = self.settings.consumer.drain_timeout_s
            self._patience = asyncio.get_running_loop().call_later(patience_s, self._abandon)
        self._stopping = True
        self._bench.waker.wake()

    def _abandon(self) -> None:
        if self._working is not None and not self._working.done():
            self._out_of_patience = True
            self._working.cancel()

    async def close(self) -> None:
        """Send the last report and acknowledgements, close the connections."""
        self._feedback.send(encode_compact(self.report()))
        await self._others.stop()
        await self._bench.stop()
        await self._feedback.stop()

    def _say_what_becomes_of_failures(self) -> None:
        queue, found = self.settings.queue, self._bench.queues.found
        if found is None:
            return
        start = f"{queue.work} is used as it is; a message that fails {self.settings.retry.max_attempts} times"
        if self._bench.rejects:
            log.info("%s is rejected to the queue's dead-letter exchange", start)
            return
        reason = "the queue has no dead-letter exchange that leads to a queue"
        if found.dead_letters is None:
            reason = f"whether the queue has a dead-letter exchange is unknown: {found.unknown_because}"
        if queue.give_up == "publish":
            reason = "queue.give_up = publish"
        if found.has_dead_letter_queue:
            log.info("%s is published to %s (%s)", start, queue.dead_letter, reason)
        else:
            advice = f"there is no queue {queue.dead_letter}; name one with PACE_QUEUE__DEAD_LETTER"
            known = "" if found.dead_letters is False else ", or set PACE_QUEUE__GIVE_UP=reject if it has one"
            log.warning("%s goes back to the queue (%s; %s%s)", start, reason, advice, known)

    def _settled(self, consumed: Consumed) -> None:
        if self._on_consumed is not None:
            self._on_consumed(consumed)
        every = self.settings.consumer.progress_every
        if every and self._on_progress is not None and self.tally.settled >= self._next_progress:
            self._next_progress = (self.tally.settled // every + 1) * every
            self._on_progress(self.report())

    # --- what others ask ------------------------------------------------------------------------------------------

    def reconfigure(self, settings: Settings) -> None:
        """Switch to other settings: rate, distribution, prefetch, failures, retries."""
        self.settings = settings
        self._bench.use(settings)
        if self._simulated is not None:
            self._simulated.settings = settings.consumer

    def slow_down(self, factor: float) -> None:
        """Make every service time ``factor`` times what the settings say; 1 is back to normal."""
        if self._simulated is not None:
            self._simulated.factor = factor

    async def pause(self) -> None:
        """Take nothing more and start no more work until `resume`; the present work is finished."""
        await self._bench.pause()

    async def resume(self) -> None:
        """Consume again."""
        await self._bench.resume()

    # --- what it looks like from outside ----------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether no more work is begun."""
        return self._bench.paused

    @property
    def obstacle(self) -> str:
        """What keeps it from taking messages now; empty while nothing does, or only a pause that was asked for."""
        if self._stopping:
            return "it is stopping"
        return "" if self._bench.connected else "the broker is away"

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping

    @property
    def held(self) -> int:
        """Messages delivered and not settled."""
        return self._bench.held

    @property
    def gaps(self) -> int | None:
        """Messages missing between each producer's first and last; None where another consumer may have them."""
        gaps = self.tally.order.gaps
        return gaps if not gaps or self._others.shared is False else None

    @property
    def cpu_percent(self) -> float:
        """Share of one processor used lately."""
        return self._cost.cpu_percent

    @property
    def slow_down_factor(self) -> float:
        """The factor of the last `slow_down`."""
        return self._simulated.factor if self._simulated is not None else 1.0

    def report(self) -> ConsumerReport:
        """Return the counters now."""
        now = self._clock.now()
        self._cost.refresh(now)
        return ConsumerReport(
            id=self.id,
            pid=os.getpid(),
            host=self._host,
            at_ns=self._clock.to_wall_ns(now),
            queue=self.settings.queue.work,
            held=self.held,
            prefetch=self._bench.prefetch.count,
            prefetch_auto=self.settings.consumer.prefetch == "auto",
            paused=self.paused,
            capacity_per_s=self._worker.capacity_per_s,
            busy_s=self._bench.busy_s(now),
            rss_bytes=self._cost.rss_bytes,
            cpu_s=self._cost.cpu_s,
            api_url=self.api_url,
            **self.tally.report_fields(),
        )

    async def _report_forever(self) -> None:
        prefetch, turns = self._bench.prefetch, self._turns
        while True:
            interval_s = turns.usual_s = self.settings.feedback.interval_ms / 1000
            now = self._clock.now()
            if self._bench.told_interval is not None:
                told_at, every_s = self._bench.told_interval
                self._bench.told_interval = None
                turns.tell(every_s, told_at)
            report = self.report()
            turn = turns.look(report, now, self._bench.working_s(now))
            self._bench.make_room()
            prefetch.tick(report, now)
            self.recent_wait.mark(report.queue_wait, now)
            if turn is not None:
                self._feedback.send(encode_compact(report, brief=turn.brief), asks=turn.asks)
            if self.tally.order.gaps and not self.paused:
                self._others.look_now_and_then()
            due_at = self._clock.now() + interval_s
            await asyncio.sleep(interval_s)
            prefetch.stalled(self._clock.now() - due_at, self._clock.now())

    def _on_answer(self, payload: bytes) -> None:
        """A producer tells how often to report: messages do not, or none came lately."""
        with suppress(FeedbackError):
            queue, every_s = decode_interval(payload)
            if queue == self.settings.queue.work:
                self._turns.tell(every_s, self._clock.now())


_EVERY_S = 1.0
_PATIENCE_S = 1.0


class OtherConsumers:
    """Whether a consumer is alone on its queue: only then is a message that it never saw a missing one.

    Looking takes a connection of its own, opened at the first look; a consumer looks only when ids are missing.

    Attributes:
        shared: whether another consumer was seen at any look; None: not known.
    """

    def __init__(self, transport: Transport, queue: str, clock: Clock) -> None:
        """Connect at the first look."""
        self.shared: bool | None = None
        self._transport = transport
        self._queue = queue
        self._clock = clock
        self._probe: QueueProbe | None = None
        self._looked_at = -inf
        self._looking: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()  # a look that fails closes the connection: not under another look

    def look_now_and_then(self) -> None:
        """Look in the background, at most once a second, until another consumer is seen."""
        now = self._clock.now()
        if not self.shared and now - self._looked_at >= _EVERY_S and (self._looking is None or self._looking.done()):
            self._looked_at = now
            self._looking = asyncio.create_task(self._read(), name="other consumers")

    async def look(self) -> None:
        """Look now, unless another consumer was seen before; this consumer must be consuming."""
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)
        if not self.shared:
            await self._read()

    async def stop(self) -> None:
        """Close the connection, if there is one."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._probe is not None:
            probe, self._probe = self._probe, None
            await probe.stop()

    async def _read(self) -> None:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    if self._probe is None:
                        self._probe = self._transport.probe()
                        await self._probe.start()
                    consumers = (await self._probe.read(self._queue)).consumers
            except (TransportError, TimeoutError):
                await self._disconnect()
                return
        if consumers is not None:
            self.shared = bool(self.shared) or consumers > 1
