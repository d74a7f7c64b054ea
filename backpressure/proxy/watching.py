"""What passes a consumer, as the counters of its reports: deliveries, settlements, service times.

The proxy does not see work, but it sees when a message is delivered and when it is settled. The n-th message delivered
to a consumer that works on C messages at a time starts when it arrives, or when the (n − C)-th settlement has passed,
whichever is later. C is found by comparing: a message that meets an idle consumer starts at once, so its service time
is known whatever C is. If the others then seem to take less, more of them are in work at a time than thought.
Must not know: frames, channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from backpressure.core.histogram import Histogram

__all__ = ["QueueTally", "WatchedConsumer"]

_MOST_WORKERS = 1000
_SAME_TIME_S = 1.0
_RATIOS, _IDLE_TIMES = 15, 5  # that many messages, after that many idle times, say something
_FEWER, _MORE = 0.5, 1.6


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
    )

    def __init__(self) -> None:
        self.delivered = self.got = self.unseen = self.redelivered = 0
        self.acked = self.rejected = self.requeued = self.lost = 0
        self.held = 0
        self.service = Histogram()


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
        self._tally = tally
        self._settled = 0
        self._settled_at: deque[float] = deque(maxlen=_MOST_WORKERS)
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._alone_s = 0.0
        self._alone_at = float("-inf")
        self._idle_times = 0
        self._ratios: deque[tuple[int, float]] = deque(maxlen=_RATIOS)

    @property
    def prefetch(self) -> int:
        """How many messages it may hold; 0: any number."""
        limits = [limit for limit in (self._own_prefetch, self.shared_prefetch) if limit]
        return min(limits, default=0)

    def deliver(self, now: float, *, redelivered: bool) -> int:
        """A message was delivered; return its number, which `settle` wants, negative if it met an idle consumer."""
        self.delivered += 1
        self.redelivered += redelivered
        tally = self._tally
        tally.delivered += 1
        tally.redelivered += redelivered
        if self.no_ack:
            tally.unseen += 1
            return 0
        self._work(now)
        self.held += 1
        tally.held += 1
        number = self._settled + self.held
        return -number if self.held == 1 else number

    def settle(self, messages: Sequence[tuple[float, int]], now: float, *, gone: bool, acked: bool) -> None:
        """Messages were settled at once, each given by when it was delivered and its number.

        ``gone``: they have left the queue; ``acked``: because they are done.
        """
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
        for at, number in messages:
            service_s = self._service_s(at, abs(number), now)
            if gone:
                self.service_sum_s += service_s
                self.service_sum_s2 += service_s * service_s
                tally.service.record(service_s)
            self._compare(service_s, now, alone=number < 0)
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

    def _service_s(self, delivered_at: float, number: int, now: float) -> float:
        """Return how long the work on a message took; see the module."""
        back = self._settled - (number - self.workers)  # settlements since the one that let it start
        if number <= self.workers or back >= len(self._settled_at):
            return now - delivered_at
        if back < 0:
            return 0.0  # settled out of order: more are in work than thought
        return now - max(delivered_at, self._settled_at[-1 - back])

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
