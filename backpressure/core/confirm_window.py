"""The confirm window: which messages are sent and unconfirmed, and whether one more may be.

Delivery tags count from 1 per channel, and a confirm or nack may be *multiple*: settle every earlier tag too (AMQP
0-9-1 ``basic.ack``; RabbitMQ, "Publisher Confirms"). After a connection is lost none of its tags will ever be settled:
`lost` returns all messages, oldest first, to be published again with their old ids.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["ConfirmWindow"]

Item = TypeVar("Item")


class ConfirmWindow(Generic[Item]):
    """At most ``limit`` items in flight, by delivery tag."""

    def __init__(self, limit: int) -> None:
        """``limit`` may be changed at any time; lowering it below what is in flight closes the window for a while."""
        self.limit = limit
        self._in_flight: OrderedDict[int, Item] = OrderedDict()

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def space(self) -> int:
        """How many more may be sent now."""
        return max(0, self.limit - len(self._in_flight))

    def sent(self, tag: int, item: Item) -> None:
        """Remember ``item`` as in flight under ``tag``; tags only grow."""
        self._in_flight[tag] = item

    def settle(self, tag: int, *, multiple: bool) -> list[Item]:
        """Remove and return what a confirm or nack settles, oldest first; unknown tags settle nothing."""
        if not multiple:
            item = self._in_flight.pop(tag, None)
            return [] if item is None else [item]
        settled = []
        while self._in_flight:
            first, item = self._in_flight.popitem(last=False)
            if first > tag:
                self._in_flight[first] = item
                self._in_flight.move_to_end(first, last=False)
                break
            settled.append(item)
        return settled

    def items(self) -> list[Item]:
        """Return what is in flight, oldest first."""
        return list(self._in_flight.values())

    def lost(self) -> list[Item]:
        """Empty the window and return what was in flight, oldest first."""
        items = self.items()
        self._in_flight.clear()
        return items
