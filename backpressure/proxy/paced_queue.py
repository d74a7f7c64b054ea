"""One paced queue: what the law allows, what waits for it in which channel, and what the broker said to what was sent.

Messages of all connections to one queue share its pace. Channels that have something to wait with form a ring and send
one message each in turn, so a busy producer cannot displace a quiet one. Time is passed in, or read from the clock that
was given. Must not know: frames, sockets, tasks.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol

from backpressure.core.histogram import Histogram
from backpressure.core.limiters import TokenBucket
from backpressure.core.message import MAX_SESSION
from backpressure.core.signals import Decision
from backpressure.proxy.watching import Departures

_UNLIMITED = 1 << 62
Forward = Callable[[list[bytes]], None]
Sent = Callable[["HeldItem", float], None]


class TimeSource(Protocol):
    """Tells the time."""

    def now(self) -> float:
        """Return monotonic seconds."""


class _InFlight:
    """How many messages are sent and not confirmed, and how many may be."""

    __slots__ = ("count", "limit")

    def __init__(self) -> None:
        self.count = 0
        self.limit = _UNLIMITED

    def __len__(self) -> int:
        return self.count


class Answers:
    """What the broker said to the messages of one queue that passed; totals.

    A message of a channel without confirms counts as confirmed when it is forwarded.
    """

    __slots__ = ("confirm_latency", "confirmed", "in_flight", "nacked", "returned")

    def __init__(self) -> None:
        self.confirmed = self.nacked = self.returned = 0
        self.in_flight = _InFlight()
        self.confirm_latency = Histogram()


class PacedQueue:
    """The gate in front of one queue.

    Attributes:
        name: of the queue.
        session: identity of this producer in reports.
        outbox: the broker's answers.
        arrived, published: messages that clients sent, and those that were let go; totals.
        would_have_waited: messages that passed at once only because nothing is held (``dry_run``).
        hold: for how long each message waited.
        decision: what the law decided last.
        dry_run: hold nothing, but count what would wait.
        paused: hold everything.
        engaged: whether the law is applied; before, every message passes at once.
        blocked: the broker has told a client to stop publishing.
        departures: when messages left, while a consumer is watched that may get them; else None.
    """

    def __init__(
        self, name: str, clock: TimeSource, *, burst_s: float, dry_run: bool, engaged: bool, wake: Callable[[], None]
    ) -> None:
        """``wake`` is called when something that waits may go sooner than thought."""
        self.name = name
        self.session = secrets.randbits(60) & MAX_SESSION
        self.outbox = Answers()
        self.arrived = self.published = self.would_have_waited = 0
        self.hold = Histogram()
        self.decision = Decision(inf, "starting")
        self.dry_run = dry_run
        self.paused = False
        self.engaged = engaged
        self.blocked = False
        self.blocked_events = 0
        self.was_limited = False
        self.departures: Departures | None = None
        self._clock = clock
        self._wake = wake
        self._bucket = TokenBucket(inf, burst_s, clock.now())
        self._ring: deque[ChannelLane] = deque()
        self._limited = False
        self._window_closed = False

    # --- who may send -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many channels wait."""
        return len(self._ring)

    @property
    def holds(self) -> bool:
        """Whether messages may have to wait here at all."""
        return self.engaged and not self.dry_run

    def admits(self, now: float) -> bool:
        """Return whether a message may go at once: one is allowed, and no other waits."""
        return not self._ring and self._may_send(now)

    def grant(self, now: float) -> None:
        """One message goes."""
        bucket = self._bucket
        if self.holds or bucket.available(now) >= 1:
            bucket.take(1, now)
        else:
            self.would_have_waited += 1
        if not self._ring and bucket.available(now) >= 1:
            self._limited = True

    def join(self, lane: ChannelLane) -> None:
        """Wait at the end of the ring."""
        self._ring.append(lane)

    def leave(self, lane: ChannelLane) -> None:
        """Wait no longer."""
        if lane in self._ring:
            self._ring.remove(lane)

    def release(self, now: float) -> None:
        """Let go what may go now."""
        for _ in range(10_000):  # with no limit, a ring that fills itself again must not hold up the event loop
            if not self._ring or not self._may_send(now):
                break
            lane = self._ring.popleft()
            self.grant(now)
            lane.granted(now)

    def wait_s(self, now: float) -> float:
        """Return the seconds until something that waits may go; infinite when only an event can tell."""
        if not self._ring:
            return inf
        if not self.holds:
            return 0.0
        return inf if self.paused or self._window_is_full else self._bucket.wait_s(now)

    @property
    def _window_is_full(self) -> bool:
        in_flight = self.outbox.in_flight
        return in_flight.count >= in_flight.limit

    def _may_send(self, now: float) -> bool:
        if not self.holds:
            return True
        if self.paused:
            return False
        if self._window_is_full:
            self._window_closed = self._limited = True  # the broker's answers hold it back, and not the rate
            return False
        if self._window_closed:
            self._window_closed = False
            self._bucket.drain(now)  # what the window held back must not leave in a burst
        return self._bucket.available(now) >= 1

    # --- what the control loop asks (`backpressure.engines.pacing.Paceable`) ----------------------------------------

    @property
    def lacks_queue(self) -> bool:
        """It sends where its clients say; they are told what is returned."""
        return False

    @property
    def offered_per_s(self) -> float:
        """The offered load: what clients would send is not known, and not limited."""
        return 0.0 if self.paused else inf

    def take_application_limited(self) -> bool:
        """Return whether clients sent less than the law allows at some moment since the last call."""
        idle = not self._ring and self._bucket.available(self._clock.now()) >= 1
        self.was_limited, self._limited = self._limited or idle or self.paused, False
        return self.was_limited

    def apply(self, decision: Decision) -> None:
        """Let messages go at the law's rate from now on."""
        self.decision = decision
        self._bucket.set_rate(decision.rate_per_s, self._clock.now())
        self.outbox.in_flight.limit = decision.window or _UNLIMITED
        if self._ring:
            self._wake()

    def set_blocked(self, *, blocked: bool) -> None:
        """The broker blocks some client that publishes here, or none any more."""
        if blocked and not self.blocked:
            self.blocked_events += 1
        self.blocked = blocked

    # --- what becomes of messages -----------------------------------------------------------------------------------

    def sent(self, *, confirms: bool, held_s: float) -> None:
        """A message was forwarded; ``confirms``: the broker will answer for it."""
        self.published += 1
        self.hold.record(held_s)
        if confirms:
            self.outbox.in_flight.count += 1
        else:
            self.outbox.confirmed += 1

    def answered(self, *, confirmed: bool, latency_s: float) -> None:
        """The broker took a message, or refused it."""
        box = self.outbox
        box.in_flight.count -= 1
        if confirmed:
            box.confirmed += 1
            box.confirm_latency.record(latency_s)
        else:
            box.nacked += 1
        if self._window_closed and self._ring:
            self._wake()

    def forget(self, count: int) -> None:
        """The broker will never answer for ``count`` messages: their channel is gone."""
        self.outbox.in_flight.count -= count
        if self._window_closed and self._ring:
            self._wake()


class HeldItem:
    """A message that waits, as far as it has arrived, or a method that must not overtake one."""

    __slots__ = ("frames", "message", "pending", "queues", "since", "tag")

    def __init__(
        self, frame: bytes, queues: tuple[PacedQueue, ...], now: float, *, message: bool, tag: int = 0
    ) -> None:
        """``queues``: those that have to grant it; none for a method or a message that is not paced.

        ``tag``: under which the broker will confirm it; 0: it will not.
        """
        self.frames = [frame]
        self.queues = queues
        self.pending = [queue for queue in queues if not _grants(queue, now)]
        self.since = now
        self.message = message
        self.tag = tag


class ChannelLane:
    """The waiting line of one channel; it is used up when nothing waits any more.

    A message waits until each paced queue that it reaches has granted it one token: the slowest queue governs. Behind
    it waits what must not overtake it: later messages, and methods whose meaning depends on what was published before
    (``tx.commit``, ``confirm.select``, ``channel.close``, ``queue.purge`` …). A message that is let go before its body
    has arrived is forwarded as it comes.
    """

    __slots__ = ("_forward", "_items", "_on_sent", "messages", "octets")

    def __init__(self, forward: Forward, on_sent: Sent) -> None:
        """``forward`` sends frames; ``on_sent`` is called with each message that begins to go, and the time."""
        self._items: deque[HeldItem] = deque()
        self._forward = forward
        self._on_sent = on_sent
        self.messages = 0
        self.octets = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def only_messages(self) -> bool:
        """Whether no method waits."""
        return self.messages == len(self._items)

    def add(self, held: HeldItem, now: float) -> bool:
        """Wait at the end; return False if it was let go at once, because nothing is before it and it need not wait."""
        self._items.append(held)
        self.messages += held.message
        self.octets += len(held.frames[0])
        if len(self._items) == 1:
            self._advance(now)
        return bool(self._items) and self._items[-1] is held

    def append(self, held: HeldItem, frame: bytes) -> None:
        """Take the next frame of a message that waits."""
        held.frames.append(frame)
        self.octets += len(frame)

    def granted(self, now: float) -> None:
        """The queue that the head waits for lets it go."""
        self._items[0].pending.pop()
        self._advance(now)

    def release_all(self, now: float) -> None:
        """Let everything go at once, in its order: the other side will ignore it, or this side is leaving."""
        self.leave()
        while self._items:
            self._go(now)

    def leave(self) -> None:
        """Leave the ring of the queue that the head waits for."""
        if self._items and self._items[0].pending:
            self._items[0].pending[-1].leave(self)

    def _advance(self, now: float) -> None:
        while self._items:
            pending = self._items[0].pending
            while pending and pending[-1].admits(now):
                pending.pop().grant(now)
            if pending:
                pending[-1].join(self)
                return
            self._go(now)

    def _go(self, now: float) -> None:
        held = self._items.popleft()
        self.messages -= held.message
        self.octets -= sum(map(len, held.frames))
        self._on_sent(held, now)
        self._forward(held.frames)


def _grants(queue: PacedQueue, now: float) -> bool:
    if queue.holds:
        return False
    queue.grant(now)
    return True
