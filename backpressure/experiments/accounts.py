"""The ledger and all measured durations, collected from the journals of all processes in one pass; and where time went.

Pure. Each message costs a few bits in the ledger and 80 bytes of times, so a million messages fit in 90 MB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.core.ledger import Ledger, OrderTracker

_NEVER_NS = (1 << 63) - 1


class Durations:
    """Moments and the duration that belongs to each, in nanoseconds."""

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
    """When a producer's messages were confirmed. In a simulation one may stand for several equal producers."""

    def __init__(self, members: int = 1) -> None:
        """``members``: how many producers this one stands for."""
        self._at_ns = array("q")
        self._members = members

    def extend(self, at_ns: Iterable[int]) -> None:
        """Add some, in any order."""
        self._at_ns = array("q", sorted([*self._at_ns, *at_ns]))

    def count(self, from_ns: int, to_ns: int) -> float:
        """Return how many confirms each member got in a stretch of time."""
        return (bisect_left(self._at_ns, to_ns) - bisect_left(self._at_ns, from_ns)) / self._members


class Stays:
    """When each message entered the work queue and when it left."""

    def __init__(self) -> None:
        self._came_ns = array("q")
        self._left_ns = array("q")
        self._in_order = True

    def add(self, came_ns: int, left_ns: int = _NEVER_NS) -> None:
        """Append one; without ``left_ns`` it is still there."""
        self._came_ns.append(came_ns)
        self._left_ns.append(left_ns)
        self._in_order = False

    def __len__(self) -> int:
        return len(self._came_ns)

    def present(self, from_ns: int, to_ns: int) -> tuple[float, int]:
        """Return the mean and the largest number of messages present in a stretch of time."""
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
    """Everything the analysis needs to know about the messages of a run.

    Attributes:
        ledger: where every message ended.
        breakdown: where the time of a sample of the messages went.
        waits: queue wait (sent → work starts) of every processed message, at the time its work started.
        end_to_end: intended → done, at the time it was done.
        confirms: sent → confirmed, at the time of the confirm.
        confirmed_by: when the messages of each producer process were confirmed.
        stays: the time every message spent in the work queue: from sent to done. Dropped and lost messages are missing,
            because it is not known when they left.
        lost_ns: when each lost message was last seen: confirmed, or given up by a consumer; of some it is not known.
        delivered, redelivered: settled deliveries, and how many of them had been delivered before.
        out_of_order: processed after a later message of the same producer, within one consumer process.
    """

    def __init__(self, sampled_share: float = 1.0) -> None:
        """``sampled_share``: the share of the messages whose times are all kept, for the latency breakdown."""
        self.ledger = Ledger()
        self.breakdown = LatencyBreakdown(sampled_share)
        self.waits = Durations()
        self.end_to_end = Durations()
        self.confirms = Durations()
        self.done_ns = array("q")
        self.stays = Stays()
        self.lost_ns = array("q")
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
        # A producer without a single confirm counts for fairness too.
        self.confirmed_by.setdefault(process, ConfirmTimes()).extend(confirmed_ns)

    def add_consumer(self, records: Iterable[ConsumerRecord]) -> None:
        """Add the journal of one consumer; its records are in the order in which the messages were done."""
        order = OrderTracker()
        for record in records:
            self.delivered += 1
            self.redelivered += record.redelivered
            known = record.session != 0
            # Done before, but its acknowledgement was lost: it stayed in the queue, at least since this delivery.
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
        """Add, from a producer's journal, the stays of the messages that were left in the queue."""
        left = self.ledger.left_in_queue
        for record in records:
            if (record.session, record.sequence) in left:
                self.stays.add(record.sent_ns)

    def add_lost(self, records: Iterable[ProducerRecord] | Iterable[ConsumerRecord]) -> None:
        """Add, from a journal, when lost messages were last seen, once all journals and queues have been read."""
        ledger = self.ledger
        for record in records:
            seen_ns = 0
            if isinstance(record, ConsumerRecord):
                seen_ns = record.done_ns if record.outcome is Outcome.DEAD_LETTERED else 0
            elif record.outcome is Outcome.CONFIRMED:
                seen_ns = 0 if (record.session, record.sequence) in ledger.handed_over else record.settled_ns
            if seen_ns and ledger.is_lost(record.session, record.sequence):
                self.lost_ns.append(seen_ns)


PARTS = ("held back", "taken", "queued", "prefetched", "worked on")

_EDGES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_SPREAD = 0x9E3779B1  # Knuth's multiplicative hash: it does not correlate with batches or prefetch windows
_RANGE = 1 << 32


@dataclass(frozen=True, slots=True)
class Band:
    """The messages between two percentiles of the end-to-end time, and the mean of each of `PARTS`, in ms."""

    lower: float
    upper: float
    messages: int
    parts_ms: tuple[float, ...]

    @property
    def total_ms(self) -> float:
        """Mean end-to-end time."""
        return sum(self.parts_ms)


class LatencyBreakdown:
    """Where the time of a message goes, part by part, for a sample of all messages.

    It collects the times from the records of producers and consumers. The parts follow one another and add up to the
    end-to-end time:

    =========  ===========================================================================================
    held back  intended → sent: what the producer's pace, its confirm window and retries cost
    taken      sent → confirmed, or delivered when that comes first: what the broker needs to take it
    queued     → delivered: in the queue
    prefetched → work starts: in the consumer's own buffer, and the pauses before further attempts
    worked on  → done
    =========  ===========================================================================================
    """

    def __init__(self, share: float = 1.0) -> None:
        """``share`` of all messages is sampled, the same ones at both ends."""
        self._limit = int(min(1.0, share) * _RANGE)
        self._confirmed_ns: dict[tuple[int, int], int] = {}
        self._done: dict[tuple[int, int], ConsumerRecord] = {}

    def confirmed(self, record: ProducerRecord) -> None:
        """Note when the broker confirmed a message."""
        if self._is_sampled(record.sequence):
            self._confirmed_ns[record.session, record.sequence] = record.settled_ns

    def processed(self, record: ConsumerRecord) -> None:
        """Note the times of a message of ours; of duplicates the first counts."""
        if self._is_sampled(record.sequence) and record.intended_ns:
            self._done.setdefault((record.session, record.sequence), record)

    def bands(self) -> list[Band]:
        """Return the bands from the fastest messages to the slowest, without those that are empty."""
        rows = sorted((self._parts_ns(key, record) for key, record in self._done.items()), key=sum)
        bounds = [round(edge * len(rows)) for edge in _EDGES]
        return [
            _band(lower, upper, rows[first:last])
            for (lower, upper), (first, last) in zip(pairwise(_EDGES), pairwise(bounds), strict=True)
            if first < last
        ]

    def _parts_ns(self, key: tuple[int, int], record: ConsumerRecord) -> tuple[int, ...]:
        sent_ns = max(record.intended_ns, record.sent_ns)
        received_ns = max(sent_ns, record.received_ns)
        # The delivery may come before the confirm, and a killed producer has recorded none.
        taken_ns = min(max(sent_ns, self._confirmed_ns.get(key, received_ns)), received_ns)
        started_ns = max(received_ns, record.started_ns)
        times = (record.intended_ns, sent_ns, taken_ns, received_ns, started_ns, max(started_ns, record.done_ns))
        return tuple(later - earlier for earlier, later in pairwise(times))

    def _is_sampled(self, sequence: int) -> bool:
        return sequence * _SPREAD % _RANGE < self._limit


def _band(lower: float, upper: float, rows: Sequence[tuple[int, ...]]) -> Band:
    means = (sum(column) / len(rows) / 1e6 for column in zip(*rows, strict=True))
    return Band(lower, upper, len(rows), tuple(means))
