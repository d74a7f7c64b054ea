"""The process of ``pace proxy``: sockets, one control loop for each paced queue, and the reports of what passes.

All control loops share one probe and one feedback bus, each with a connection of its own to the broker, beside those of
the clients. Every queue reports as a producer, every consumer that passes as a consumer, so that proxies, producers and
consumers anywhere find each other through the broker.
"""

from __future__ import annotations

import asyncio
import fnmatch
import itertools
import logging
import os
import random
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf, isfinite
from urllib.parse import unquote

from backpressure.config import replaced
from backpressure.core.reports import (
    ConsumerReport,
    Fullness,
    ProducerReport,
    decode,
    encode_compact,
    uneven_s,
)
from backpressure.core.signals import Law
from backpressure.core.sums import FleetSum, decode_sum, is_sum
from backpressure.core.turns import Told, decode_interval
from backpressure.derived import law_config
from backpressure.engines.clock import Clock
from backpressure.engines.pacing import Pacing
from backpressure.errors import AnotherBrokerError, ConfigError, FeedbackError, QueueNotFoundError, TransportError
from backpressure.laws import create
from backpressure.proxy.listener import ListenAddress, Listener
from backpressure.proxy.paced_queue import PacedQueue
from backpressure.proxy.routing import KnownBinding, Topology
from backpressure.proxy.view import HoldLimits, View
from backpressure.proxy.watching import WatchedConsumer
from backpressure.settings import Settings
from backpressure.telemetry.own_process import ProcessCost
from backpressure.transports.base import Answer, FeedbackBus, NamesItsBroker, QueueProbe, QueueReading, Transport
from backpressure.transports.management_client import ManagementClient

log = logging.getLogger("backpressure")

_LOOK_EVERY_S = 5.0
_MISSING_FOR_S = 1.0
_OF_PROXY = "~proxied~"  # in the identity of a consumer that a proxy reports for
_MOST_EACH_TIME, _TURNS = 50, 3
_COUNT_EVERY_S = 2.0
_HEAR_EVERY_S, _HEAR_INTERVALS = 60.0, 2.0
_RARELY_S = 0.5  # who reports as rarely is one of a large fleet
_QUIET_AFTER_S = 2.0
_SLEEP_AFTER_S, _FORGET_AFTER_S = 10.0, 60.0  # of a queue that nobody named, without a message
_MOST_REFUSALS_TOLD = 10  # anyone may publish reports: the log stays readable


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """What is proxied, and what is done about it.

    Attributes:
        listen: where clients connect.
        queues: the queues to pace, as names or patterns (``orders.*``); none: each that messages lead to and that has
            had a consumer.
        routes: bindings that neither pass nor are listed.
        limits: how much may wait in one channel.
        dry_run: hold nothing, tell what would be held.
        prefetch_auto: give consumers no more prefetch than keeps them busy.
        drain_timeout_s: when stopped, let what waits go at its pace for this long.
    """

    listen: ListenAddress
    queues: Sequence[str] = ()
    routes: Sequence[KnownBinding] = ()
    limits: HoldLimits = field(default_factory=HoldLimits)
    dry_run: bool = False
    prefetch_auto: bool = False
    drain_timeout_s: float = 10.0


class _QueueBus:
    """The feedback bus as the control loop of one queue sees it.

    Attributes:
        hear: called with the reports and sums about the queue.
        answer: called with reports about the queue that ask how often to report.
        reports: whether the loop has to hear reports.
        sums: whether it has to hear sums.
    """

    def __init__(self, bus: FeedbackBus, *, speaks: Callable[[], bool]) -> None:
        """Reports about the queue are sent while it ``speaks``."""
        self._bus = bus
        self._speaks = speaks
        self._answer: Answer = lambda _payload: None
        self.hear: Callable[[bytes], None] = lambda _payload: None
        self.reports, self.sums = True, False

    async def start(
        self,
        on_report: Callable[[bytes], None] | None = None,
        *,
        answer: Answer | None = None,
        on_answer: Callable[[bytes], None] | None = None,  # noqa: ARG002 - a producer asks nobody
    ) -> None:
        """Hand ``on_report`` the reports from now on, and ``answer`` those that ask."""
        self.hear = on_report or self.hear
        self._answer = answer or self._answer

    @property
    def blocked(self) -> bool:
        """See `FeedbackBus.blocked`."""
        return self._bus.blocked

    @property
    def carries_sums(self) -> bool:
        """See `FeedbackBus.carries_sums`."""
        return self._bus.carries_sums

    def answer(self, payload: bytes) -> bytes | None:
        """Return what a report that asks is answered with, while it speaks."""
        return self._answer(payload) if self._speaks() else None

    def listen(self, *, reports: bool, sums: bool) -> None:
        """See `FeedbackBus.listen`: the bus hears what any of its queues has to hear."""
        self.reports, self.sums = reports, sums

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> bool:
        """See `FeedbackBus.send`."""
        return self._speaks() and self._bus.send(payload, is_sum=is_sum, asks=asks)

    async def stop(self) -> None:
        """Leave it to its owner."""


class _SharedProbe:
    """The probe as one of several control loops sees it; a queue that is missing is asked for once a second."""

    def __init__(self, probe: QueueProbe, clock: Clock) -> None:
        self._probe = probe
        self._clock = clock
        self._missing_until: dict[str, float] = {}

    async def start(self) -> None:
        """Leave it to its owner."""

    async def read(self, queue: str, *, exactly: bool = False) -> QueueReading:
        """See `QueueProbe.read`."""
        if self._clock.now() < self._missing_until.get(queue, -inf):
            raise QueueNotFoundError(queue)
        try:
            return await self._probe.read(queue, exactly=exactly)
        except QueueNotFoundError:
            self._missing_until[queue] = self._clock.now() + _MISSING_FOR_S
            raise

    async def owns(self, management: NamesItsBroker) -> bool:
        """See `QueueProbe.owns`."""
        return await self._probe.owns(management)

    async def stop(self) -> None:
        """Leave it to its owner."""


@dataclass(slots=True)
class PacedLoop:
    """A paced queue and its control loop, which runs while messages come.

    Attributes:
        settings: those in force for this queue, which may differ from the proxy's.
        found: messages were found to lead there; nobody named the queue.
        arrived, active_at: how many messages there were when it was last looked at, and when that had changed.
    """

    queue: PacedQueue
    pacing: Pacing
    bus: _QueueBus
    settings: Settings
    found: bool
    active_at: float
    arrived: int = 0
    task: asyncio.Task[None] | None = None


class ProxyEngine:
    """One proxy process. `run` it until `stop`.

    Attributes:
        config: what it does.
        settings: those in force; the broker is the upstream one.
        view: the queues, routes and consumers that it knows.
        loops: the paced queues with their control loops, by name.
        listener: the sockets.
        port: where it listens.
        id: its identity in reports.
        api_url: where its control API is; "" without one.
    """

    def __init__(self, transport: Transport, settings: Settings, config: ProxyConfig, clock: Clock) -> None:
        """Wire the proxy; nothing listens yet.

        ``settings`` are those of a producer: law, target, broker. Raises `ConfigError` for a law that does not exist.
        """
        self.settings = replaced(settings, {"queue.predeclared": True, "queue.auditing": False, "producer.rate": 0.0})
        self.config = config
        self.id = settings.producer.producer_id or f"proxy-{socket.gethostname()}-{os.getpid()}"
        self.api_url = ""
        self.port = 0
        self.loops: dict[str, PacedLoop] = {}
        self._clock = clock
        self._host = socket.gethostname()
        self._nonce = secrets.token_hex(3)
        self._feedback = transport.feedback()
        self._probe = transport.probe()
        self._shared_probe = _SharedProbe(self._probe, clock)
        self._unreadable: set[str] = set()
        self._reporting: dict[str, dict[str, float]] = {}  # consumers that report themselves, and when they last did
        self._now_and_then: set[str] = set()  # queues of fleets, whose reports are heard now and then
        self._heard_from = self._hear_until = self._hear_again_at = self._judged_at = -inf
        self._intervals: dict[str, Told] = {}  # of queues whose consumers pass
        self._silent_about: set[str] = set()
        self._full = Fullness()
        self._report_at: dict[int, float] = {}  # when each consumer of a fleet is due
        self._management = ManagementClient.of(settings.broker)
        self._told_management = ""
        virtual_host = unquote(settings.broker.parts().path[1:]) or "/"
        patterns = [name for name in config.queues if _is_pattern(name)]
        find = self._found if patterns or not config.queues else None
        self._patterns = patterns
        self.view = View(
            virtual_host,
            Topology(config.routes),
            limits=config.limits,
            ignored_exchange=settings.feedback.exchange,
            find=find,
            may_find=self._wanted,
            prefetch_auto=config.prefetch_auto,
        )
        self.cost = ProcessCost()
        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self.listener = Listener(config.listen, settings.broker, self.view)
        create(settings.producer.strategy, law_config(settings))
        for name in config.queues:
            if not _is_pattern(name):
                self.view.pace(self._paced(name, engaged=True, found=False))

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; the control loops follow when the broker is there. Raises `PortTakenError`, `ConfigError`."""
        self.port = await self.listener.start()
        self._connecting = asyncio.create_task(self._connect(), name="connect")
        if not self.settings.broker.wait:
            await self._connecting

    async def run(self) -> None:
        """Serve until `stop`; raises `TransportError` if the broker does not let the proxy in."""
        assert self._connecting is not None
        stopping = asyncio.create_task(self._stopping.wait())
        reporting = asyncio.create_task(self._report_forever(), name="reports")
        looking = asyncio.create_task(self._look_forever(), name="bindings")
        counting = asyncio.create_task(self._find_doubles_forever(), name="doubles")
        try:
            running = {stopping, self._connecting, reporting, looking, counting}
            while not stopping.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # the broker may refuse the proxy, or a user's own law fail
            await self.listener.stop(self.config.drain_timeout_s)
        finally:
            own = [stopping, reporting, looking, counting, self._connecting]
            tasks = [*own, *(loop.task for loop in self.loops.values() if loop.task)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()

    async def close(self) -> None:
        """Send the last reports, and close the proxy's own connections."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._ready.is_set():
            self._report()
        await self._probe.stop()
        await self._feedback.stop()
        if self._management is not None:
            await self._management.close()

    async def _connect(self) -> None:
        await self._feedback.start(self._hear, answer=self._answer, on_answer=self._take_interval)
        await self._probe.start()
        await self._look()
        self._ready.set()

    def _hear(self, payload: bytes) -> None:
        """Hand a report or a sum on to the control loop of its queue."""
        try:
            told = decode_sum(payload) if is_sum(payload) else decode(payload, histograms=False)
        except FeedbackError as error:
            if str(error) not in self._unreadable and len(self._unreadable) < _MOST_REFUSALS_TOLD:
                self._unreadable.add(str(error))
                log.warning("ignoring reports like this one: %s", error)
            return
        loop = self.loops.get(told.queue)
        if isinstance(told, FleetSum):
            if loop is not None and loop.bus.sums:
                loop.bus.hear(payload)
            return
        if loop is not None and loop.bus.reports:
            loop.bus.hear(payload)
        if isinstance(told, ConsumerReport) and _OF_PROXY not in told.id:
            now = self._clock.now()
            self._reporting.setdefault(told.queue, {})[told.id] = now
            if told.queue in self._silent_about:  # so it asks nobody
                self._told(told.queue).take(told.interval_s or None, now)

    def _choose_what_to_hear(self) -> None:
        """Hear what any control loop has to hear.

        Whether consumers that pass here report themselves is only known to who hears reports. In a fleet the proxy does
        so for two intervals a minute.
        """
        now, usual_s = self._clock.now(), self.settings.feedback.interval_ms / 1000
        running = {name: loop for name, loop in self.loops.items() if loop.task is not None}
        needs, window_s = any(loop.bus.reports for loop in running.values()), 0.0
        self._now_and_then.clear()
        for queue in {one.queue for one in self.view.consumers.values() if not one.no_ack}:
            loop = running.get(queue)
            every_s = self._told(queue).every_s(usual_s, now) if loop is None else loop.pacing.fleet_interval_s
            if every_s <= _RARELY_S or (loop is not None and loop.bus.reports):
                needs = True
            else:
                self._now_and_then.add(queue)
                window_s = max(window_s, _HEAR_INTERVALS * every_s)
        if window_s and now >= self._hear_again_at:
            self._heard_from, self._hear_until = now, now + window_s
            self._hear_again_at = now + uneven_s(_HEAR_EVERY_S, random.random(), first=False)  # noqa: S311 - it is no secret
        idle = not running and not self._now_and_then
        sums = any(loop.bus.sums for loop in running.values())
        self._feedback.listen(reports=needs or idle or now < self._hear_until, sums=sums)

    def _answer(self, payload: bytes) -> bytes | None:
        """Return what a report that asks is answered with."""
        answers = (loop.bus.answer(payload) for loop in self.loops.values() if loop.task is not None)
        return next((answer for answer in answers if answer is not None), None)

    def _take_interval(self, payload: bytes) -> None:
        """Take in how often the consumers of a queue report that is not paced here."""
        with suppress(FeedbackError):
            queue, every_s = decode_interval(payload)
            self._told(queue).take(every_s, self._clock.now())

    def _told(self, queue: str) -> Told:
        return self._intervals.setdefault(queue, Told())

    @property
    def obstacle(self) -> str:
        """What keeps it from pacing now; empty while nothing does."""
        if self._stopping.is_set():
            return "it is stopping"
        return "" if self._ready.is_set() else "the broker is away"

    @property
    def held_messages(self) -> int:
        """How many messages wait here."""
        return sum(relay.held_messages for relay in self.listener.relays)

    @property
    def held_octets(self) -> int:
        """How many bytes wait here."""
        return sum(relay.held_octets for relay in self.listener.relays)

    @property
    def unread_connections(self) -> int:
        """How many clients' sockets are not read now, because enough of them waits."""
        return sum(not relay.wants_client for relay in self.listener.relays)

    def refresh_cost(self) -> None:
        """Read memory and processor time again."""
        self.cost.refresh(self._clock.now())

    # --- paced queues ---------------------------------------------------------------------------------------------

    def _wanted(self, name: str) -> bool:
        return not self._patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)

    def _found(self, name: str) -> PacedQueue | None:
        try:
            queue = self._paced(name, engaged=bool(self._patterns), found=True)
        except ConfigError as error:
            log.warning("messages lead to a queue that cannot be paced: %s", error)
            return None
        log.info("messages lead to %s: paced%s", name, "" if queue.engaged else " once it has a consumer")
        return queue

    def _paced(self, name: str, *, engaged: bool, found: bool) -> PacedQueue:
        settings = replaced(self.settings, {"queue.work": name})
        queue = PacedQueue(
            name,
            self._clock,
            burst_s=settings.producer.burst_ms / 1000,
            dry_run=self.config.dry_run,
            engaged=engaged,
            wake=self.listener.wake,
        )
        bus = _QueueBus(self._feedback, speaks=lambda: self._is_active(name))
        pacing = Pacing(
            settings,
            self._clock,
            queue,
            law=create(settings.producer.strategy, law_config(settings)),
            probe=self._shared_probe,
            feedback=bus,
            report=lambda: self.producer_report(name),
            obeyed=lambda: queue.holds,
        )
        self.loops[name] = PacedLoop(queue, pacing, bus, settings, found, active_at=self._clock.now())
        return queue

    def _is_active(self, name: str) -> bool:
        """Return whether messages came lately: a proxy that sends nothing is no rival to those who do."""
        loop = self.loops[name]
        return bool(loop.arrived) and self._clock.now() - loop.active_at < _QUIET_AFTER_S

    async def _pace(self, loop: PacedLoop) -> None:
        await loop.pacing.start()
        await loop.pacing.run()

    def _watch_loops(self) -> None:
        """Run the loops of queues that messages come for, and engage those whose first consumer has come."""
        now = self._clock.now()
        self._choose_what_to_hear()
        for name, loop in list(self.loops.items()):
            queue, reading, task = loop.queue, loop.pacing.reading, loop.task
            if queue.arrived != loop.arrived or queue.waiting:
                loop.arrived, loop.active_at = queue.arrived, now
            if not queue.engaged and reading is not None and reading.consumers:
                queue.engaged = True
                log.info("%s has a consumer: paced from now on", name)
            if task is None:
                if not loop.found or loop.active_at == now:
                    loop.task = asyncio.create_task(self._pace(loop), name=f"pacing of {name}")
                elif now - loop.active_at > _FORGET_AFTER_S:
                    del self.loops[name]
                    self.view.forget(name)
                    queue.engaged = False  # a message behind others may still have to pass it
            elif task.done():
                task.result()  # a user's own law may fail: no proxy is better than one out of control
            elif loop.found and now - loop.active_at > _SLEEP_AFTER_S:
                task.cancel()
                loop.task = None

    def configure(
        self,
        names: Sequence[str],
        *,
        changes: Mapping[str, object],
        paused: bool | None = None,
        dry_run: bool | None = None,
    ) -> None:
        """Change the queues ``names``: law and target by dotted names of settings, whether they are held at all.

        All or nothing; raises `ConfigError`.
        """
        planned: list[tuple[PacedLoop, Settings, Law]] = []
        for name in names:
            loop = self.loops[name]
            settings = replaced(loop.settings, changes, "request") if changes else loop.settings
            planned.append((loop, settings, loop.pacing.law_for(settings)))
        for loop, settings, law in planned:
            loop.settings = settings
            loop.pacing.use(settings, law)
            loop.queue.paused = loop.queue.paused if paused is None else paused
            loop.queue.dry_run = loop.queue.dry_run if dry_run is None else dry_run
        self.listener.wake()

    # --- what bindings there are ------------------------------------------------------------------------------------

    async def _look_forever(self) -> None:
        await self._ready.wait()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._look()

    async def _look(self) -> None:
        if self._management is None:
            self._tell_management("no management API is known (--management-url)")
            return
        self.view.topology.about_to_list()
        try:
            if not await self._probe.owns(self._management):
                raise AnotherBrokerError(self._management.url)
            exchanges = await self._management.exchanges()
            bindings = await self._management.bindings()
        except TransportError as error:
            self._tell_management(str(error))
            return
        self._tell_management("")
        self.view.topology.replace(
            ((one.name, one.type, str(one.arguments.get("alternate-exchange", ""))) for one in exchanges),
            (
                KnownBinding(
                    one.source, one.destination, one.routing_key, to_exchange=one.destination_type == "exchange"
                )
                for one in bindings
            ),
        )

    def _tell_management(self, problem: str) -> None:
        if problem and problem != self._told_management:
            log.warning("only bindings that pass through the proxy are known, or those of --route: %s", problem)
        self._told_management = problem

    # --- reports ----------------------------------------------------------------------------------------------------

    async def _report_forever(self) -> None:
        interval_s = self.settings.feedback.interval_ms / 1000
        await self._ready.wait()
        for number in itertools.count():
            self._report(number)
            self._watch_loops()
            await asyncio.sleep(interval_s)

    def _report(self, number: int = 0) -> None:
        """Report for the consumers; many of them take turns, and those of a fleet report at its interval."""
        now, usual_s = self._clock.now(), self.settings.feedback.interval_ms / 1000
        consumers = {one.number: one for one in self.view.consumers.values() if not one.no_ack}
        self._report_at = {one: at for one, at in self._report_at.items() if one in consumers}
        brief = self._full.brief(now)
        turns = 1 if len(consumers) <= _MOST_EACH_TIME else _TURNS
        for consumer in consumers.values():
            if consumer.queue in self._silent_about:
                continue
            told = self._told(consumer.queue)
            loop = self.loops.get(consumer.queue)
            paced = loop is not None and loop.task is not None
            interval_s = loop.pacing.fleet_interval_s if loop and paced else told.every_s(usual_s, now)
            if interval_s <= turns * usual_s:
                interval_s, due = turns * usual_s, consumer.number % turns == number % turns
            elif due := now >= self._report_at.get(consumer.number, -inf):
                first = consumer.number not in self._report_at
                interval_s = uneven_s(interval_s, random.random(), first=first)  # noqa: S311 - it is no secret
                self._report_at[consumer.number] = now + interval_s
            if due:
                report = self.consumer_report(consumer, interval_s)
                asks = not paced and told.asks(interval_s, now)
                self._feedback.send(encode_compact(report, brief=brief), asks=asks)

    async def _find_doubles_forever(self) -> None:
        """Report for no consumer of a queue where somebody reports for consumers that pass here as well.

        That shows in the count: more would report than the broker has.
        """
        await self._ready.wait()
        while True:
            await asyncio.sleep(_COUNT_EVERY_S)
            now = self._clock.now()
            heard_once = self._judged_at < self._hear_until <= now
            for queue, ever_heard in list(self._reporting.items()):
                horizon = now - self.settings.feedback.timeout_s
                if queue in self._now_and_then:
                    if not heard_once:
                        continue
                    horizon = self._heard_from
                heard = self._reporting[queue] = {name: at for name, at in ever_heard.items() if at > horizon}
                watched = sum(one.queue == queue and not one.no_ack for one in self.view.consumers.values())
                there = await self._count_consumers(queue) if heard and watched else inf
                if len(heard) + watched > there:
                    if queue not in self._silent_about:
                        log.info("consumers of %s report themselves: the proxy does not report for them", queue)
                    self._silent_about.add(queue)
                else:
                    self._silent_about.discard(queue)
                if not heard:
                    del self._reporting[queue]
            if heard_once:
                self._judged_at = now

    async def _count_consumers(self, queue: str) -> float:
        try:
            reading = await self._shared_probe.read(queue)
        except TransportError:
            return inf
        return inf if reading.consumers is None else reading.consumers

    def consumer_report(self, consumer: WatchedConsumer, interval_s: float = 0.0) -> ConsumerReport:
        """Return the counters of a consumer that passes."""
        now = self._clock.now()
        return ConsumerReport(
            id=f"{self.id}{_OF_PROXY}{self._nonce}-{consumer.number}",
            pid=os.getpid(),
            host=self._host,
            at_ns=self._clock.to_wall_ns(now),
            queue=consumer.queue,
            delivered=consumer.delivered,
            processed=consumer.acked,
            dead_lettered=consumer.rejected,
            failed=consumer.requeued,
            redelivered=consumer.redelivered,
            held=consumer.held,
            prefetch=consumer.prefetch,
            busy_s=consumer.busy_s(now),
            service_sum_s=consumer.service_sum_s,
            service_sum_s2=consumer.service_sum_s2,
            queue_wait=consumer.wait.copy(),
            interval_s=interval_s,
        )

    def producer_report(self, name: str) -> ProducerReport:
        """Return the counters of what passes to the queue ``name``."""
        self.refresh_cost()
        loop = self.loops[name]
        queue, pacing = loop.queue, loop.pacing
        box, decision, age_s = queue.outbox, queue.decision, pacing.signals.age_s
        return ProducerReport(
            id=self.id,
            session=queue.session,
            pid=os.getpid(),
            host=self._host,
            at_ns=self._clock.wall_ns(),
            queue=name,
            offered=queue.arrived,
            published=queue.published,
            confirmed=box.confirmed,
            nacked=box.nacked,
            rejected=box.nacked,
            returned=box.returned,
            republished=0,
            in_flight=len(box.in_flight),
            window=min(box.in_flight.limit, 1_000_000),
            target_rate_per_s=queue.offered_per_s,
            usable_rate_per_s=queue.offered_per_s,
            pacing_rate_per_s=decision.rate_per_s if queue.holds else inf,
            weight=self.settings.producer.weight,
            application_limited=queue.was_limited,
            blocked=queue.blocked,
            blocked_events=queue.blocked_events,
            strategy=loop.settings.producer.strategy,
            reason=f"dry run: {decision.reason}" if queue.dry_run else decision.reason,
            rss_bytes=self.cost.rss_bytes,
            cpu_s=self.cost.cpu_s,
            bottleneck_per_s=decision.bottleneck_per_s,
            signal_age_s=age_s if isfinite(age_s) else None,
            signal_quality=pacing.signals.told_quality,
            unpaced_per_s=pacing.signals.unpaced_per_s,
            tick_lateness_s=pacing.lateness_s,
            confirm_latency=box.confirm_latency.copy(),
            limiter_delay=queue.hold.copy(),
            tick_lateness=pacing.lateness.copy(),
            api_url=self.api_url,
        )


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")
