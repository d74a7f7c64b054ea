"""The control loop of a producer: ten times a second, probe the queue, ask the law, apply its decision, and report.

The law is pure (`backpressure.core.controllers`); here it is connected to the broker. A tick without a fresh reading
asks the law as well: what stale signals mean is the law's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite
from typing import Protocol

from backpressure.core.board import OwnState, SignalBoard
from backpressure.core.histogram import Histogram, RecentValues
from backpressure.core.reports import (
    ConsumerReport,
    Fullness,
    ProducerReport,
    decision_window,
    decode,
    encode_compact,
    report_interval_s,
    sooner_s,
    ticks_per_report,
    uneven_s,
)
from backpressure.core.signals import Decision, Law, Signals
from backpressure.core.sums import SumNews, decode_sum, encode_sum, is_sum
from backpressure.core.turns import answer_to
from backpressure.core.unpaced import WHAT_TO_DO, told, with_unpaced
from backpressure.derived import law_config
from backpressure.engines.clock import Clock
from backpressure.errors import FeedbackError, TransportError
from backpressure.laws import create
from backpressure.settings import Settings
from backpressure.transports.base import FeedbackBus, QueueProbe, QueueReading

log = logging.getLogger(__name__)

MISSING_QUEUE = "the queue is missing: nothing is sent until it is there again"
"""The reason while a broker is there, but not the queue."""
_LAST_ANSWER_WITHIN_S = 1.0
_TELL_AFTER_S = 3.0  # consumers that have just come take a moment to report
_MOST_REFUSALS_TOLD = 10  # anyone may publish reports: the log stays readable
_SHORTEST_CONFIRM_WITHIN_S = 15.0  # a way to the broker that has become longer is the usual one after that
_SHORTEST_READING_WITHIN_S = 0.5


class Window(Protocol):
    """How many messages are in flight, and the most that may be."""

    @property
    def limit(self) -> int:
        """The most that may be in flight."""

    def __len__(self) -> int: ...


class Outcomes(Protocol):
    """What the broker said to the messages that were sent; totals."""

    @property
    def confirmed(self) -> int:
        """Messages that it took."""

    @property
    def nacked(self) -> int:
        """Refusals."""

    @property
    def returned(self) -> int:
        """Messages that no queue was bound for."""

    @property
    def in_flight(self) -> Window:
        """Messages that it has not answered for."""

    @property
    def confirm_latency(self) -> Histogram:
        """Times from sent to confirmed."""


class Paceable(Protocol):
    """What is paced: it sends messages to one queue at the rate that was applied last."""

    @property
    def session(self) -> int:
        """Its identity in reports."""

    @property
    def blocked(self) -> bool:
        """Whether the broker has told it to stop."""

    @property
    def lacks_queue(self) -> bool:
        """Whether nothing is sent because the queue is missing."""

    @property
    def offered_per_s(self) -> float:
        """The offered load; infinite where it is as fast as can be."""

    @property
    def outbox(self) -> Outcomes:
        """What became of its messages."""

    def take_application_limited(self) -> bool:
        """Return whether there was less to send than allowed at some moment since the last call."""

    def apply(self, decision: Decision) -> None:
        """Send at the rate of ``decision`` from now on."""


class Pacing:
    """Signals in, decisions out, for one producer.

    Attributes:
        law: the one that decides.
        reading: the probe's last reading.
        decision: what the law decided last.
        signals: what that decision was based on.
        lateness: how much later than due each tick began.
        lateness_s: the same of the last tick; None before the first.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        sender: Paceable,
        *,
        law: Law,
        probe: QueueProbe,
        feedback: FeedbackBus,
        report: Callable[[], ProducerReport],
        ask_for_reports: Callable[[int | None], None] = lambda _: None,
        obeyed: Callable[[], bool] = lambda: True,
    ) -> None:
        """Wire the loop; nothing connects yet.

        Args:
            settings: all knobs; the law is one for these.
            clock: time.
            sender: has the counters the law looks at, and applies what it decides.
            law: decides.
            probe: reads the depth of the queue.
            feedback: brings the reports of all others, and takes this producer's.
            report: returns what is reported of this producer.
            ask_for_reports: tells consumers how often to report, in milliseconds; None: as often as usual.
            obeyed: whether what the law decides is applied now; otherwise that nobody consumes is not worth a line.
        """
        self.reading: QueueReading | None = None
        self.decision = Decision(0.0, "starting: nothing is sent before the broker has answered")
        self.signals = Signals()
        self.lateness = Histogram()
        self.lateness_s: float | None = None
        self.law = law
        self._settings = settings
        self._clock = clock
        self._sender = sender
        self._probe = probe
        self._feedback = feedback
        self._report = report
        self._ask_for_reports = ask_for_reports
        self._obeyed = obeyed
        self._full = Fullness()
        self._report_at = -inf
        self._report_every_s = settings.feedback.interval_ms / 1000
        self._board = SignalBoard(sender.session, settings.feedback.timeout_s)
        self._latencies = (0, 0.0)  # how many confirms there were at the last tick, and the sum of their latencies
        self._latencies_s = RecentValues(_SHORTEST_CONFIRM_WITHIN_S)
        self._round_trips_s = RecentValues(_SHORTEST_READING_WITHIN_S)
        self._consumer_seen = False
        self._heard, self._news = asyncio.Event(), asyncio.Event()
        self._refused: set[str] = set()
        self._told: set[str] = set()
        self._readings = 0
        self._missing, self._missing_since = "", 0.0
        self._unconsumed_since: float | None = None
        self._told_unconsumed = False
        self._told_offline = False
        self._told_unpaced = False
        self._asking: asyncio.Task[None] | None = None
        self._nacked_before = 0

    async def start(self) -> None:
        """Connect probe and feedback and take the first decision; raises `TransportError`."""
        await self._feedback.start(self._on_report, answer=self._answer_to)
        await self._probe.start()
        await self._tick()

    async def run(self) -> None:
        """Tick until cancelled."""
        for number in itertools.count():
            started = self._clock.now()
            await self._tick()
            self._add_up_if_due()
            self._report_if_due(number)
            await self._next_tick(started)

    @property
    def fleet_interval_s(self) -> float:
        """How often each process of this queue reports."""
        usual_s = self._settings.feedback.interval_ms / 1000
        told_s = self._board.fleet.report_every_s
        if told_s is not None:
            return max(usual_s, told_s)
        return report_interval_s(self.signals.consumers or 0, self.signals.producers, usual_s)

    def _add_up_if_due(self) -> None:
        """Tell all producers of a large fleet what all reports add up to, if this is one of those who hear them."""
        fleet, feedback = self._board.fleet, self._feedback
        fleet.possible = feedback.carries_sums
        feedback.listen(reports=fleet.listens, sums=fleet.hears_sums)
        told = self._board.due_sum(self._settings.queue.work, self._clock.now(), self.decision)
        if told is not None:
            feedback.send(encode_sum(told), is_sum=True)

    def _report_if_due(self, tick: int) -> None:
        settings, signals, now = self._settings, self.signals, self._clock.now()
        usual_s, tick_s = settings.feedback.interval_ms / 1000, settings.control.tick_ms / 1000
        fleet_s = self.fleet_interval_s
        self._ask_for_reports(round(1000 * fleet_s) if fleet_s > usual_s else None)
        between = ticks_per_report(signals.producers, tick_s, settings.feedback.timeout_s)
        if fleet_s <= between * tick_s:
            self._report_every_s = between * tick_s
            due = tick % between == 0
        else:
            chance = random.random()  # noqa: S311 - it is no secret
            self._report_at = now + sooner_s(self._report_at - now, fleet_s, chance)
            due = now >= self._report_at
            if due:
                first = self._report_at == -inf
                self._report_every_s = uneven_s(fleet_s, random.random(), first=first)  # noqa: S311 - it is no secret
                self._report_at = now + self._report_every_s
        if due:
            self.report()

    async def _next_tick(self, started: float) -> None:
        """Wait about a tick; a consumer's report near its end ends it, and news at any time."""
        tick_s = self._settings.control.tick_ms / 1000
        window = decision_window(started, tick_s, self.signals.feedback_age_s)
        if self._board.wants_readings_between:
            await asyncio.sleep(max(0.0, started + tick_s / 2 - self._clock.now()))
            await self._answer(tick_s / 4)
        await asyncio.sleep(max(0.0, window.news_at - self._clock.now()))
        self.lateness_s = 0.0
        if not await self._set_by(window.report_at, self._news):
            late_s = self._clock.now() - window.report_at
            self._heard.clear()
            await self._set_by(window.latest_at, self._heard)
            # A process that is short of time, or a tick that waited for the broker, is late for one of the two.
            self.lateness_s = max(0.0, late_s, self._clock.now() - window.latest_at)
        self.lateness.record(self.lateness_s)

    async def _set_by(self, moment: float, event: asyncio.Event) -> bool:
        """Wait for the ``event`` until ``moment``; return whether it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, moment - self._clock.now())):
                await event.wait()
        return event.is_set()

    async def stop(self) -> None:
        """Close the connections; what a short job would have been told is told now."""
        self._tell_what_is_missing(after_s=0.0)
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._probe.stop()
        await self._feedback.stop()

    def law_for(self, settings: Settings) -> Law:
        """Return the law for these settings: the present one, unless it or its configuration differs.

        Raises `ConfigError` for a law or a parameter that there is not.
        """
        wanted, config, present = settings.producer.strategy, law_config(settings), self._settings
        if (wanted, config) == (present.producer.strategy, law_config(present)):
            return self.law
        return create(wanted, config)

    def use(self, settings: Settings, law: Law) -> None:
        """Switch to other settings and their law; one that stays keeps its memory."""
        self._settings = settings
        if law is not self.law:
            self.law = law
            self._nacked_before = self._sender.outbox.nacked  # what the law before it met is not its business

    def report(self, *, last: bool = False) -> None:
        """Send the producer's counters to everybody; the ``last`` report is a full one."""
        interval_s = self._report_every_s
        report = replace(
            self._report(),
            interval_s=interval_s,
            producers=self.signals.producers,
            knows_sums=self._board.fleet.possible,
        )
        brief = self._full.brief(self._clock.now(), interval_s) and not last
        self._feedback.send(encode_compact(report, brief=brief))

    def _on_report(self, payload: bytes) -> None:
        now = self._clock.now()
        try:
            if is_sum(payload):
                told = decode_sum(payload)
                news = self._board.on_sum(told, now) if told.queue == self._settings.queue.work else SumNews.NONE
                if news:
                    self._heard.set()
                if news is SumNews.CHANGE:
                    self._news.set()
                return
            report = decode(payload, histograms=False)
        except FeedbackError as error:
            if str(error) not in self._refused and len(self._refused) < _MOST_REFUSALS_TOLD:
                self._refused.add(str(error))
                log.warning("ignoring reports like this one: %s", error)
            return
        if report.queue == self._settings.queue.work:
            self._board.on_report(report, now)
            if isinstance(report, ConsumerReport):
                self._heard.set()

    def _answer_to(self, payload: bytes) -> bytes | None:
        """Return how often the sender of a report is to report, if it is this producer's part to say so."""
        if not self._board.tells_interval(self._clock.now()):
            return None
        usual_s = self._settings.feedback.interval_ms / 1000
        try:
            return answer_to(payload, self._settings.queue.work, self.fleet_interval_s, usual_s)
        except FeedbackError:
            return None

    async def _tick(self) -> None:
        await self.read_queue()
        now = self._clock.now()
        self._news.clear()
        self.signals = self._board.signals(self._own_state(), now)
        self._tell_what_is_missing()
        self._tell_what_is_unpaced()
        decision = with_unpaced(self.law.update(self.signals, now), self.signals.unpaced_per_s)
        lacking = self._sender.lacks_queue
        self.decision = replace(decision, reason=MISSING_QUEUE) if lacking else self._unless_offline(decision)
        self._tell_who_consumes()
        self._sender.apply(self.decision)

    def _unless_offline(self, decision: Decision) -> Decision:
        """Let a finite job be queued as a whole until the first consumer comes: until then there is no pace to match.

        Once a consumer was there, its absence is a stop, and the law keeps the queue short until it returns. So it does
        from the start in somebody else's queue: its consumers are not ours to start.
        """
        self._consumer_seen = self._consumer_seen or bool(self.signals.consumers)
        offline = self.signals.consumers == 0 and not self._consumer_seen and not self._settings.queue.predeclared
        if not offline or not self._settings.producer.limit:
            return decision
        reason = "no consumer yet: queueing all that is asked for"
        if not self._told_offline:
            self._told_offline = self._told_unconsumed = True
            limit, queue = self._settings.producer.limit, self._settings.queue.work
            log.info(
                "%s has no consumer yet: all %d messages are queued now, as fast as they are offered", queue, limit
            )
        return replace(decision, rate_per_s=inf, window=None, reason=reason)

    async def read_queue(self) -> None:
        """Read the depth; an answer that takes longer than it is worth to wait for counts when it arrives."""
        await self._answer(self.signals.patience_s(self._settings.control.tick_ms / 1000))

    async def read_queue_anew(self) -> None:
        """Read the depth as it is from now on; an answer under way may be older."""
        if self._asking is not None:
            await self._answer(_LAST_ANSWER_WITHIN_S)
        await self._answer(_LAST_ANSWER_WITHIN_S)

    async def _answer(self, patience_s: float) -> None:
        """Wait for the answer under way, or ask; an answer that takes longer counts when it arrives."""
        self._take_answer()
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="probe")
        await asyncio.wait({self._asking}, timeout=patience_s)
        self._take_answer()

    def _take_answer(self) -> None:
        if self._asking is not None and self._asking.done():
            answered, self._asking = self._asking, None
            answered.result()

    async def _ask(self) -> None:
        asked_at = self._clock.now()
        self._readings += 1
        exactly = self._board.wants_counts(self._readings, self.signals.producers)
        try:
            reading = await self._probe.read(self._settings.queue.work, exactly=exactly)
        except TransportError:
            return  # the board knows how old its last reading is
        self.reading = reading
        now = self._clock.now()
        if reading.offsets is not None:
            if reading.round_trip_s is not None:
                self._round_trips_s.add(reading.round_trip_s, now)
            self._board.on_offsets(reading.offsets, reading.consumers)
            return
        read_at = (asked_at + now) / 2  # the broker looked about half way
        round_trip_s = reading.round_trip_s
        if round_trip_s is None and not exactly and not reading.lag_by_partition:
            round_trip_s = now - asked_at  # one question and its answer
        if round_trip_s is not None:
            self._round_trips_s.add(round_trip_s, now)
        missing = reading.missing if exactly else None
        left = reading.left if reading.lag_by_partition else None
        self._board.on_reading(reading.ready, reading.unacked, reading.consumers, read_at, missing=missing, left=left)
        if reading.statistics is not None:
            self._board.on_statistics(reading.statistics)
        if reading.terms is not None:
            self._board.on_terms(reading.terms, now)
        if reading.entered is not None and not reading.lag_by_partition:
            self._board.on_entered(reading.entered, now)

    def _tell_what_is_missing(self, *, after_s: float = _TELL_AFTER_S) -> None:
        """Say once what cannot be known of silent consumers, and what to do."""
        missing = self.signals.missing
        if missing != self._missing:
            self._missing, self._missing_since = missing, self._clock.now()
        if missing and missing not in self._told and self._clock.now() - self._missing_since > after_s:
            self._told.add(missing)
            log.warning("the pace is limited: %s", missing)

    def _tell_what_is_unpaced(self) -> None:
        """Say once that others take part of the capacity, unpaced and without a report."""
        arriving = self.signals.unpaced_per_s
        if arriving and not self._told_unpaced:
            queue = self._settings.queue.work
            log.warning("%s: %s; only what they leave is sent from here: %s", queue, told(arriving), WHAT_TO_DO)
        self._told_unpaced = self._told_unpaced or arriving > 0

    def _tell_who_consumes(self) -> None:
        """Say once that nobody consumes the queue, and that somebody does again."""
        queue, now = self._settings.queue.work, self._clock.now()
        if self.signals.consumers:
            self._unconsumed_since = None
            if self._told_unconsumed:
                self._told_unconsumed = False
                log.info("%s is consumed", queue)
        elif self.signals.consumers == 0 and not self._told_unconsumed and self._obeyed():
            self._unconsumed_since = now if self._unconsumed_since is None else self._unconsumed_since
            if now - self._unconsumed_since > _TELL_AFTER_S:
                self._told_unconsumed = True
                rate = self.decision.rate_per_s
                allowed = f"{rate:.3g} msg/s" if isfinite(rate) else "whatever is offered"
                log.warning(
                    "nobody consumes %s: the law %s allows %s", queue, self._settings.producer.strategy, allowed
                )

    def _own_state(self) -> OwnState:
        sender, box = self._sender, self._sender.outbox
        recent_s = self._recent_latency_s()
        least_s, way_s = self._latencies_s.least(inf), self._round_trips_s.least(inf)
        return OwnState(
            confirmed=box.confirmed,
            nacked=box.nacked - self._nacked_before,
            returned=box.returned,
            in_flight=len(box.in_flight),
            window=box.in_flight.limit,
            demand_per_s=sender.offered_per_s,
            application_limited=sender.take_application_limited(),
            confirm_latency_s=recent_s,
            confirm_latency_min_s=least_s if least_s < inf else None,
            way_s=way_s if way_s < inf else None,
            blocked=sender.blocked,
            weight=self._settings.producer.weight,
            pace_per_s=self.decision.rate_per_s,
        )

    def _recent_latency_s(self) -> float | None:
        """Return the mean time from sent to confirmed since the last tick; None: nothing was confirmed."""
        latency, (count, total_s) = self._sender.outbox.confirm_latency, self._latencies
        self._latencies = (latency.total, latency.sum_s)
        if latency.total == count:
            return None
        mean_s = (latency.sum_s - total_s) / (latency.total - count)
        self._latencies_s.add(mean_s, self._clock.now())
        return mean_s
