"""Dealing the messages of a topic out over its partitions, one after the other. Pure.

A partition is one consumer's, so a short queue keeps all consumers busy only while it is short in equal parts.
librdkafka deals at random (or in batches), and chance soon leaves one consumer without work beside another that is
behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle

__all__ = ["Spread"]


class Spread:
    """Whose turn it is, topic by topic."""

    def __init__(self) -> None:
        self._partitions: dict[str, list[int]] = {}
        self._turns: dict[str, Iterator[int]] = {}

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics in use: `learn` should be told of theirs now and then."""
        return tuple(self._turns)

    def learn(self, topic: str, partitions: Iterable[int]) -> None:
        """Take note that ``topic`` has these partitions now; none when it is missing."""
        numbers = sorted(partitions)
        if self._partitions.get(topic) != numbers:
            self._partitions[topic] = numbers
            self._turns.pop(topic, None)

    def next(self, topic: str) -> int | None:
        """Return the partition for the next message of ``topic``, or None while its partitions are unknown."""
        if topic not in self._turns:
            self._turns[topic] = cycle(self._partitions.get(topic, ()))
        return next(self._turns[topic], None)
