"""Which deliveries of a channel are open, so that one frame can acknowledge a run of them.

An acknowledgement costs the broker nearly as much as a delivery. A consumer that works through what it holds in order
settles a run of messages in every turn of its event loop, and ``multiple`` settles a run at once, as long as nothing
older is open: a message that waits for another attempt stays open, and those after it are settled one by one.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import takewhile

__all__ = ["Unsettled"]


class Unsettled:
    """The open delivery tags of one channel, oldest first."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, bool] = OrderedDict()  # tag → acknowledged, and not sent yet
        self._acked: list[int] = []

    def delivered(self, tag: int) -> None:
        """A message arrived; tags only grow."""
        self._open[tag] = False

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Settle ``tag``, or everything up to it, with the next `take_acks`; an unknown tag settles nothing."""
        tags = [each for each in self._open if each <= tag] if multiple else [tag]
        for each in tags:
            if self._open.get(each) is False:
                self._open[each] = True
                self._acked.append(each)

    def forget(self, tag: int) -> None:
        """``tag`` was settled in another way."""
        self._open.pop(tag, None)

    def take_acks(self) -> list[tuple[int, bool]]:
        """Return what to send as (tag, multiple), and take it for settled."""
        run = [tag for tag, _ in takewhile(lambda item: item[1], self._open.items())]
        for tag in run:
            del self._open[tag]
        acks = [(run[-1], len(run) > 1)] if run else []
        acks += [(tag, False) for tag in self._acked if self._open.pop(tag, False)]
        self._acked.clear()
        return acks
