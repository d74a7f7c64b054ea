"""What the plant's broker tells about a queue besides the probe's readings: statistics, consumers, offsets."""

from __future__ import annotations

from backpressure.core.evidence import ConsumerTerms, OffsetReading, QueueStatistics
from backpressure.core.plant.bounded_queue import WorkQueue
from backpressure.core.plant.stations import Workers

__all__ = ["LateCounts", "offsets_of", "terms_of"]


class LateCounts:
    """Ready and unacked messages as a broker's statistics tell them: counted once an interval, like RabbitMQ's.

    A quorum queue's counts can be read as soon as they are there. What the management API shows is a copy, made once an
    interval too, but at a moment of its own: between none and two intervals old.
    """

    def __init__(self, interval_s: float, counted_s: float, copied_s: float | None, queue: WorkQueue) -> None:
        """The next count is due at ``counted_s``, the next copy at ``copied_s``; None: the counts can be read.

        Until then there are those of before.
        """
        self.interval_s = interval_s
        self.collected = copied_s is not None
        self._counted_s = counted_s
        self._copied_s = copied_s
        self._counts = self._shown = len(queue.ready), queue.unacked

    def advance(self, queue: WorkQueue, now: float) -> None:
        """Count and copy what is due."""
        if now >= self._counted_s:
            self._counted_s += self.interval_s
            self._counts = len(queue.ready), queue.unacked
        if self._copied_s is None:
            self._shown = self._counts
        elif now >= self._copied_s:
            self._copied_s += self.interval_s
            self._shown = self._counts

    def told(self, arrived_s: float) -> QueueStatistics:
        """Return what a reader gets."""
        ready, unacked = self._shown
        return QueueStatistics(ready=ready, unacked=unacked, arrived_s=arrived_s, collected=self.collected)


def terms_of(workers: Workers) -> ConsumerTerms:
    """Return on what terms ``workers`` consume."""
    strangers = workers.strangers
    count = 0 if workers.state == "paused" else workers.count  # paused ones have cancelled
    alien = 0 if strangers is None else min(count, strangers.count)
    own = (count - alien) * workers.prefetch
    if strangers is None or not alien:
        return ConsumerTerms(count=count, prefetch=own)
    auto = alien if strangers.acks == "auto" else 0
    limited = strangers.prefetch > 0 and not auto
    return ConsumerTerms(count=count, prefetch=own + alien * strangers.prefetch if limited else None, auto_ack=auto)


def offsets_of(queue: WorkQueue, arrived_s: float) -> OffsetReading:
    """Return how far producers and consumers of a log of one partition are."""
    end = queue.arrived
    return OffsetReading(ends=(end,), committed=(end - queue.dropped - queue.uncommitted,), arrived_s=arrived_s)
