"""Where the time of a message goes, part by part, for a sample of all messages. Pure.

The parts follow one another and add up to the end-to-end time:

=========  ===========================================================================================
held back  intended → sent: what the producer's pace, its confirm window and retries cost
taken      sent → confirmed, or delivered when that comes first: what the broker needs to take it
queued     → delivered: in the queue
prefetched → work starts: in the consumer's own buffer, and the pauses before further attempts
worked on  → done
=========  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from backpressure.core.journal import ConsumerRecord, ProducerRecord

__all__ = ["PARTS", "Band", "LatencyBreakdown"]

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
    """Collects the times of sampled messages from the records of producers and consumers."""

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
