"""What passes a consumer, as the counters of its reports: deliveries, settlements, service times, waits.

The proxy does not see work, but it sees when a message is delivered and when it is settled. The n-th message delivered
to a consumer that works on C messages at a time starts when it arrives, or when the (n − C)-th settlement has passed,
whichever is later. C is found by comparing: a message that meets an idle consumer starts at once, so its service time
is known whatever C is. If the others then seem to take less, more of them are in work at a time than thought.
Of a message that was seen to leave for the queue as well, that start tells how long it waited.

A consumer that may hold no more than it works on has nothing at hand when it is done: until the acknowledgement has
reached the broker and the next message the consumer, it cannot work. That time belongs to the message if the message
was waiting meanwhile. (As time without work it would look as if more in the queue could help.)
Must not know: frames, channels.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from backpressure.core.histogram import Histogram

_MOST_WORKERS = 1000
_SAME_TIME_S = 1.0
_RATIOS, _IDLE_TIMES = 15, 5  # that many messages, after that many idle times, say something
_FEWER, _MORE = 0.5, 1.6
_MOST_DEPARTURES = 10_000
_GAPS, _ENOUGH_GAPS, _ROUND_TRIPS = 50, 20, 3


class Departures:
    """When messages left for a queue, to be found when they are delivered.

    A message is known by ``marks``, an integer from its size and the beginning of its body; of messages that look alike
    the first to leave is the first to come. Beyond ten thousand the oldest are forgotten.
    """

    __slots__ = ("_count", "_left_at")

    def __init__(self) -> None:
        self._left_at: OrderedDict[int, deque[float]] = OrderedDict()
        self._count = 0

    def left(self, marks: int, now: float) -> None:
        """A message has left for the queue."""
        alike = self._left_at.get(marks)
        if alike is None:
            alike = self._left_at[marks] = deque()
        alike.append(now)
        self._count += 1
        if self._count > _MOST_DEPARTURES:
            oldest, left_at = self._left_at.popitem(last=False)
            left_at.popleft()
            self._count -= 1
            if left_at:
                self._left_at[oldest] = left_at

    def came(self, marks: int) -> float | None:
        """Return when the message that is delivered now had left; None: it was not seen."""
        alike = self._left_at.get(marks)
        if alike is None:
            return None
        self._count -= 1
        left_at = alike.popleft()
        if not alike:
            del self._left_at[marks]
        return left_at


@dataclass(slots=True, eq=False)
class Delivered:
    """A message that a consumer holds: its number, and whether the consumer was idle when it came.

    ``left_at``: when it was seen to leave for the queue; None: it was not. ``since``: from when on the consumer could
    do nothing else; ``freed_at``: when the place became free that it has taken, if the consumer was full.
    """

    consumer: WatchedConsumer
    at: float
    number: int
    alone: bool
    since: float
    freed_at: float | None = None
    left_at: float | None = None


class QueueTally:
    """What passed of one queue since the proxy started, over all its consumers; ``held`` is a level."""

    __slots__ = (
        "acked",
        "delivered",
        "got",
        "held",
        "lost",
        "redelivered",
        "rejected",
        "requeued",
        "service",
        "unseen",
        "wait",
    )

    def __init__(self) -> None:
        self.delivered = self.got = self.unseen = self.redelivered = 0
        self.acked = self.rejected = self.requeued = self.lost = 0
        self.held = 0
        self.service = Histogram()
        self.wait = Histogram()


class WatchedConsumer:
    """One subscription to one queue (``basic.consume`` … ``basic.cancel``).

    Attributes:
        number: different from that of every other consumer of this proxy.
        queue: which it consumes.
        no_ack: the broker takes each message for settled when it is delivered: what becomes of it is not seen.
        shared_prefetch: how many the consumers of its channel may hold together; 0: any number.
        held: delivered and not settled.
        delivered, acked, rejected, requeued, redelivered: totals.
        workers: on how many messages it seems to work at a time.
        service_sum_s, service_sum_s2: of the settled messages.
        departures: when messages left for its queue, if it is paced here.
        wait: from leaving this proxy for the queue to the start of the work, of messages seen on both sides.
    """

    def __init__(self, number: int, queue: str, tally: QueueTally, *, no_ack: bool, prefetch: int) -> None:
        """``prefetch``: how many messages it may hold by itself; 0: any number."""
        self.number = number
        self.queue = queue
        self.no_ack = no_ack
        self.shared_prefetch = 0
        self._own_prefetch = prefetch
        self.held = 0
        self.delivered = self.acked = self.rejected = self.requeued = self.redelivered = 0
        self.workers = 1
        self.service_sum_s = self.service_sum_s2 = 0.0
        self.wait = Histogram()
        self.departures: Departures | None = None
        self._tally = tally
        self._settled = 0
        self._settled_at: deque[float] = deque(maxlen=_MOST_WORKERS)
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._alone_s = 0.0
        self._alone_at = float("-inf")
        self._idle_times = 0
        self._ratios: deque[tuple[int, float]] = deque(maxlen=_RATIOS)
        self._freed_at: deque[float] = deque(maxlen=_MOST_WORKERS)
        self._gaps_s: deque[float] = deque(maxlen=_GAPS)

    @property
    def prefetch(self) -> int:
        """How many messages it may hold; 0: any number."""
        limits = [limit for limit in (self._own_prefetch, self.shared_prefetch) if limit]
        return min(limits, default=0)

    def deliver(self, now: float, *, redelivered: bool) -> Delivered | None:
        """A message was delivered; return what `settle` wants, or None for one that is not acknowledged."""
        self.delivered += 1
        self.redelivered += redelivered
        tally = self._tally
        tally.delivered += 1
        tally.redelivered += redelivered
        if self.no_ack:
            tally.unseen += 1
            return None
        self._work(now)
        self.held += 1
        tally.held += 1
        one = Delivered(self, now, self._settled + self.held, alone=self.held == 1, since=now)
        if self._freed_at:
            one.freed_at = self._freed_at.popleft()
            if self.departures is None or redelivered:
                self.seen_to_leave(one, None)
        return one

    def seen_to_leave(self, one: Delivered, left_at: float | None) -> None:
        """The message that was just delivered had left for the queue at that time; None: nobody knows when."""
        one.left_at = left_at
        if one.freed_at is None:
            return
        gap_s = one.at - one.freed_at
        self._gaps_s.append(gap_s)
        if left_at is not None:
            waited = left_at <= one.freed_at
        else:
            waited = len(self._gaps_s) >= _ENOUGH_GAPS and gap_s <= _ROUND_TRIPS * min(self._gaps_s)
        if waited:
            self._busy_s += gap_s
            one.since = one.freed_at

    def settle(self, messages: Sequence[Delivered], now: float, *, gone: bool, acked: bool) -> None:
        """Messages were settled at once; ``gone``: they have left the queue; ``acked``: because they are done."""
        self._work(now)
        count = len(messages)
        self.held -= count
        tally = self._tally
        tally.held -= count
        if not gone:
            self.requeued += count
            tally.requeued += count
        elif acked:
            self.acked += count
            tally.acked += count
        else:
            self.rejected += count
            tally.rejected += count
        if 0 < self.prefetch <= self.workers:
            self._freed_at.extend([now] * count)
        first, at_a_time = messages[0], min(count, self.workers)
        service_s = self._service_s(first.since, first.number, now)
        began_at, service_s = now - service_s, service_s * at_a_time / count  # settled together: each took its part
        for place, one in enumerate(messages):
            if gone:
                self.service_sum_s += service_s
                self.service_sum_s2 += service_s * service_s
                tally.service.record(service_s)
                if one.left_at is not None:
                    wait_s = max(one.at, began_at + place // at_a_time * service_s) - one.left_at
                    self.wait.record(wait_s)
                    tally.wait.record(wait_s)
            self._compare(service_s, now, alone=one.alone)
        for _ in range(count):
            self._settled += 1
            self._settled_at.append(now)

    def lose(self, count: int, now: float) -> None:
        """The channel is gone, or everything was recovered: messages go back to the queue."""
        self._work(now)
        self.held -= count
        self._settled += count
        self._settled_at.extend([now] * min(count, _MOST_WORKERS))
        self._tally.held -= count
        self._tally.lost += count

    def busy_s(self, now: float) -> float:
        """Return the time spent working, of all its workers together."""
        self._work(now)
        return self._busy_s

    def _work(self, now: float) -> None:
        self._busy_s += min(self.held, self.workers) * (now - self._busy_since)
        self._busy_since = now

    def _service_s(self, since: float, number: int, now: float) -> float:
        """Return how long the work on a message took; see the module."""
        back = self._settled - (number - self.workers)  # settlements since the one that let it start
        if number <= self.workers or back >= len(self._settled_at):
            return now - since
        if back < 0:
            return 0.0  # settled out of order: more are in work than thought
        return now - max(since, self._settled_at[-1 - back])

    def _compare(self, service_s: float, now: float, *, alone: bool) -> None:
        """Compare messages with the one that had met the consumer idle just before: work is alike at one time."""
        if alone:
            self._alone_s, self._alone_at = service_s, now
            self._idle_times += 1
            return
        if now - self._alone_at > _SAME_TIME_S or self._alone_s <= 0:
            return
        self._ratios.append((self._idle_times, service_s / self._alone_s))
        if len(self._ratios) < _RATIOS or self._idle_times - self._ratios[0][0] < _IDLE_TIMES:
            return
        usual = median(ratio for _, ratio in self._ratios)
        most = min(_MOST_WORKERS, self.held + 1, self.prefetch or _MOST_WORKERS)
        if usual < _FEWER and self.workers < most:
            self.workers = min(most, max(self.workers + 1, round(self.workers / max(usual, 1e-3))))
            self._ratios.clear()
        elif usual > _MORE and self.workers > 1:
            self.workers -= 1
            self._ratios.clear()
