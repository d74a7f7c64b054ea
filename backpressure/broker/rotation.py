"""Whose turn it is: the consumers of a queue, by priority, and in turn among equals.

May not know: messages, channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backpressure.broker.message import Entry

__all__ = ["Rotation", "Taker"]


class Taker(Protocol):
    """A consumer, as its queue sees it."""

    priority: int

    @property
    def ready(self) -> bool:
        """Whether it can take one more message now."""

    def take(self, entry: Entry) -> None:
        """Deliver the message; the entry is the consumer's to `Queue.settle` or `Queue.requeue`."""

    def cancelled(self) -> None:
        """The queue is gone."""


class Rotation:
    """Consumers in the order in which they will be asked."""

    def __init__(self, *, single_active: bool = False) -> None:
        """With ``single_active`` only the first is ever asked."""
        self.single_active = single_active
        self._takers: list[Taker] = []

    def __len__(self) -> int:
        return len(self._takers)

    def __iter__(self) -> Iterator[Taker]:
        return iter(self._takers)

    def active(self, taker: Taker) -> bool:
        """Whether a taker of this line is asked when its turn comes."""
        return not self.single_active or taker is self._takers[0]

    def add(self, taker: Taker) -> None:
        """Line up behind those of the same priority."""
        place = len(self._takers)
        while place and self._takers[place - 1].priority < taker.priority:
            place -= 1
        self._takers.insert(place, taker)

    def remove(self, taker: Taker) -> None:
        """Leave the line; ValueError for who does not stand in it."""
        self._takers.remove(taker)

    def next(self) -> Taker | None:
        """The first one that is ready, which then goes behind the others of its priority."""
        takers = self._takers
        if self.single_active:
            return takers[0] if takers and takers[0].ready else None
        for taker in takers:
            if taker.ready:
                if len(takers) > 1:
                    takers.remove(taker)
                    self.add(taker)
                return taker
        return None
