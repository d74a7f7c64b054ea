"""A queue: what waits, who takes it, and what happens at its bounds.

Lives here: the order of messages, the choice of the next consumer, overflow, expiry and requeueing.
May not know: frames, channels, sockets, the clock: it asks its host for the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from backpressure.broker.counters import Counters
from backpressure.broker.entries import Backlog, Entry
from backpressure.broker.policy import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backpressure.amqp.field_tables import Table
    from backpressure.broker.alarms import MemoryAlarm
    from backpressure.broker.entries import QueuedMessage
    from backpressure.broker.policy import Policy
    from backpressure.broker.timers import Timer, Timers

__all__ = ["Journal", "Queue", "QueueHost", "Rotation", "Taker"]


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


class Journal(Protocol):
    """Where persistent messages of durable queues are kept; each call only takes note."""

    def add(self, queue_id: int, entry: Entry) -> None:
        """A message is to be kept."""

    def remove(self, queue_id: int, entry: Entry) -> None:
        """A message is done with."""


class QueueHost(Protocol):
    """What a queue needs from the virtual host it belongs to."""

    now: float
    timers: Timers
    memory: MemoryAlarm

    @property
    def journal(self) -> Journal | None:
        """Where messages are kept, if anywhere."""

    def dead_letter(self, queue: Queue, message: QueuedMessage, reason: str) -> None:
        """Route ``message`` to the queue's dead-letter exchange, if it has one."""

    def delete_queue(self, queue: Queue) -> int:
        """Remove a queue that expired."""


class Queue:
    """One queue of a virtual host."""

    def __init__(
        self,
        host: QueueHost,
        name: str,
        *,
        id: int,  # noqa: A002 -- its name in reports and in the store
        durable: bool = False,
        auto_delete: bool = False,
        owner: object | None = None,
        arguments: Table | None = None,
    ) -> None:
        """``owner`` is the session an exclusive queue belongs to; ``id`` tells it from others of its name, ever."""
        self.name = name
        self.id = id
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = arguments or {}
        self.policy: Policy | None = None
        self.limits = Limits()
        self.ready = Backlog()
        self.unacked = 0
        self.unacked_bytes = 0
        self.consumers = Rotation(single_active=bool(self.arguments.get("x-single-active-consumer")))
        self.exclusive_consumer = False
        self.deleted = False
        self.counters = Counters()
        self.is_quorum = self.arguments.get("x-queue-type") == "quorum"
        self._host = host
        self._journal = host.journal if self.is_kept else None
        self._next_sequence = 0
        self._has_ttl = False
        self._expiry_timer: Timer | None = None
        self._unused_timer: Timer | None = None
        self.apply(None)

    def __len__(self) -> int:
        """Ready messages: what ``queue.declare-ok`` and ``x-max-length`` count."""
        return len(self.ready)

    @property
    def is_kept(self) -> bool:
        """Whether it outlives the broker's process."""
        return self.durable and self.owner is None

    def apply(self, policy: Policy | None) -> None:
        """Put the bounds of the queue's arguments and of ``policy`` in force at once."""
        self.policy = policy
        self.limits = Limits.of(self.arguments, policy)
        self._drop_overflow()
        self.touch()

    # -- in ------------------------------------------------------------------------------------------------------

    def push(self, message: QueuedMessage) -> bool:
        """Enqueue; False when the bound rejects it."""
        limits, totals = self.limits, self.counters.totals
        if limits.bounded and limits.overflow != "drop-head" and self._would_overflow(message):
            if limits.overflow == "reject-publish-dlx":
                self._host.dead_letter(self, message, "maxlen")
            return False
        totals["publish"] += 1
        ttl_s = limits.message_ttl_s
        if message.expiration_s is not None and (ttl_s is None or message.expiration_s < ttl_s):
            ttl_s = message.expiration_s
        entry = Entry(self._next_sequence, message)
        self._next_sequence += 1
        self._host.memory.add(message.cost_bytes)
        if self._journal is not None and message.persistent:
            entry.stored = True
            self._journal.add(self.id, entry)
        self.ready.append(entry)
        self.pump()
        if limits.bounded:
            self._drop_overflow()
        if ttl_s is not None:  # only now: with a TTL of 0 a consumer that waits still gets the message
            entry.expires_at_s = self._host.now + ttl_s
            self._has_ttl = True
            self._expire()
        return True

    def restore(self, entries: Sequence[Entry]) -> int:
        """Take back what was kept when the broker ended; how many messages that were. Then `resume`."""
        for entry in entries:
            self._host.memory.add(entry.message.cost_bytes)
            self.ready.append(entry)
            self._has_ttl = self._has_ttl or entry.expires_at_s is not None
            self._next_sequence = entry.sequence + 1
        return len(entries)

    def resume(self) -> None:
        """Every queue of the broker is back: dead letters may leave for them."""
        self._drop_overflow()
        self._expire()

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Put unacked entries back to their places, marked as redelivered."""
        limit = self.limits.delivery_limit if self.is_quorum else None
        for entry in entries:
            self._release(entry)
            entry.redelivered = True
            entry.delivery_count += 1
            if self.deleted:
                self._forget(entry)
            elif limit is not None and entry.delivery_count > limit:
                self._host.dead_letter(self, entry.message, "delivery_limit")
                self._forget(entry)
            else:
                self.ready.give_back(entry)
        self.pump()
        self._drop_overflow()
        self._expire()

    # -- out -----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver while there are messages and consumers that can take one."""
        while self.ready:
            consumer = self.consumers.next()
            if consumer is None:
                return
            entry = self.take()
            if entry is None:
                return
            consumer.take(entry)

    def take(self) -> Entry | None:
        """The oldest message that has not expired, now unacked; None when there is none."""
        self._drop_expired()
        if not self.ready:
            return None
        entry = self.ready.take()
        self.unacked += 1
        self.unacked_bytes += len(entry.message.body)
        if self._has_ttl:
            self._arm_expiry()
        return entry

    def settle(self, entry: Entry) -> None:
        """An unacked entry is done with."""
        self._release(entry)
        self._forget(entry)

    def discard(self, entry: Entry) -> None:
        """An unacked entry was refused: dead-letter it."""
        if not self.deleted:
            self._host.dead_letter(self, entry.message, "rejected")
        self.settle(entry)

    def purge(self) -> int:
        """Forget all ready messages; how many there were."""
        count = len(self.ready)
        for entry in self.ready:
            self._forget(entry)
        self.ready.clear()
        return count

    # -- consumers -----------------------------------------------------------------------------------------------

    def subscribe(self, consumer: Taker, *, exclusive: bool = False) -> None:
        """Add a consumer behind those of its priority; it is served by the next `pump`."""
        self.exclusive_consumer = exclusive
        self.consumers.add(consumer)
        self.touch()

    def unsubscribe(self, consumer: Taker) -> None:
        """Remove a consumer; the last one of an auto-delete queue takes the queue along."""
        self.consumers.remove(consumer)
        self.exclusive_consumer = False
        if self.consumers:
            self.pump()
        elif self.auto_delete:
            self._host.delete_queue(self)
        else:
            self.touch()

    def touch(self) -> None:
        """The queue is in use: ``x-expires`` starts anew."""
        if self._unused_timer:
            self._unused_timer.cancel()
            self._unused_timer = None
        expires_s = self.limits.expires_s
        if expires_s is not None and not self.consumers and not self.deleted:
            self._unused_timer = self._host.timers.at(self._host.now + expires_s, self._unused_due)

    def _unused_due(self) -> None:
        self._host.delete_queue(self)

    def close(self) -> int:
        """The queue is deleted: drop what is ready, tell the consumers; how many messages were ready."""
        self.deleted = True
        self.touch()
        self._journal = None  # it has forgotten the queue as a whole
        count = self.purge()
        for consumer in list(self.consumers):
            self.consumers.remove(consumer)
            consumer.cancelled()
        return count

    # -- bounds and expiry ---------------------------------------------------------------------------------------

    def _would_overflow(self, message: QueuedMessage) -> bool:
        limits, ready = self.limits, self.ready
        if limits.max_length is not None and len(ready) + 1 > limits.max_length:
            return True
        limit_bytes = limits.max_length_bytes
        return limit_bytes is not None and ready.body_bytes + len(message.body) > limit_bytes

    def _drop_overflow(self) -> None:
        limits, ready = self.limits, self.ready
        if not limits.bounded or limits.overflow != "drop-head":
            return
        while ready and (
            (limits.max_length is not None and len(ready) > limits.max_length)
            or (limits.max_length_bytes is not None and ready.body_bytes > limits.max_length_bytes)
        ):
            self._drop_head("maxlen")

    def _drop_expired(self) -> None:
        ready, now = self.ready, self._host.now
        while ready:
            expires_at_s = ready.head().expires_at_s
            if expires_at_s is None or expires_at_s > now:
                return
            self._drop_head("expired")

    def _drop_head(self, reason: str) -> None:
        entry = self.ready.take()
        self._host.dead_letter(self, entry.message, reason)
        self._forget(entry)

    def _expire(self) -> None:
        """Drop what has expired at the head, and come back when the next head does."""
        self._drop_expired()
        self._arm_expiry()

    def _arm_expiry(self) -> None:
        expires_at_s = self.ready.head().expires_at_s if self.ready else None
        if expires_at_s is None:
            return
        if self._expiry_timer is not None:
            if self._expiry_timer.callback and self._expiry_timer.when_s <= expires_at_s:
                return
            self._expiry_timer.cancel()
        self._expiry_timer = self._host.timers.at(expires_at_s, self._expiry_due)

    def _expiry_due(self) -> None:
        self._expiry_timer = None
        self._expire()

    def _release(self, entry: Entry) -> None:
        self.unacked -= 1
        self.unacked_bytes -= len(entry.message.body)

    def _forget(self, entry: Entry) -> None:
        self._host.memory.add(-entry.message.cost_bytes)
        if entry.stored and self._journal is not None:
            self._journal.remove(self.id, entry)


class Rotation:
    """Whose turn it is: the consumers, by priority, and in turn among equals."""

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
