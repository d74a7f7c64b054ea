"""Which messages of a partition are settled, and how a commit says it to the next consumer. Without I/O.

Kafka commits one offset: everything before it is settled. Messages are settled in any order, so the metadata of the
commit has the rest, as text::

    held 120 105-107,110

means that everything below 120 has been delivered, that beyond the committed offset 105 to 107 and 110 are settled, and
that the consumer still holds the others ("returned": it has left). So the next consumer skips what is settled and knows
what is a redelivery, and a probe can tell waiting messages from delivered ones. (The Confluent Parallel Consumer
commits such "offset maps" too.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MOST_METADATA_BYTES = 4000  # brokers allow 4096 unless told otherwise (offset.metadata.max.bytes)


@dataclass(frozen=True, slots=True)
class Mark:
    """What the metadata of a commit says."""

    held: bool = False
    delivered: int = 0
    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, metadata: str | None) -> Mark | None:
        """Return what ``metadata`` says, or None when it is not one of ours."""
        words = (metadata or "").split(" ")
        if len(words) != 3 or words[0] not in {"held", "returned"}:
            return None
        try:
            ranges = tuple(_range(text) for text in words[2].split(",") if text)
            return cls(words[0] == "held", int(words[1]), ranges)
        except ValueError:
            return None

    def __str__(self) -> str:
        text = f"{'held' if self.held else 'returned'} {self.delivered} "
        for first, last in self.ranges:
            more = f"{first}-{last}," if last > first else f"{first},"
            if len(text) + len(more) > _MOST_METADATA_BYTES:
                break  # what is left out may be delivered once more
            text += more
        return text

    def settled_from(self, offset: int) -> int:
        """Return how many messages at ``offset`` or later are settled."""
        return sum(last + 1 - max(first, offset) for first, last in self.ranges if last >= offset)


@dataclass(frozen=True, slots=True)
class Commit:
    """What is to be committed for a partition."""

    offset: int
    metadata: str


class PartitionProgress:
    """One partition, from the offset where its consumer began."""

    def __init__(self, mark: Mark | None) -> None:
        """``mark`` is that of the previous consumer's last commit."""
        mark = mark or Mark()
        self._done_before = mark.ranges
        self._delivered_before = self._delivered = mark.delivered
        self._received: deque[int] = deque()  # in order, from the first unsettled one
        self._settled: set[int] = set()
        self._next: int | None = None

    def receive(self, offset: int) -> bool:
        """Record a fetched message; False when it was settled before."""
        self._next = offset + 1
        done = any(first <= offset <= last for first, last in self._done_before)
        if not done or self._received:
            self._received.append(offset)
        if done and self._received:
            self._settled.add(offset)
        return not done

    def restarted(self, offset: int) -> bool:
        """Return whether a message at ``offset`` means that the partition was emptied or created again."""
        return self._next is not None and offset < self._next

    def deliver(self, offset: int) -> bool:
        """Record a delivery; return whether it is a redelivery."""
        self._delivered = max(self._delivered, offset + 1)
        return offset < self._delivered_before

    def settle(self, offset: int) -> None:
        """Record that the message at ``offset`` is settled."""
        self._settled.add(offset)
        while self._received and self._received[0] in self._settled:
            self._settled.discard(self._received.popleft())

    def commit(self, *, held: bool) -> Commit | None:
        """Return what to commit, ``held`` while deliveries may still be settled; None before the first message."""
        if self._next is None:
            return None
        offset = self._received[0] if self._received else self._next
        return Commit(offset, str(Mark(held, self._delivered, tuple(_ranges(sorted(self._settled))))))


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _ranges(offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    first: int | None = None
    last = -1
    for offset in offsets:
        if first is not None and offset == last + 1:
            last = offset
            continue
        if first is not None:
            yield first, last
        first = last = offset
    if first is not None:
        yield first, last
