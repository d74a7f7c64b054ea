"""The monitor's engine: watches the loop from outside, by probe, feedback and, where there is one, management API.

It only listens: nothing here changes the experiment. It continues without any of its sources: values of a source that
does not answer age, become unknown, and return with the source. It neither draws nor serves what it sees.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from operator import itemgetter

from backpressure.core.reports import ConsumerReport, ProducerReport, decode, sender_of
from backpressure.core.snapshot import (
    ADDRESS_UNKNOWN,
    BrokerState,
    Event,
    Glance,
    Quantiles,
    QueueState,
    Rates,
    Snapshot,
    Source,
    Threshold,
    Totals,
)
from backpressure.engines import observer_view as view
from backpressure.engines.clock import Clock
from backpressure.engines.observer_events import EventWatch
from backpressure.engines.observer_queues import QueueWatch
from backpressure.engines.observer_view import ManagementReader, broker_state, listed_queues
from backpressure.engines.rates import Roster
from backpressure.errors import (
    AccessRefusedError,
    AnotherBrokerError,
    BrokerUnavailableError,
    FeedbackError,
    NotConnectedError,
    PaceError,
    QueueNotFoundError,
    TransportError,
)
from backpressure.settings import Settings
from backpressure.transports.base import QueueProbe, Transport
from backpressure.transports.management_models import NodeInfo, QueueInfo

log = logging.getLogger(__name__)

# About as often as RabbitMQ gathers its statistics (each 5 s), and before an idle connection to it is closed.
_MANAGEMENT_INTERVAL_S = 4.5
_ASKED_INTERVAL_S = 1.0  # of queues that the user asked for: a second more, and their statistics would be older
_MANAGEMENT_SHARE = 0.05  # of the time of a slow management API
_RETRY_S = 1.0
_RETRY_AGAIN_S = 10.0
_ASIDE_INTERVAL_S = 1.0  # between readings of the queues beside the work: nothing is decided by their depth
_REPORTS_A_LOOK = 4  # look for events after this many reports of each process: people read them
_MOST_UNREAD = 1000


class Observer:
    """Knows the state of queues, processes and broker at any moment; `snapshot` tells it."""

    def __init__(
        self, transport: Transport, settings: Settings, clock: Clock, management: ManagementReader | None = None
    ) -> None:
        """Watch the broker of ``transport``; nothing is connected before `start`."""
        interval_s = settings.feedback.interval_ms / 1000
        timeout_s = settings.feedback.timeout_s
        self._transport = transport
        self._settings = settings
        self._clock = clock
        self._management = management
        self._producers = Roster[ProducerReport](
            view.PRODUCER_COUNTERS, ("confirm_latency",), interval_s=interval_s, timeout_s=timeout_s
        )
        self._consumers = Roster[ConsumerReport](
            view.CONSUMER_COUNTERS, ("queue_wait", "service"), interval_s=interval_s, timeout_s=timeout_s
        )
        self._readings: dict[str, view.Reading] = {}
        self._not_before: dict[str, float] = {}
        self._listing = view.Listing()
        self._queues = QueueWatch(settings.monitor.queues)
        self._asked = bool(self._queues.asked)
        self._broker: BrokerState | None = None
        self._probe: QueueProbe | None = None  # once it is connected
        self._owned = False  # the management API is known to be that of its broker
        self._sources = {"broker": Source("broker", ok=False, error="connecting")}
        if management is not None:
            self._sources["management"] = Source("management", ok=False, error="connecting")
        elif self._asked and transport.bounds_queues:
            self._sources["management"] = Source("management", ok=False, error=ADDRESS_UNKNOWN)
        self._unread: dict[bytes, tuple[bytes, float]] = {}  # the newest report of each process, and when it arrived
        self._unreadable = 0
        self._watch = EventWatch(several=self._queues.several)
        self._tasks: list[asyncio.Task[None]] = []
        self._open = AsyncExitStack()

    async def start(self) -> None:
        """Begin to watch; returns at once and looks for the broker in the background.

        With ``broker.wait`` off, raises `TransportError` when no broker answers.
        """
        if self._settings.broker.wait:
            loops = [self._connect_and_read(), self._tell_events()]
        else:
            loops = [self._read_queues(await self._connect()), self._tell_events()]
        if self._management is not None:
            loops.append(self._read_management(self._management))
        self._tasks = [asyncio.ensure_future(loop) for loop in loops]
        for task in self._tasks:
            task.add_done_callback(_tell_failure)

    async def stop(self) -> None:
        """Stop watching and disconnect; stopping twice is harmless."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._open.aclose()

    def glance(self) -> Glance:
        """Return what events come from, as of now."""
        now = self._clock.now()
        self._read_reports()
        producers, consumers = self._producers.live(now), self._consumers.live(now)
        # Without the hundreds of other queues that a broker may have.
        listing = self._listing.only(self._readings)
        work = self._work(view.queue_states(self._readings, listing, producers, consumers, now), now)
        return Glance(
            at_ns=self._clock.to_wall_ns(now),
            sources=tuple(self._sources.values()),
            producers=tuple(series.latest for series in producers.values()),
            consumers=tuple(series.latest for series in consumers.values()),
            thresholds=self._thresholds(work, view.recorded(consumers, "queue_wait", now).quantile_s(0.99)),
        )

    @property
    def events(self) -> Sequence[Event]:
        """The latest few hundred events, oldest first."""
        return tuple(self._watch.events)

    def snapshot(self, *, distributions: bool = False) -> Snapshot:
        """Return everything known now; with ``distributions`` also those of all messages ever seen."""
        now = self._clock.now()
        self._read_reports()
        producers, consumers = self._producers.live(now), self._consumers.live(now)
        waits = Quantiles.of(view.recorded(consumers, "queue_wait", now))
        queues = view.queue_states(self._readings, self._listing, producers, consumers, now)
        watched = self._queues.names(self._listing) if self._asked else [self._settings.queue.work]
        queues |= {name: self._judged(queues[name], producers, consumers) for name in watched if name in queues}
        work = self._work(queues, now)
        consumed, produced = distributions and self._consumers.seen, distributions and self._producers.seen
        return Snapshot(
            at_ns=self._clock.to_wall_ns(now),
            address=self._transport.address,
            sources=tuple(self._sources.values()),
            queues=queues,
            work_queue=next(iter(watched), self._settings.queue.work) if work is None else work.name,
            producers=tuple(series.latest for series in producers.values()),
            consumers=tuple(series.latest for series in consumers.values()),
            processes=(
                *(view.process_state("producer", series, "confirmed", now) for series in producers.values()),
                *(view.process_state("consumer", series, "processed", now) for series in consumers.values()),
            ),
            totals=Totals(**self._producers.totals(), **self._consumers.totals()),
            rates=Rates(
                **view.rates(self._producers.seen, view.PRODUCER_COUNTERS, producers, now),
                **view.rates(self._consumers.seen, view.CONSUMER_COUNTERS, consumers, now),
            ),
            queue_wait=waits,
            service=Quantiles.of(view.recorded(consumers, "service", now)),
            confirm_latency=Quantiles.of(view.recorded(producers, "confirm_latency", now)),
            queue_wait_ever=self._consumers.recorded("queue_wait") if consumed else None,
            service_ever=self._consumers.recorded("service") if consumed else None,
            confirm_latency_ever=self._producers.recorded("confirm_latency") if produced else None,
            target_rate_per_s=sum(s.latest.target_rate_per_s for s in producers.values()) if producers else None,
            pacing_rate_per_s=sum(s.latest.pacing_rate_per_s for s in producers.values()) if producers else None,
            bottleneck_per_s=view.bottleneck_per_s(consumers, work),
            thresholds=self._thresholds(work, waits.p99_s),
            broker=self._broker,
            events=tuple(self._watch.events),
            event_counts=dict(self._watch.counts),
            unreadable_reports=self._unreadable,
            token_needed=bool(self._settings.api.token.get_secret_value()),
            dead_letter_queue="" if self._asked else self._settings.queue.dead_letter,
            asked=(tuple(watched) or self._queues.asked) if self._asked else (),  # a pattern may match nothing
            absent=self._queues.absent(self._listing, listable=self._transport.bounds_queues),
        )

    # --- where knowledge comes from ---

    async def _connect(self) -> QueueProbe:
        probe = self._transport.probe()
        # Registered before they start: a start that is cancelled or fails half-way is undone as well.
        self._open.push_async_callback(probe.stop)
        await probe.start()
        self._probe = probe
        try:
            await self._listen(create=not self._asked)
        except AccessRefusedError as error:
            if self._asked:
                raise
            log.warning("reports are heard once another process has created the exchange for them: %s", error)
            await self._listen(create=False)
        return probe

    async def _listen(self, *, create: bool) -> None:
        feedback = self._transport.feedback(create=create)
        self._open.push_async_callback(feedback.stop)
        await feedback.start(self._on_report)

    async def _connect_and_read(self) -> None:
        while True:
            try:
                probe = await self._connect()
                break
            except PaceError as error:
                self._lost("broker", error)
                await self._open.aclose()
                await asyncio.sleep(_RETRY_S)
        await self._read_queues(probe)

    async def _read_queues(self, probe: QueueProbe) -> None:
        while True:
            names = self._watched_queues()
            self._readings = {name: self._readings[name] for name in names if name in self._readings}
            self._not_before = {name: self._not_before[name] for name in names if name in self._not_before}
            try:
                for name in names:
                    await self._read_queue(probe, name)
                self._sources["broker"] = Source("broker", ok=True)
            except PaceError as error:
                self._lost("broker", error)
            await asyncio.sleep(self._settings.monitor.probe_interval_ms / 1000)

    async def _read_queue(self, probe: QueueProbe, name: str) -> None:
        if self._clock.now() < self._not_before.get(name, 0.0):
            return
        try:
            reading = await probe.read(name)
        except (NotConnectedError, BrokerUnavailableError):
            raise
        except TransportError as error:
            news = self._queues.failed(name, str(error))
            if not isinstance(error, QueueNotFoundError):
                if name == self._settings.queue.work and not self._asked:
                    raise  # the user who set it has to know
                if news:
                    # A foreign report may name any queue, with control characters of a terminal in the name.
                    log.warning("%r cannot be read: %r", name, str(error))
            # A question without an answer costs the broker a channel and a line in its log: not ten times a second.
            self._not_before[name] = self._clock.now() + (_RETRY_S if news else _RETRY_AGAIN_S)
            self._readings.pop(name, None)
        else:
            now = self._clock.now()
            unacked = view.unacked_now(reading, view.of_queue(self._consumers.live(now), name))
            listed = name in self._listing.queues
            taken = self._queues.took(name, reading, unacked, listed=listed, now=now)
            self._readings[name] = self._queues.compared(
                name,
                taken,
                self._listing.queues.get(name),
                view.of_queue(self._producers.live(now), name),
                view.of_queue(self._consumers.live(now), name),
            )
            if name not in self._work_queues(now):
                self._not_before[name] = now + _ASIDE_INTERVAL_S

    async def _read_management(self, management: ManagementReader) -> None:
        overview = None
        while True:
            began = self._clock.now()
            try:
                await self._check_owner(management)
                overview = overview or await management.overview()
                infos = await management.queues()
                self._take_listing(infos, counted=not overview.statistics_off)
                self._broker = broker_state(
                    overview,
                    await _seen_by_all(management.nodes()),
                    await management.connections(),
                    () if overview.statistics_off else await management.consumers(),
                    await management.channels() if self._asked and not overview.statistics_off else (),
                )
                self._sources["management"] = Source("management", ok=True)
            except PaceError as error:
                overview, self._listing, self._broker = None, view.Listing(), None
                self._lost("management", error)
            took_s = self._clock.now() - began
            rest_s = _ASKED_INTERVAL_S if self._asked else _MANAGEMENT_INTERVAL_S
            await asyncio.sleep(max(rest_s, took_s / _MANAGEMENT_SHARE))

    async def _check_owner(self, management: ManagementReader) -> None:
        """Raise `AnotherBrokerError` if what the API tells is known to be of another broker than the probe's."""
        if self._probe is not None and not self._owned:
            self._owned = await self._probe.owns(management)
            if not self._owned:
                raise AnotherBrokerError(management.url)

    def _take_listing(self, infos: Sequence[QueueInfo], *, counted: bool) -> None:
        now = self._clock.now()
        self._listing = view.Listing(now, listed_queues(infos, counted=counted))
        watched = {*self._watched_queues(), *self._queues.names(self._listing)}
        self._queues.keep(watched)
        consumers = self._consumers.live(now)
        for info in infos:
            if info.name in watched:
                reading = self._readings.get(info.name)
                known = reading and view.unacked_now(reading.queue, view.of_queue(consumers, info.name)) is not None
                self._queues.listed(info, counted=counted, now=now, known_better=bool(known))

    async def _tell_events(self) -> None:
        while True:
            now = self._clock.now()
            self._watch.observe(self.glance(), now)
            await asyncio.sleep(_REPORTS_A_LOOK * self._settings.feedback.interval_ms / 1000)

    def _on_report(self, payload: bytes) -> None:
        # Counters are totals, so a later report replaces an earlier one; a report that is not looked at need not be
        # decoded.
        self._unread[sender_of(payload)] = payload, self._clock.now()
        if len(self._unread) > _MOST_UNREAD:
            self._read_reports()

    def _read_reports(self) -> None:
        unread, self._unread = self._unread, {}
        # A brief report is completed by the distributions of the one before it: the order matters.
        for payload, arrived in sorted(unread.values(), key=itemgetter(1)):
            try:
                report = decode(payload)
            except FeedbackError:
                self._unreadable += 1
                continue
            if self._asked and not self._queues.covers(report.queue):
                continue  # nobody asked for that queue
            if isinstance(report, ProducerReport):
                self._producers.add(report, arrived)
            else:
                self._consumers.add(report, arrived)

    def _lost(self, source: str, error: PaceError) -> None:
        refused, foreign = isinstance(error, AccessRefusedError), isinstance(error, AnotherBrokerError)
        self._sources[source] = Source(source, ok=False, error=str(error), refused=refused, foreign=foreign)

    def _work(self, queues: Mapping[str, QueueState], now: float) -> QueueState | None:
        present = [queues[name] for name in sorted(self._work_queues(now)) if name in queues]
        return max(present, key=_depth, default=None)

    def _thresholds(self, work: QueueState | None, wait_p99_s: float | None) -> tuple[Threshold, ...]:
        return view.thresholds(self._settings.monitor, work, self._broker, wait_p99_s)

    def _judged(self, queue: QueueState, producers: view.Producers, consumers: view.Consumers) -> QueueState:
        reading, listed = self._readings.get(queue.name), self._listing.queues.get(queue.name)
        fresh, late, still_s = False, False, None
        if reading is not None:
            reporting, sending = view.of_queue(consumers, queue.name), view.of_queue(producers, queue.name)
            told = reading.done_is_all and view.all_report(reading.queue, reporting)
            fresh = told or reading.left_per_s is not None
            counted = listed is not None and listed.published_per_s is not None and reading.entered_per_s is None
            late = counted and not (sending and reading.sent_is_all)
            if told:
                queue, still_s = self._queues.settled(queue, *view.done(reporting), reading.at)
        clients = () if self._broker is None else self._broker.consumers
        hidden = any(not client.ack_required for client in clients if client.queue == queue.name)
        return self._queues.judged(queue, reading, listed, fresh=fresh, late=late, hidden=hidden, still_s=still_s)

    def _work_queues(self, now: float) -> set[str]:
        if self._asked:
            return set(self._queues.names(self._listing))
        published = {series.latest.queue for series in self._producers.live(now).values()}
        consumed = {series.latest.queue for series in self._consumers.live(now).values()}
        return {self._settings.queue.work} | published | consumed

    def _watched_queues(self) -> list[str]:
        if self._asked:
            return self._queues.probed(self._listing)
        queue = self._settings.queue
        names = [queue.work, *sorted(self._work_queues(self._clock.now())), queue.dead_letter]
        return list(dict.fromkeys([*names, queue.audit] if queue.auditing else names))


async def _seen_by_all(nodes: Awaitable[list[NodeInfo]]) -> list[NodeInfo]:
    """Return the nodes, or none to a user who may see queues only."""
    try:
        return await nodes
    except AccessRefusedError:
        return []


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the monitor sees only part of the loop: what watches failed", exc_info=error)


def _depth(queue: QueueState) -> int:
    return queue.depth
