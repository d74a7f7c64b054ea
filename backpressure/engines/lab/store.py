"""A bounded memory of what arrived: the newest stay, the oldest go, and how many went is known."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["Store"]

Item = TypeVar("Item")


class Store(Generic[Item]):
    """Keeps the newest ``limit`` items."""

    def __init__(self, limit: int) -> None:
        self._items: deque[Item] = deque(maxlen=limit)
        self.total = 0

    @property
    def dropped(self) -> int:
        """How many were here and are not any more."""
        return self.total - len(self._items)

    def add(self, item: Item) -> None:
        """Keep ``item``, in the place of the oldest when there is no room."""
        self._items.append(item)
        self.total += 1

    def newest(self, count: int | None = None) -> list[Item]:
        """Return the newest ``count`` items (None: all that are kept), oldest first."""
        items = list(self._items)
        return items if count is None else items[max(0, len(items) - count) :]
