"""A pacer for a producer of your own: law, view of the loop and token bucket in one object without any I/O.

You keep your client library and your event loop. The pacer says when the next message may be sent and when it needs the
depth of the queue. ``docs/library.md`` shows it inside pika and aio-pika.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from backpressure.core.board import OwnState, SignalBoard
from backpressure.core.controllers import LawConfig, create
from backpressure.core.evidence import ConsumerTerms, OffsetReading, QueueStatistics
from backpressure.core.histogram import RecentValues
from backpressure.core.limiters import TokenBucket
from backpressure.core.reports import (
    Fullness,
    ProducerReport,
    Report,
    decode,
    encode_compact,
    report_interval_s,
    ticks_per_report,
)
from backpressure.core.signals import Decision, Law
from backpressure.core.sums import FleetSum, SumNews, decode_sum, encode_sum, is_sum
from backpressure.core.turns import answer_to
from backpressure.core.unpaced import with_unpaced

_FIRST_RATE_PER_S = 1.0
_TIMEOUT_S = 2.0  # a silent process is gone then
_USUAL_S = 0.1  # between reports where processes are few
_SHORTEST_WITHIN_S = 0.5


class Pacer:
    """Paces one producer. Every ``now`` is seconds of one monotonic clock.

    Attributes:
        decision: what the law last decided: rate and reason.
        producers: how many producers of the queue there were then, this one included.
        unpaced_per_s: messages a second that arrived from producers that nobody paces; 0: none, or too few to be sure.
        missing: why it is not known what consumers hold, and what to do; "": it is, or they report.
        blocked: set it while the broker has told you to stop publishing (``connection.blocked``).
        takes_sums: set it if you also publish `due_sum` on ``pace.feedback.sums``, and listen there while it
            `hears_sums`. It then need not hear all reports of a large fleet. Otherwise it does, and is one more
            listener, for which all processes report less often.
    """

    def __init__(
        self,
        law: str | Law = "pace",
        *,
        now: float,
        demand_per_s: float = inf,
        tick_s: float = 0.1,
        target_wait_s: float = 0.02,
        burst_s: float = 0.1,
        floor_per_s: float = 0.0,
        weight: float = 1.0,
        queue: str = "",
        session: int = 0,
    ) -> None:
        """Begin slowly; the law takes over with the first reading.

        Args:
            law: name of a law that ships, path of one of your own (``module:Class``), or a law, for example from
                ``create_law``.
            now: the time.
            demand_per_s: the most you would ever send; infinite if you always have something to send.
            tick_s: how often `wants_reading` asks for the queue's depth.
            target_wait_s: queue wait to aim for.
            burst_s: how much of a pause may be caught up.
            floor_per_s: the least to allow, whatever the law says; 0: as the law says.
            weight: its share against other producers that report.
            queue: the queue it paces for: reports about others are ignored; "": all are about it.
            session: identity of this producer in its reports, different from every other's (``secrets.randbits(60)``).

        Raises:
            ConfigError: there is no such law.
        """
        config = LawConfig(target_wait_s=target_wait_s, tick_s=tick_s, floor_per_s=floor_per_s or None)
        first_per_s = max(_FIRST_RATE_PER_S, floor_per_s)
        self.decision = Decision(first_per_s, "waiting for a first reading")
        self._floor_per_s = floor_per_s
        self._law = create(law, config) if isinstance(law, str) else law
        self._board = SignalBoard(session, _TIMEOUT_S)
        self._session = session
        self._weight = weight
        self._queue = queue
        self._limited = True
        self._bucket = TokenBucket(min(first_per_s, demand_per_s), burst_s, now)
        self._demand_per_s = demand_per_s
        self._tick_s = tick_s
        self._next_reading_at = now
        self._sent = self._confirmed = self._nacked = self._lost = 0
        self._round_trips_s = RecentValues(_SHORTEST_WITHIN_S)
        self._patience_s = tick_s
        self._not_told: str | None = None
        self._held_up = False
        self.blocked = False
        self.takes_sums = False
        self._full = Fullness()
        self.producers = 1
        self.unpaced_per_s = 0.0
        self.missing = ""
        self._consumers = 0

    def wants_reading(self, now: float) -> bool:
        """Return whether it is time to ask the broker for the queue's depth and to pass it to `reading`."""
        return now >= self._next_reading_at

    def reading(
        self,
        ready: int,
        consumers: int | None = None,
        *,
        unacked: int | None = None,
        left: int | None = None,
        now: float,
        age_s: float = 0.0,
        round_trip_s: float | None = None,
        entered: int | None = None,
    ) -> Decision:
        """Take in the queue's depth and decide the pace.

        Args:
            ready: messages waiting in the queue, as a passive declare returns them (Kafka: the consumer group's lag).
            consumers: consumers of the queue, where the broker tells.
            unacked: messages delivered and unsettled, where the broker tells.
            left: where ``ready`` is a lag, how many messages the group has committed; commits may stall.
            now: the time.
            age_s: how long ago the broker looked: since its answer, and half of what that took.
            round_trip_s: how long the answer took; the pace allows for the way to a broker that is far. None: unknown.
            entered: how many messages have entered the queue, by the broker's statistics. With it the pacer notices
                producers that nobody paces also while consumers do not report.
        """
        self._next_reading_at = now + self._tick_s
        if round_trip_s is not None:
            self._round_trips_s.add(round_trip_s, now)
        if entered is not None:
            self._board.on_entered(entered, now)
        self._board.on_reading(ready, unacked, consumers, now - age_s, missing=self._not_told, left=left)
        return self.decide(now)

    @property
    def patience_s(self) -> float:
        """How long to wait for an answer of the broker before the next decision is made without it."""
        return self._patience_s

    @property
    def has_strangers(self) -> bool:
        """Whether some consumers do not report, so that it has to be found out what they hold; see `counted`."""
        return self._board.has_strangers

    def wants_counts(self, reading: int) -> bool:
        """Whether the reading of that number should also tell what consumers hold that do not say it; see `counted`."""
        return self._board.wants_counts(reading, self.producers)

    def counted(
        self, statistics: QueueStatistics | None, terms: ConsumerTerms | None, missing: str = "", *, now: float
    ) -> None:
        """Take in what the broker tells of consumers that do not report, before the `reading` that came with it.

        Args:
            statistics: ready and unacked messages, counted together; None: not told this time.
            terms: on what terms the consumers get messages; None: not told.
            missing: why it is not known what they hold, and what to do; "": it is.
            now: when the broker answered.
        """
        self._not_told = missing
        if statistics is not None:
            self._board.on_statistics(statistics)
        if terms is not None:
            self._board.on_terms(terms, now)

    def offsets(
        self,
        reading: OffsetReading,
        consumers: int | None = None,
        *,
        now: float,
        round_trip_s: float | None = None,
    ) -> Decision:
        """Take in the offsets of a consumer group that is not of this project (Kafka), and decide the pace.

        ``round_trip_s`` is how long one answer took, if that is known: the pace allows for a broker that is far.
        """
        self._next_reading_at = now + self._tick_s
        if round_trip_s is not None:
            self._round_trips_s.add(round_trip_s, now)
        self._board.on_offsets(reading, consumers)
        return self.decide(now)

    def decide(self, now: float) -> Decision:
        """Decide the pace without a reading, if the broker does not answer: the law knows what old signals mean."""
        way_s = self._round_trips_s.least(inf)
        own = OwnState(
            confirmed=self._confirmed,
            nacked=self._nacked,
            in_flight=self.in_flight,
            demand_per_s=self._demand_per_s,
            application_limited=not self._held_up,
            way_s=way_s if way_s < inf else None,
            blocked=self.blocked,
            weight=self._weight,
            pace_per_s=self.decision.rate_per_s,
        )
        self._limited = not self._held_up
        self._held_up = False
        self._board.fleet.possible = self.takes_sums
        signals = self._board.signals(own, now)
        self.producers, self._consumers = signals.producers, signals.consumers or 0
        self._patience_s = signals.patience_s(self._tick_s)
        self.unpaced_per_s, self.missing = signals.unpaced_per_s, signals.missing
        self.decision = with_unpaced(self._law.update(signals, now), self.unpaced_per_s)
        if self.decision.rate_per_s < self._floor_per_s:
            self.decision = replace(self.decision, rate_per_s=self._floor_per_s)
        self._bucket.set_rate(min(self.decision.rate_per_s, self._demand_per_s), now)
        return self.decision

    def report(self, payload: bytes, *, now: float) -> None:
        """Take in a message from the fanout ``pace.feedback``, or from ``pace.feedback.sums``.

        The consumers' counters make the law more precise; with the other producers' counters each gets its share.

        Raises:
            FeedbackError: it is not a report of this version; it may be ignored.
        """
        if is_sum(payload):
            self.heard_sum(decode_sum(payload), now=now)
        else:
            self.heard(decode(payload, histograms=False), now=now)

    def heard(self, report: Report, *, now: float) -> None:
        """Take in a report that is decoded already; see `report`."""
        if not self._queue or report.queue == self._queue:
            self._board.on_report(report, now)

    @property
    def listens(self) -> bool:
        """Whether it has to hear reports."""
        return self._board.fleet.listens

    @property
    def hears_sums(self) -> bool:
        """Whether it has to hear sums."""
        return self._board.fleet.hears_sums

    def heard_sum(self, told: FleetSum, *, now: float) -> SumNews:
        """Take in a sum that is decoded already; return what that means for the pace."""
        return self._board.on_sum(told, now) if told.queue == self._queue else SumNews.NONE

    def due_sum(self, now: float) -> bytes | None:
        """Return what to publish on ``pace.feedback.sums`` now, or None; ask right after a decision."""
        if not self.takes_sums:
            return None
        told = self._board.due_sum(self._queue, now, self.decision)
        return None if told is None else encode_sum(told)

    def answer(self, payload: bytes, *, now: float) -> bytes | None:
        """Return what to answer the sender of a report who asks how often to report; None: others do.

        Such a report has the property ``reply_to``; the answer goes there, on the default exchange.

        Raises:
            FeedbackError: it is not a report of this version; it may be ignored.
        """
        if not self._board.tells_interval(now):
            return None
        return answer_to(payload, self._queue, self._every_s(_USUAL_S), _USUAL_S)

    @property
    def report_every_s(self) -> float:
        """How often to publish `own_report`; the more processes report, the less often each does."""
        return self._every_s(self._tick_s * ticks_per_report(self.producers, self._tick_s, _TIMEOUT_S))

    def _every_s(self, usual_s: float) -> float:
        told_s = self._board.fleet.report_every_s
        return report_interval_s(self._consumers, self.producers, usual_s) if told_s is None else max(usual_s, told_s)

    def own_report(self, *, now: float, interval_s: float = 0.0) -> bytes:
        """Return what to publish on ``pace.feedback`` every `report_every_s`: then other producers leave it its share.

        Without it several producers of one queue displace each other: to each, what the others send looks like a slower
        consumer. If the next report follows only in more than half a second, ``interval_s`` says so.
        """
        brief = self._full.brief(now, interval_s)
        return encode_compact(
            ProducerReport(
                id=f"pacer-{self._session:x}",
                session=self._session,
                pid=0,
                host="",
                at_ns=int(now * 1e9),
                queue=self._queue,
                offered=self._sent,
                published=self._sent,
                confirmed=self._confirmed,
                nacked=self._nacked,
                rejected=self._nacked,
                returned=0,
                republished=0,
                in_flight=self.in_flight,
                window=0,
                target_rate_per_s=self._demand_per_s,
                usable_rate_per_s=self._demand_per_s,
                pacing_rate_per_s=min(self.decision.rate_per_s, self._demand_per_s),
                weight=self._weight,
                application_limited=self._limited,
                blocked=self.blocked,
                blocked_events=0,
                strategy="",
                reason=self.decision.reason,
                rss_bytes=0,
                cpu_s=0.0,
                bottleneck_per_s=self.decision.bottleneck_per_s,
                unpaced_per_s=self.unpaced_per_s,
                interval_s=interval_s,
                producers=self.producers,
                knows_sums=self._board.fleet.possible,
            ),
            brief=brief,
        )

    @property
    def in_flight(self) -> int:
        """Messages that were sent and that the broker has not answered."""
        return self._sent - self._confirmed - self._nacked - self._lost

    def wait_s(self, now: float) -> float:
        """Return how long to wait before the next message (0: send it), but never past the next reading."""
        wait = self._bucket.wait_s(now)
        self._held_up = self._held_up or wait > 0
        return max(0.0, min(wait, self._next_reading_at - now)) if wait > 0 else 0.0

    def next_send_s(self, now: float) -> float:
        """Return after how many seconds the next message may go at the present rate, however many readings are due."""
        return self._bucket.wait_s(now)

    def may_send(self, now: float) -> bool:
        """Return whether the next message may go."""
        return self.wait_s(now) <= 0 and self._bucket.available(now) >= 1

    def sent(self, now: float) -> None:
        """A message was sent."""
        self._bucket.take(1, now)
        self._sent += 1

    def confirmed(self, count: int = 1) -> None:
        """The broker took ``count`` messages."""
        self._confirmed += count

    def nacked(self, count: int = 1) -> None:
        """The broker refused ``count`` messages."""
        self._nacked += count

    def lost(self, count: int = 1) -> None:
        """The connection was lost before the broker answered about ``count`` messages: it never will."""
        self._lost += count
