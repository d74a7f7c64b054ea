"""The loss ledger: which message ended where, by message id and not by counters, which could agree by accident.

A message id is (session, sequence), so a set of ids is one sparse bitmap per session: a million messages cost 125 kB, a
page whose messages were all seen costs only its key, and a forged sequence number does not allocate the gap before it.
`OrderTracker` watches a stream for duplicates and disorder; `Ledger` puts every message of an experiment into exactly
one final state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from heapq import merge

_PAGE_BYTES = 1024
_PAGE_BITS = _PAGE_BYTES * 8
_FULL = (1 << _PAGE_BITS) - 1


class _Page:
    """The seen bits of 8192 consecutive sequence numbers."""

    __slots__ = ("bits", "count")

    def __init__(self) -> None:
        self.bits = bytearray(_PAGE_BYTES)
        self.count = 0


class IdSet:
    """A set of message ids, exact, at about one bit a message."""

    def __init__(self) -> None:
        # None stands for a full page: a long run keeps no bits of complete pages.
        self._pages: dict[tuple[int, int], _Page | None] = {}
        self._size = 0

    def add(self, session: int, sequence: int) -> bool:
        """Add one id; return whether it is new."""
        key = (session, sequence // _PAGE_BITS)
        page = self._pages.get(key)
        if page is None:
            if key in self._pages:
                return False
            page = self._pages[key] = _Page()
        byte, bit = divmod(sequence % _PAGE_BITS, 8)
        if page.bits[byte] >> bit & 1:
            return False
        page.bits[byte] |= 1 << bit
        page.count += 1
        self._size += 1
        if page.count == _PAGE_BITS:
            self._pages[key] = None
        return True

    def __len__(self) -> int:
        return self._size

    def __contains__(self, message: tuple[int, int]) -> bool:
        session, sequence = message
        key = (session, sequence // _PAGE_BITS)
        page = self._pages.get(key)
        if page is None:
            return key in self._pages
        byte, bit = divmod(sequence % _PAGE_BITS, 8)
        return bool(page.bits[byte] >> bit & 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (session, sequence) in ascending order."""
        return self.minus()

    def minus(self, *others: IdSet) -> Iterator[tuple[int, int]]:
        """Yield, in ascending order, the ids that are in none of ``others``."""
        for (session, page), rest in self._rest(others):
            first = page * _PAGE_BITS
            yield from ((session, first + bit) for bit in range(rest.bit_length()) if rest >> bit & 1)

    def count_minus(self, *others: IdSet) -> int:
        """Return how many ids are in none of ``others``."""
        return sum(rest.bit_count() for _, rest in self._rest(others))

    def _rest(self, others: tuple[IdSet, ...]) -> Iterator[tuple[tuple[int, int], int]]:
        for key in sorted(self._pages):
            rest = self._bits(key)
            for other in others:
                rest &= ~other._bits(key)  # noqa: SLF001 - set algebra needs the other set's pages
            yield key, rest

    def _bits(self, key: tuple[int, int]) -> int:
        page = self._pages.get(key)
        if page is not None:
            return int.from_bytes(page.bits, "little")
        return _FULL if key in self._pages else 0


class Order(Enum):
    """How a message relates to those seen before it in its session."""

    NEW = "new"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out of order"


@dataclass(slots=True)
class _Span:
    lowest: int
    highest: int


class OrderTracker:
    """Watches a stream of messages for duplicates, disorder and gaps, per session (that is, per producer process)."""

    def __init__(self) -> None:
        self._seen = IdSet()
        self._spans: dict[int, _Span] = {}
        self.duplicates = 0
        self.out_of_order = 0

    def observe(self, session: int, sequence: int) -> Order:
        """Record one message and say how it relates to the earlier ones: out of order is below the highest seen."""
        if not self._seen.add(session, sequence):
            self.duplicates += 1
            return Order.DUPLICATE
        span = self._spans.get(session)
        if span is None:
            self._spans[session] = _Span(sequence, sequence)
        elif sequence > span.highest:
            span.highest = sequence
        else:
            span.lowest = min(span.lowest, sequence)
            self.out_of_order += 1
            return Order.OUT_OF_ORDER
        return Order.NEW

    @property
    def gaps(self) -> int:
        """Messages not seen between the first and the last of each session.

        Another consumer on the same queue may have them: only a stream that sees everything can call them lost.
        """
        return sum(span.highest - span.lowest + 1 for span in self._spans.values()) - len(self._seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTotals:
    """How many messages ended in each state; no message is counted in two of them.

    ``confirmed`` is how many the broker confirmed to a producer. ``processed``, ``dead_lettered``, ``dropped`` (by the
    queue's bound or a time-to-live) and ``left_in_queue`` are where messages were found. ``lost`` were found nowhere,
    though the broker had confirmed them to a producer, or to a consumer that sent them to the dead-letter queue.
    ``rejected``, ``returned`` and ``unsettled`` were never confirmed and found nowhere. ``duplicates`` counts
    processings beyond the first of each message.
    """

    confirmed: int
    processed: int
    dead_lettered: int
    dropped: int
    left_in_queue: int
    rejected: int
    returned: int
    unsettled: int
    lost: int
    duplicates: int


class Ledger:
    """Collects what each process and each queue says about each message, in any order, and adds it up.

    A message that several of them claim is counted once, in the state that comes first: processed, dead-lettered,
    dropped, left in the queue, lost, returned, rejected, unsettled. So a message whose confirm was lost with a
    connection, but which was processed, is processed; and one that was processed twice is one message, one duplicate.

    A message counts as dead-lettered, dropped or left only where it was found in a queue. What a consumer has
    ``handed_over`` as a dead letter the broker has confirmed, as it confirms messages to their producers.
    """

    def __init__(self) -> None:
        self.confirmed = IdSet()
        self.handed_over = IdSet()
        self.rejected = IdSet()
        self.returned = IdSet()
        self.unsettled = IdSet()
        self.processed = IdSet()
        self.dead_lettered = IdSet()
        self.dropped = IdSet()
        self.left_in_queue = IdSet()
        self.duplicates = 0

    def add_processed(self, session: int, sequence: int) -> None:
        """Record that a consumer completed this message, perhaps again."""
        if not self.processed.add(session, sequence):
            self.duplicates += 1

    def totals(self) -> LedgerTotals:
        """Return the balance so far."""
        done = (self.processed,)
        dead = (*done, self.dead_lettered)
        dropped = (*dead, self.dropped)
        found = (*dropped, self.left_in_queue)
        known = (*found, self.confirmed, self.handed_over)
        return LedgerTotals(
            confirmed=len(self.confirmed),
            processed=len(self.processed),
            dead_lettered=self.dead_lettered.count_minus(*done),
            dropped=self.dropped.count_minus(*dead),
            left_in_queue=self.left_in_queue.count_minus(*dropped),
            lost=self.confirmed.count_minus(*found) + self.handed_over.count_minus(*found, self.confirmed),
            returned=self.returned.count_minus(*known),
            rejected=self.rejected.count_minus(*known, self.returned),
            unsettled=self.unsettled.count_minus(*known, self.returned, self.rejected),
            duplicates=self.duplicates,
        )

    def is_lost(self, session: int, sequence: int) -> bool:
        """Return whether a message is confirmed, to a producer or a consumer that gave it up, and found nowhere."""
        message = (session, sequence)
        if message not in self.confirmed and message not in self.handed_over:
            return False
        return not any(message in found for found in self._found)

    def lost(self) -> Iterator[tuple[int, int]]:
        """Yield, in ascending order, the (session, sequence) of every message that is confirmed and found nowhere."""
        found = self._found
        return merge(self.confirmed.minus(*found), self.handed_over.minus(*found, self.confirmed))

    @property
    def _found(self) -> tuple[IdSet, ...]:
        return (self.processed, self.dead_lettered, self.dropped, self.left_in_queue)
