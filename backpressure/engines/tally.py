"""What a consumer has done so far: counters, distributions, order, and the journal of every settled message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backpressure.core.histogram import Histogram
from backpressure.core.journal import ConsumerRecord, Outcome
from backpressure.core.ledger import Order, OrderTracker
from backpressure.core.message import Delivery, Metadata, value
from backpressure.engines.clock import Clock
from backpressure.engines.work import Work
from backpressure.telemetry.journal_file import JournalWriter


@dataclass(slots=True, eq=False)
class Job:
    """A message that a consumer holds."""

    delivery: Delivery
    metadata: Metadata
    received_ns: int
    available_at: float
    attempts: int = 0
    comes_again: bool = False  # its connection was lost: the broker delivers it again

    def wait_s(self, started_ns: int) -> float | None:
        """Return the queue wait of a message whose work starts then, or None when it does not tell when it was sent."""
        sent_ns = self.metadata.sent_ns
        return None if sent_ns is None else max(0.0, (started_ns - sent_ns) * 1e-9)


@value
class Consumed:
    """A settled message, for verbose output and the window."""

    delivery: Delivery
    metadata: Metadata
    outcome: Outcome
    queue_wait_s: float | None
    service_s: float


class Tally:
    """Totals since the consumer started.

    Attributes:
        delivered, redelivered: messages that arrived, and those of them the broker had delivered before.
        processed, dead_lettered: messages settled, one way or the other.
        failed, retried: attempts that failed, and those of them that are made again.
        first_at, last_at: when the first work began and the last message was settled; monotonic seconds.
        queue_wait, message_age, service: sent → work starts, intended → work starts, work; of settled messages.
        order: duplicates, disorder and gaps by id.
    """

    def __init__(self, clock: Clock, journal: JournalWriter | None) -> None:
        """``journal`` gets a record of every settled message, if there is one."""
        self.delivered = self.redelivered = 0
        self.processed = self.dead_lettered = 0
        self.failed = self.retried = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.queue_wait = Histogram()
        self.message_age = Histogram()
        self.service = Histogram()
        self.order = OrderTracker()
        self._service_sum_s2 = 0.0
        self._clock = clock
        self._journal = journal

    @property
    def settled(self) -> int:
        """Messages that are over: processed once or dead-lettered; a duplicate is not counted again."""
        return self.processed + self.dead_lettered - self.order.duplicates

    def settle(self, job: Job, work: Work, outcome: Outcome) -> Consumed:
        """Count one message whose fate is known."""
        now = self._clock.now()
        metadata = job.metadata
        started_ns = self._clock.to_wall_ns(work.started_at)
        wait_s = job.wait_s(started_ns)
        if outcome is Outcome.PROCESSED:
            self.processed += 1
            self.service.record(work.service_s)
            self._service_sum_s2 += work.service_s**2
        else:
            self.dead_lettered += 1
        if wait_s is not None:
            self.queue_wait.record(wait_s)
        if metadata.intended_ns is not None:
            self.message_age.record((started_ns - metadata.intended_ns) * 1e-9)
        if metadata.session is not None and metadata.sequence is not None:
            self._observe_order(job, metadata.session, metadata.sequence)
        self.first_at = self.first_at if self.first_at is not None else work.started_at
        self.last_at = now
        if self._journal is not None:
            self._journal.write(
                ConsumerRecord(
                    metadata.session or 0,
                    metadata.sequence or 0,
                    outcome,
                    metadata.intended_ns or 0,
                    metadata.sent_ns or 0,
                    job.received_ns,
                    started_ns,
                    self._clock.to_wall_ns(now),
                    job.delivery.redelivered,
                    job.attempts,
                )
            )
        return Consumed(job.delivery, metadata, outcome, wait_s, work.service_s)

    def report_fields(self) -> dict[str, Any]:
        """Return the part of a `ConsumerReport` that is counted here."""
        return {
            "delivered": self.delivered,
            "processed": self.processed,
            "failed": self.failed,
            "retried": self.retried,
            "dead_lettered": self.dead_lettered,
            "redelivered": self.redelivered,
            "duplicates": self.order.duplicates,
            "out_of_order": self.order.out_of_order,
            "service_sum_s": self.service.sum_s,
            "service_sum_s2": self._service_sum_s2,
            "queue_wait": self.queue_wait.copy(),
            "message_age": self.message_age.copy(),
            "service": self.service.copy(),
        }

    def _observe_order(self, job: Job, session: int, sequence: int) -> None:
        order = self.order.observe(session, sequence)
        if order is Order.OUT_OF_ORDER and (job.attempts > 1 or job.delivery.redelivered):
            self.order.out_of_order -= 1  # late because of its retries, not because of the broker
