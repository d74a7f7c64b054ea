"""What waits in one channel, in the order in which it came.

A message waits until each paced queue that it reaches has granted it one token: the slowest queue governs. Behind it
waits what must not overtake it: later messages, and methods whose meaning depends on what was published before
(``tx.commit``, ``confirm.select``, ``channel.close``, ``queue.purge`` …). A message that is let go before its body has
arrived is forwarded as it comes. Must not know: what frames mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from backpressure.proxy.paced_queue import PacedQueue

__all__ = ["ChannelLane", "HeldItem"]

Forward = Callable[[list[bytes]], None]
Sent = Callable[["HeldItem", float], None]


class HeldItem:
    """A message that waits, as far as it has arrived, or a method that must not overtake one."""

    __slots__ = ("frames", "message", "pending", "queues", "since", "tag")

    def __init__(
        self, frame: bytes, queues: tuple[PacedQueue, ...], now: float, *, message: bool, tag: int = 0
    ) -> None:
        """``queues``: those that have to grant it; none for a method or a message that is not paced.

        ``tag``: under which the broker will confirm it; 0: it will not.
        """
        self.frames = [frame]
        self.queues = queues
        self.pending = [queue for queue in queues if not _grants(queue, now)]
        self.since = now
        self.message = message
        self.tag = tag


class ChannelLane:
    """The waiting line of one channel; it is used up when nothing waits any more."""

    __slots__ = ("_forward", "_items", "_on_sent", "messages", "octets")

    def __init__(self, forward: Forward, on_sent: Sent) -> None:
        """``forward`` sends frames; ``on_sent`` is called with each message that begins to go, and the time."""
        self._items: deque[HeldItem] = deque()
        self._forward = forward
        self._on_sent = on_sent
        self.messages = 0
        self.octets = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def only_messages(self) -> bool:
        """Whether no method waits."""
        return self.messages == len(self._items)

    def add(self, held: HeldItem, now: float) -> bool:
        """Wait at the end; return False if it was let go at once, because nothing is before it and it need not wait."""
        self._items.append(held)
        self.messages += held.message
        self.octets += len(held.frames[0])
        if len(self._items) == 1:
            self._advance(now)
        return bool(self._items) and self._items[-1] is held

    def append(self, held: HeldItem, frame: bytes) -> None:
        """Take the next frame of a message that waits."""
        held.frames.append(frame)
        self.octets += len(frame)

    def granted(self, now: float) -> None:
        """The queue that the head waits for lets it go."""
        self._items[0].pending.pop()
        self._advance(now)

    def release_all(self, now: float) -> None:
        """Let everything go at once, in its order: the other side will ignore it, or this side is leaving."""
        self.leave()
        while self._items:
            self._go(now)

    def leave(self) -> None:
        """Leave the ring of the queue that the head waits for."""
        if self._items and self._items[0].pending:
            self._items[0].pending[-1].leave(self)

    def _advance(self, now: float) -> None:
        while self._items:
            pending = self._items[0].pending
            while pending and pending[-1].admits(now):
                pending.pop().grant(now)
            if pending:
                pending[-1].join(self)
                return
            self._go(now)

    def _go(self, now: float) -> None:
        held = self._items.popleft()
        self.messages -= held.message
        self.octets -= sum(map(len, held.frames))
        self._on_sent(held, now)
        self._forward(held.frames)


def _grants(queue: PacedQueue, now: float) -> bool:
    if queue.holds:
        return False
    queue.grant(now)
    return True
