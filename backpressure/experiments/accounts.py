"""What the journals of all processes say, gathered in one pass: the ledger, and every duration that is measured.

Pure. Each message costs a few bits in the ledger and 56 bytes of times, so a million messages fit in 60 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.core.ledger import Ledger, OrderTracker
from backpressure.experiments.anatomy import Anatomy

__all__ = ["Accounts", "Durations"]

_NS = 1_000_000_000


class Durations:
    """Pairs of a moment and the duration that belongs to it, both in nanoseconds."""

    def __init__(self) -> None:
        self.at_ns = array("q")
        self.length_ns = array("q")

    def add(self, at_ns: int, length_ns: int) -> None:
        """Append one."""
        self.at_ns.append(at_ns)
        self.length_ns.append(length_ns)

    def __len__(self) -> int:
        return len(self.at_ns)


class Accounts:
    """Fed with records and with what the queues still held; asked by the analysis.

    Attributes:
        ledger: where every message ended.
        anatomy: where the time of a sample of the messages went.
        waits: queue wait (sent → work starts) of every processed message, at the time its work started.
        end_to_end: intended → done, at the time it was done.
        confirms: sent → confirmed, at the time of the confirm.
        confirmed_by: messages confirmed to each producer process, by the second of the clock in which they were.
        delivered, redelivered: deliveries that were settled, and those of them that had been delivered before.
        out_of_order: processed after a later message of the same producer, within one consumer process.
    """

    def __init__(self, sampled_share: float = 1.0) -> None:
        """``sampled_share``: of how many messages all times are kept, for the anatomy."""
        self.ledger = Ledger()
        self.anatomy = Anatomy(sampled_share)
        self.waits = Durations()
        self.end_to_end = Durations()
        self.confirms = Durations()
        self.done_ns = array("q")
        self.confirmed_by: dict[str, dict[int, float]] = {}
        self.delivered = 0
        self.redelivered = 0
        self.out_of_order = 0

    def add_producer(self, process: str, records: Iterable[ProducerRecord]) -> None:
        """Add the journal of one producer."""
        ledger = self.ledger
        sets = {
            Outcome.CONFIRMED: ledger.confirmed,
            Outcome.REJECTED: ledger.rejected,
            Outcome.RETURNED: ledger.returned,
            Outcome.UNSETTLED: ledger.unsettled,
        }
        confirmed_in = self.confirmed_by.setdefault(
            process, {}
        )  # one that got nothing confirmed counts for fairness too
        for record in records:
            sets[record.outcome].add(record.session, record.sequence)
            if record.outcome is Outcome.CONFIRMED:
                second = record.settled_ns // _NS
                confirmed_in[second] = confirmed_in.get(second, 0) + 1
                self.confirms.add(record.settled_ns, record.settled_ns - record.sent_ns)
                self.anatomy.confirmed(record)

    def add_consumer(self, records: Iterable[ConsumerRecord]) -> None:
        """Add the journal of one consumer, whose records are in the order in which it finished messages."""
        order = OrderTracker()
        for record in records:
            self.delivered += 1
            self.redelivered += record.redelivered
            known = record.session != 0
            if record.outcome is Outcome.DEAD_LETTERED:
                if known:
                    self.ledger.handed_over.add(record.session, record.sequence)
                continue
            self.done_ns.append(record.done_ns)
            if record.sent_ns:
                self.waits.add(record.started_ns, record.started_ns - record.sent_ns)
            if record.intended_ns:
                self.end_to_end.add(record.done_ns, record.done_ns - record.intended_ns)
            if known:
                self.ledger.add_processed(record.session, record.sequence)
                order.observe(record.session, record.sequence)
                self.anatomy.processed(record)
        self.out_of_order += order.out_of_order
