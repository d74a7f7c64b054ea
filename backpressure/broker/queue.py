"""A queue: its messages, its consumers and its limits.

Contains the choice of the next consumer, overflow, expiry and requeueing.
Must not know: frames, channels, sockets, the clock (its host has the time).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from backpressure.amqp.field_tables import Table
from backpressure.broker.entries import Backlog, Entry, PriorityBacklog, QueuedMessage, QuorumBacklog
from backpressure.broker.meters import Counters, MemoryAlarm
from backpressure.broker.policy import Limits, Policy
from backpressure.broker.timers import Timer, Timers


class Taker(Protocol):
    """A consumer, as seen by its queue."""

    priority: int

    @property
    def ready(self) -> bool:
        """Whether it can take one more message now."""

    @property
    def idle(self) -> bool:
        """Whether it holds no message that is not settled."""

    def take(self, entry: Entry) -> None:
        """Deliver the message; the consumer must `Queue.settle` or `Queue.requeue` the entry."""

    def cancelled(self) -> None:
        """The queue was deleted."""


class Journal(Protocol):
    """Records persistent messages of durable queues, to be written later."""

    def add(self, queue_id: int, entry: Entry) -> None:
        """A message must be kept."""

    def remove(self, queue_id: int, entry: Entry) -> None:
        """A message is no longer needed."""

    def purge(self, queue_id: int) -> None:
        """All messages of a queue are gone."""


class QueueHost(Protocol):
    """What a queue needs of its virtual host."""

    now: float
    timers: Timers
    memory: MemoryAlarm

    @property
    def journal(self) -> Journal | None:
        """The journal of persistent messages, if there is one."""

    def dead_letter(self, queue: Queue, message: QueuedMessage, reason: str) -> None:
        """Route ``message`` to the queue's dead-letter exchange, if it has one."""

    def delete_queue(self, queue: Queue) -> int:
        """Delete a queue that expired."""


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
        """``owner`` is the session that an exclusive queue belongs to; an ``id`` is never used again."""
        self.name = name
        self.id = id
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = arguments or {}
        self.policy: Policy | None = None
        self.limits = Limits()
        self.is_quorum = self.arguments.get("x-queue-type") == "quorum"
        highest = self.arguments.get("x-max-priority")
        self.ready: Backlog | PriorityBacklog | QuorumBacklog
        if self.is_quorum:
            self.ready = QuorumBacklog()
        else:
            self.ready = PriorityBacklog(highest) if isinstance(highest, int) else Backlog()
        self.unacked = 0
        self.unacked_bytes = 0
        self.consumers = Rotation(
            single_active=bool(self.arguments.get("x-single-active-consumer")), best_is_active=self.is_quorum
        )
        self.exclusive_consumer = False
        self.deleted = False
        self.counters = Counters()
        self._host = host
        self._journal = host.journal if self.is_kept else None
        self._next_sequence = 0
        self._has_ttl = False
        self._expiry_timer: Timer | None = None
        self._unused_timer: Timer | None = None
        self.apply(None)

    def __len__(self) -> int:
        """The number of ready messages, which ``queue.declare-ok`` and ``x-max-length`` count."""
        return len(self.ready)

    @property
    def is_kept(self) -> bool:
        """Whether it outlives the broker's process."""
        return self.durable and self.owner is None

    def apply(self, policy: Policy | None) -> None:
        """Apply the limits of the queue's arguments and of ``policy``."""
        self.policy = policy
        self.limits = Limits.of(self.arguments, policy)
        self._drop_overflow()
        self.touch()

    # -- in ------------------------------------------------------------------------------------------------------

    def push(self, message: QueuedMessage) -> bool:
        """Enqueue a message; return False if a limit rejects it."""
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
        if ttl_s is not None:  # after delivery: with a TTL of 0, a waiting consumer still gets the message
            entry.expires_at_s = self._host.now + ttl_s
            self._has_ttl = True
            self._expire()
        return True

    def restore(self, entries: Sequence[Entry]) -> int:
        """Restore the messages of an earlier run and return their number; `resume` must follow."""
        for entry in entries:
            self._host.memory.add(entry.message.cost_bytes)
            self.ready.append(entry)
            self._has_ttl = self._has_ttl or entry.expires_at_s is not None
            self._next_sequence = entry.sequence + 1
        return len(entries)

    def resume(self) -> None:
        """Apply limits and expiry; only after all queues are restored, because dead letters go to them."""
        self._drop_overflow()
        self._expire()

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Return unacked entries to their places, marked as redelivered.

        A quorum queue without a limit of deliveries puts them behind all others.
        """
        limit = self.limits.delivery_limit
        for entry in entries:
            self._release(entry)
            entry.redelivered = True
            entry.delivery_count += 1
            if self.deleted:
                self._forget(entry)
            elif not self.is_quorum:
                self.ready.give_back(entry)
            elif limit is None:
                self._move_behind(entry)
            elif entry.delivery_count > limit:
                self._host.dead_letter(self, entry.message, "delivery_limit")
                self._forget(entry)
            else:
                self.ready.give_back(entry)
        self.pump()
        self._drop_overflow()
        self._expire()

    def _move_behind(self, entry: Entry) -> None:
        stored = entry.stored and self._journal is not None
        if stored and self._journal is not None:
            self._journal.remove(self.id, entry)
        entry.sequence = self._next_sequence
        self._next_sequence += 1
        if stored and self._journal is not None:
            self._journal.add(self.id, entry)
        self.ready.append(entry)

    # -- out -----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver while there are messages and ready consumers."""
        while self.ready:
            consumer = self.consumers.next()
            if consumer is None:
                return
            entry = self.take()
            if entry is None:
                return
            consumer.take(entry)

    def take(self) -> Entry | None:
        """Take the oldest message that has not expired, which is then unacked; None if there is none."""
        if self._has_ttl:
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
        """Remove an unacked entry."""
        self._release(entry)
        self._forget(entry)

    def discard(self, entry: Entry) -> None:
        """Dead-letter an unacked entry that was rejected."""
        if not self.deleted:
            self._host.dead_letter(self, entry.message, "rejected")
        self.settle(entry)

    def purge(self) -> int:
        """Remove all ready messages; return their number."""
        count = len(self.ready)
        if self._journal is not None:
            if self.unacked:
                for entry in self.ready:
                    if entry.stored:
                        self._journal.remove(self.id, entry)
            else:
                self._journal.purge(self.id)
        self._host.memory.add(-sum(entry.message.cost_bytes for entry in self.ready))
        self.ready.clear()
        return count

    # -- consumers -----------------------------------------------------------------------------------------------

    def subscribe(self, consumer: Taker, *, exclusive: bool = False) -> None:
        """Add a consumer; the next `pump` serves it."""
        self.exclusive_consumer = exclusive
        self.consumers.add(consumer)
        self.touch()

    def unsubscribe(self, consumer: Taker) -> None:
        """Remove a consumer; the last one of an auto-delete queue deletes the queue."""
        self.consumers.remove(consumer)
        self.exclusive_consumer = False
        if self.consumers:
            self.pump()
        elif self.auto_delete:
            self._host.delete_queue(self)
        else:
            self.touch()

    def touch(self) -> None:
        """The queue is in use: restart ``x-expires``."""
        if self._unused_timer:
            self._unused_timer.cancel()
            self._unused_timer = None
        expires_s = self.limits.expires_s
        if expires_s is not None and not self.consumers and not self.deleted:
            self._unused_timer = self._host.timers.at(self._host.now + expires_s, self._unused_due)

    def _unused_due(self) -> None:
        self._host.delete_queue(self)

    def close(self) -> int:
        """The queue is deleted: drop its messages, notify its consumers, and return the number of ready messages."""
        self.deleted = True
        self.touch()
        self._journal = None  # it removes the queue as a whole
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
        """Drop expired messages at the head, and set the timer for the next one."""
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
    """The consumers of a queue, by priority, and round-robin among equal ones."""

    def __init__(self, *, single_active: bool = False, best_is_active: bool = False) -> None:
        """With ``single_active``, one consumer receives messages until it leaves.

        With ``best_is_active``, it makes way for one of a higher priority, as soon as it has settled what it holds.
        """
        self.single_active = single_active
        self._best_is_active = best_is_active
        self._takers: list[Taker] = []
        self._active: Taker | None = None

    def __len__(self) -> int:
        return len(self._takers)

    def __iter__(self) -> Iterator[Taker]:
        return iter(self._takers)

    def active(self, taker: Taker) -> bool:
        """Whether this consumer receives messages."""
        return not self.single_active or taker is self._the_active()[0]

    def add(self, taker: Taker) -> None:
        """Add a consumer behind those of the same priority."""
        place = len(self._takers)
        while place and self._takers[place - 1].priority < taker.priority:
            place -= 1
        self._takers.insert(place, taker)

    def remove(self, taker: Taker) -> None:
        """Remove a consumer; ValueError if it is not there."""
        self._takers.remove(taker)
        if taker is self._active:
            self._active = None

    def next(self) -> Taker | None:
        """Return the first consumer that is ready, and move it behind the others of its priority."""
        takers = self._takers
        if self.single_active:
            active, makes_way = self._the_active()
            return active if active is not None and active.ready and not makes_way else None
        for taker in takers:
            if taker.ready:
                if len(takers) > 1:
                    takers.remove(taker)
                    self.add(taker)
                return taker
        return None

    def _the_active(self) -> tuple[Taker | None, bool]:
        """Return the consumer that is active, and whether it waits only to settle what it holds."""
        best = self._takers[0] if self._takers else None
        active = self._active
        if active is None or best is None:
            self._active = best
        elif self._best_is_active and best.priority > active.priority:
            if not active.idle:
                return active, True
            self._active = best
        return self._active, False
