"""What the journals of all processes say, gathered in one pass: the ledger, and every duration that is measured.

Pure. Each message costs a few bits in the ledger and 80 bytes of times, so a million messages fit in 90 MB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.core.ledger import Ledger, OrderTracker
from backpressure.experiments.latency_breakdown import LatencyBreakdown

__all__ = ["Accounts", "ConfirmTimes", "Durations", "Stays"]

_NEVER_NS = (1 << 63) - 1


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


class ConfirmTimes:
    """When a producer got its messages confirmed; in a simulation one may stand for several that are equal."""

    def __init__(self, members: int = 1) -> None:
        """``members``: how many producers it stands for."""
        self._at_ns = array("q")
        self._members = members

    def extend(self, at_ns: Iterable[int]) -> None:
        """Add some, in any order."""
        self._at_ns = array("q", sorted([*self._at_ns, *at_ns]))

    def count(self, from_ns: int, to_ns: int) -> float:
        """Return how many each member got confirmed in a stretch of time."""
        return (bisect_left(self._at_ns, to_ns) - bisect_left(self._at_ns, from_ns)) / self._members


class Stays:
    """When each message came, and when it left."""

    def __init__(self) -> None:
        self._came_ns = array("q")
        self._left_ns = array("q")
        self._in_order = True

    def add(self, came_ns: int, left_ns: int = _NEVER_NS) -> None:
        """Append one; without ``left_ns`` it never left."""
        self._came_ns.append(came_ns)
        self._left_ns.append(left_ns)
        self._in_order = False

    def __len__(self) -> int:
        return len(self._came_ns)

    def present(self, from_ns: int, to_ns: int) -> tuple[float, int]:
        """Return how many there were in a stretch of time, on average and at most."""
        if not self._in_order:
            self._came_ns, self._left_ns = array("q", sorted(self._came_ns)), array("q", sorted(self._left_ns))
            self._in_order = True
        came = self._came_ns[bisect_right(self._came_ns, from_ns) : bisect_left(self._came_ns, to_ns)]
        left = self._left_ns[bisect_right(self._left_ns, from_ns) : bisect_left(self._left_ns, to_ns)]
        at_first = bisect_right(self._came_ns, from_ns) - bisect_right(self._left_ns, from_ns)
        total_ns = at_first * (to_ns - from_ns) + sum(left) - sum(came) + (len(came) - len(left)) * to_ns
        most = number = at_first
        gone = 0
        for at_ns in came:
            while gone < len(left) and left[gone] <= at_ns:
                gone += 1
                number -= 1
            number += 1
            most = max(most, number)
        return total_ns / (to_ns - from_ns), most


class Accounts:
    """Fed with records and with what the queues still held; asked by the analysis.

    Attributes:
        ledger: where every message ended.
        breakdown: where the time of a sample of the messages went.
        waits: queue wait (sent → work starts) of every processed message, at the time its work started.
        end_to_end: intended → done, at the time it was done.
        confirms: sent → confirmed, at the time of the confirm.
        confirmed_by: when each producer process got its messages confirmed.
        stays: how long every message was in the work queue: from when it was sent until its work was done. Those that
            were dropped or lost are not in it, for nobody knows when.
        delivered, redelivered: deliveries that were settled, and those of them that had been delivered before.
        out_of_order: processed after a later message of the same producer, within one consumer process.
    """

    def __init__(self, sampled_share: float = 1.0) -> None:
        """``sampled_share``: of how many messages all times are kept, for the breakdown."""
        self.ledger = Ledger()
        self.breakdown = LatencyBreakdown(sampled_share)
        self.waits = Durations()
        self.end_to_end = Durations()
        self.confirms = Durations()
        self.done_ns = array("q")
        self.stays = Stays()
        self.confirmed_by: dict[str, ConfirmTimes] = {}
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
        confirmed_ns = array("q")
        for record in records:
            sets[record.outcome].add(record.session, record.sequence)
            if record.outcome is Outcome.CONFIRMED:
                confirmed_ns.append(record.settled_ns)
                self.confirms.add(record.settled_ns, record.settled_ns - record.sent_ns)
                self.breakdown.confirmed(record)
        # One that got nothing confirmed counts for fairness too.
        self.confirmed_by.setdefault(process, ConfirmTimes()).extend(confirmed_ns)

    def add_consumer(self, records: Iterable[ConsumerRecord]) -> None:
        """Add the journal of one consumer, whose records are in the order in which it finished messages."""
        order = OrderTracker()
        for record in records:
            self.delivered += 1
            self.redelivered += record.redelivered
            known = record.session != 0
            # One that is delivered again after its work was done has stayed from then on.
            again = known and (record.session, record.sequence) in self.ledger.processed
            self.stays.add(record.received_ns if again else record.sent_ns or record.received_ns, record.done_ns)
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
                self.breakdown.processed(record)
        self.out_of_order += order.out_of_order

    def add_left(self, records: Iterable[ProducerRecord]) -> None:
        """Add, from the journal of one producer, the stays of messages that the ledger has as left in the queue."""
        left = self.ledger.left_in_queue
        for record in records:
            if (record.session, record.sequence) in left:
                self.stays.add(record.sent_ns)
