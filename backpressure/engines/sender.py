"""Sends what the schedule offers, as the law's pace and the broker's answers allow.

Sending is pipelined: up to ``confirm_window`` messages are in flight and nothing ever waits for a single confirm. Three
things may hold a message back: the schedule (nothing offered yet), the token bucket (the law's rate), and the window
(the broker's answers). Urgent messages (requested ones, and those that a lost connection left open) skip the first two.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from math import inf

from backpressure.core.histogram import Histogram
from backpressure.core.limiters import TokenBucket
from backpressure.core.schedule import ArrivalSchedule
from backpressure.core.signals import Decision
from backpressure.engines.clock import Clock, Waker
from backpressure.engines.outbox import Composer, Outbox, Outgoing
from backpressure.engines.payloads import PayloadSource, profile_of, recorded_times_s
from backpressure.engines.topology import QueueKeeper
from backpressure.errors import NotConnectedError
from backpressure.settings import Settings
from backpressure.telemetry.journal_file import JournalWriter
from backpressure.telemetry.tracing import Tracer
from backpressure.transports.base import FULL, Cause, Refusal, Transport

log = logging.getLogger(__name__)

_SAY_REFUSED_EVERY_S = 30.0
_SHORTEST_SLEEP_S = 0.002  # messages due within this go out together: one wake-up, one write
_LONGEST_SLEEP_S = 0.05
_MOST_BUFFERED_BYTES = 4 << 20


class Sender:
    """Schedule, token bucket, window and publisher of one producer (a `PublisherListener`).

    Attributes:
        composer: creates the messages.
        outbox: keeps each until it is settled.
        schedule: the offered load.
        scheduled: how many of the offered messages were accepted.
        queues: keeps the queues in place; nothing is sent while they may be gone.
        limiter_delay: for how long the law held each message back.
        was_limited: whether something other than the law limited it between the last two ticks.
        waker: ends a pause when something has happened.
        paused, stopping: nothing is offered for now, or any more.
        blocked, blocked_events: the broker's alarm, and how often there was one.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        session: int,
        clock: Clock,
        *,
        retries: bool,
        journal: JournalWriter | None,
        tracer: Tracer | None,
        on_settled: Callable[[], None],
        source: PayloadSource | None = None,
    ) -> None:
        """Wire it; nothing connects yet.

        ``retries``: a refused message is sent again. ``on_settled`` is called after every answer of the broker.
        ``source`` makes the payloads; None: they are ours.
        """
        self.session = session
        self._settings = settings
        self._clock = clock
        self._tracer = tracer
        self._on_settled = on_settled
        self._source = source
        self._publisher = transport.publisher()
        self.waker = Waker()
        self.queues = QueueKeeper(transport, settings.queue, on_restored=self.waker.wake)
        self.composer = Composer(settings, session, retries=retries)
        producer = settings.producer
        self.outbox = Outbox(session, producer.confirm_window, producer.nack_pause_ms / 1000, clock, journal)
        now = clock.now()
        self._profile = profile_of(settings)
        self._profile_from = self._profile_changes = now
        times_s = recorded_times_s(settings)
        self.schedule = ArrivalSchedule(producer.offered_per_s, producer.burst_ms / 1000, now, _gap(settings), times_s)
        self._bucket = TokenBucket(producer.offered_per_s, producer.burst_ms / 1000, now)
        self.limiter_delay = Histogram()
        self.scheduled = 0
        self.was_limited = False
        self.paused = producer.start_paused
        self.stopping = False
        self.blocked = False
        self.blocked_events = 0
        self._connected = False
        self._limited = False
        self._held_by_law = False
        self._said_refused_at: dict[Cause, float] = {}
        self._said_returned_at = -inf

    async def start(self) -> None:
        """Connect; raises `TransportError`."""
        await self._publisher.start(self)

    async def stop(self) -> None:
        """Flush what was handed over, and close the connections."""
        await self.queues.stop()
        await self._publisher.stop()

    def use(self, settings: Settings, *, retries: bool) -> None:
        """Switch to other settings: rate, arrivals, batch, burst, window, payload, names, answer to a refusal."""
        producer, before, now = settings.producer, self._settings.producer, self._clock.now()
        self._settings = settings
        if (producer.arrivals, producer.burst_ms) != (before.arrivals, before.burst_ms):
            self.schedule.reshape(producer.burst_ms / 1000, _gap(settings), now)
            self._bucket.set_burst(producer.burst_ms / 1000, now)
        if producer.profile != before.profile:
            self._profile, self._profile_from = profile_of(settings), now
        if not self.paused:
            self._follow_profile(now)
        self.outbox.in_flight.limit = producer.confirm_window
        self.outbox.nack_pause_s = producer.nack_pause_ms / 1000
        self.queues.queue = settings.queue
        self.composer.use(settings, retries=retries)
        self.waker.wake()

    def apply(self, decision: Decision) -> None:
        """Send at the law's rate from now on."""
        self._bucket.set_rate(decision.rate_per_s, self._clock.now())
        limit = self._settings.producer.confirm_window
        self.outbox.in_flight.limit = min(limit, decision.window or limit)
        self.waker.wake()

    def pause(self) -> None:
        """Offer nothing more until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Offer messages again, from now on."""
        if self.paused:
            self.paused = False
            now = self._clock.now()
            self.schedule.restart(now)
            self._profile_from = now
            self._follow_profile(now)
            self._bucket.drain(now)
            self.waker.wake()

    def request(self, given_id: str | None, body: bytes, processing_time_s: float | None, traceparent: str) -> Outgoing:
        """Accept a requested message, which is sent next. See `Composer.requested`."""
        item = self.composer.requested(given_id, body, processing_time_s, self._clock.wall_ns(), traceparent)
        self.outbox.add_urgent(item)
        self.waker.wake()
        return item

    @property
    def offered_per_s(self) -> float:
        """The offered load: 0 while nothing is offered, infinite where it is as fast as can be."""
        if self.paused or self.stopping or self.schedule.exhausted or self.ran_out:
            return 0.0
        return self.schedule.rate_per_s

    def take_application_limited(self) -> bool:
        """Return whether there was less to send than allowed since the last call; see ``was_limited``."""
        self.was_limited, self._limited = self._limited or self.paused, False
        return self.was_limited

    # --- sending --------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a broker to send to, with the queues in place."""
        return self._connected and self.queues.in_place

    @property
    def lacks_queue(self) -> bool:
        """Whether there is a broker, but its queues are not known to be in place."""
        return self._connected and not self.queues.in_place

    @property
    def limit_reached(self) -> bool:
        """Whether all messages up to the limit, or all that there are, were accepted; never without an end."""
        limit = self._settings.producer.limit
        return (bool(limit) and self.scheduled >= limit) or self.schedule.exhausted or self.ran_out

    @property
    def ran_out(self) -> bool:
        """Whether a function of the user's makes the payloads, and will make no more."""
        return self._source is not None and self._source.ended

    @property
    def _starved(self) -> bool:
        """Whether the next payload is still being made."""
        return self._source is not None and not self._source

    def send_due(self) -> None:
        """Send what may be sent now: first what is urgent, then refused messages and new ones at the law's pace."""
        now = self._clock.now()
        if self._held_by_law:
            self._bucket.drain(now)  # what the law's window held back must not be sent in a burst
        while self.outbox.urgent and self._may_send():
            self._send(self.outbox.next_urgent())
        if not self.connected:
            self._limited = True  # an empty queue is no sign of fast consumers then
        if self.paused:
            return
        if now >= self._profile_changes:
            self._follow_profile(now)
        self._have_payloads_made(now)
        sent = 0
        while sent < self._settings.producer.batch_size and self._bucket.available(now) >= 1 and self._may_send():
            if self.outbox.due_again(now):
                self._bucket.take(1, now)
                self._send(self.outbox.next_again())
            elif not self.limit_reached and not self._starved and self.schedule.pending(now) > 0:
                due = self._due(now)
                self._bucket.take(1, now)
                self.scheduled += 1
                given = None if self._source is None else self._source.take()
                self._send(self.composer.scheduled(self._clock.to_wall_ns(due), given))
            else:
                self._limited = True
                break
            sent += 1
        full = not self.outbox.in_flight.space
        self._held_by_law = full and self.outbox.in_flight.limit < self._settings.producer.confirm_window
        if full:
            self._limited = True  # the broker's answers hold it back, and not the rate

    def pause_s(self) -> float:
        """Return for how long nothing can be sent, unless something happens."""
        if not self._may_send() or (self.paused and not self.outbox.urgent):
            return _LONGEST_SLEEP_S
        now = self._clock.now()
        nothing = self.limit_reached or self._starved
        waits = [inf if nothing else self.schedule.wait_s(now), max(0.0, self._profile_changes - now)]
        if (again := self.outbox.again_wait_s(now)) is not None:
            waits.append(again)
        wait = max(min(waits), self._bucket.wait_s(now))
        if not wait:
            return 0.0  # the batch was full before everything due was sent
        return min(max(wait, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S)

    def _have_payloads_made(self, now: float) -> None:
        """Ask for what is due now, and for one more: it can be sent as soon as it is due."""
        if self._source is None:
            return
        producer = self._settings.producer
        pending = inf if self.schedule.rate_per_s == inf else self.schedule.pending(now)
        due = min(pending, self._bucket.available(now), producer.batch_size)
        wanted = self.scheduled + int(due) + 1
        self._source.make_until(min(wanted, producer.limit or wanted))

    def _follow_profile(self, now: float) -> None:
        """Offer as much as the profile says for this moment."""
        since_s = now - self._profile_from
        share = self._profile.share(since_s)
        self.schedule.set_rate(self._settings.producer.offered_per_s * share if share else 0.0, now)
        self._profile_changes = self._profile_from + self._profile.next_change_s(since_s)

    def _may_send(self) -> bool:
        return (
            self.connected
            and not self.blocked
            and self.outbox.in_flight.space > 0
            and self._publisher.write_buffer_bytes < _MOST_BUFFERED_BYTES
        )

    def _due(self, now: float) -> float:
        """Take the next arrival and return when it should have been sent: when it was offered and the law allowed it.

        A message that is sent late because this process was busy keeps its due time: the delay is real.
        """
        arrived = self.schedule.take()
        due = arrived if self._bucket.rate_per_s == inf else max(arrived, self._bucket.accrued_at(0, now))
        self.limiter_delay.record(due - arrived)
        return due

    def _send(self, item: Outgoing) -> None:
        queue = self._settings.queue
        if self._tracer is not None and item.span is None:
            item.traced(self._tracer.sending(item.message, self._clock.wall_ns()))
        message = item.stamped(self._clock.wall_ns())
        try:
            key = queue.key if item.routing_key is None else item.routing_key
            tag = self._publisher.publish(message, exchange=queue.exchange, routing_key=key)
        except NotConnectedError:
            self._connected = False
            self.outbox.not_sent(item)
            return
        self.outbox.sent(tag, item)

    # --- what the broker says (PublisherListener) -------------------------------------------------------------------

    def on_ready(self) -> None:
        """A channel is open: what an earlier one left unconfirmed goes out first."""
        self._connected = True
        self.blocked = False
        self._bucket.drain(self._clock.now())
        self.waker.wake()

    def on_confirmed(self, tag: int, multiple: bool) -> None:
        """The broker took it."""
        self.outbox.confirm(tag, multiple=multiple)
        self._settled()

    def on_nacked(self, tag: int, multiple: bool, refusal: Refusal = FULL) -> None:
        """The broker refused it, as a rule because the queue is full."""
        now = self._clock.now()
        if now - self._said_refused_at.get(refusal.cause, -inf) >= _SAY_REFUSED_EVERY_S:
            self._said_refused_at[refusal.cause] = now
            fate = "sent again" if self.composer.retries and not refusal.final else "given up"
            bounded = refusal is FULL and not self._settings.queue.predeclared
            bound = f" (bound: {self._settings.queue.max_length})" if bounded else ""
            log.warning("%s%s: what is refused is %s", refusal.reason, bound, fate)
        self.outbox.nack(tag, multiple=multiple, refusal=refusal)
        self._settled()

    def on_returned(self, message_id: str | None, reason: str) -> None:
        """No queue is bound for it."""
        now, queue = self._clock.now(), self._settings.queue
        if now - self._said_returned_at >= _SAY_REFUSED_EVERY_S:
            self._said_returned_at = now
            keys = ", ".join(key or "''" for key in queue.bindings)
            place = f"exchange {queue.exchange} (key {keys})" if queue.exchange else queue.work
            log.warning("no queue takes what is published to %s, or some of it: it is returned (%s)", place, reason)
        if self.outbox.mark_returned(message_id, reason):
            self.queues.lost()

    def on_blocked(self, reason: str) -> None:
        """An alarm at the broker: stop publishing until it is over."""
        self.blocked = True
        self.blocked_events += 1
        log.warning("the broker blocks publishing: %s", reason)

    def on_unblocked(self) -> None:
        """The alarm is over."""
        self.blocked = False
        log.warning("the broker accepts messages again")
        self.waker.wake()

    def on_lost(self, error: Exception) -> None:  # noqa: ARG002 - the transport has logged it
        """The connection is gone; everything unconfirmed will be published again."""
        self._connected = False
        self.outbox.connection_lost()
        self.queues.lost()

    def _settled(self) -> None:
        self.waker.wake()
        self._on_settled()


def _gap(settings: Settings) -> Callable[[], float] | None:
    """Return what makes the gaps between arrivals random, or None: they are even."""
    source = random.Random(settings.process.seed)  # noqa: S311 - arrival times, not secrets
    return (lambda: source.expovariate(1.0)) if settings.producer.arrivals == "poisson" else None
