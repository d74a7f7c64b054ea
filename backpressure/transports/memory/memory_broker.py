"""A broker in this process: exchanges, bounded queues, dead letters, prefetch, redelivery; no sockets, no disk.

It behaves like RabbitMQ as far as the protocols in `base` can tell. All methods run on the event loop; deliveries and
confirms are passed on by ``call_soon``, never within the call that caused them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from backpressure.core.message import Message
from backpressure.errors import PreconditionFailedError, QueueNotFoundError
from backpressure.transports.deaths import dead_letter


@dataclass(slots=True)
class MemoryEntry:
    """A message in a queue. ``order`` is its position, which it keeps when it is requeued."""

    order: int
    message: Message
    exchange: str
    routing_key: str
    expires_at: float
    redelivered: bool = False


class MemoryClient(Protocol):
    """A connected product, which can lose its connection."""

    def lose(self, reason: str) -> None:
        """The connection is lost; a new one follows at once."""

    def on_alarm_over(self) -> None:
        """The broker accepts messages again."""


class MemoryConsumer(Protocol):
    """A consumer of a queue."""

    def has_room(self) -> bool:
        """Whether the prefetch limit allows one more delivery."""

    def take(self, entry: MemoryEntry) -> None:
        """Accept one delivery."""

    def on_queue_deleted(self) -> None:
        """The queue was deleted."""


@dataclass
class MemoryQueue:
    """One queue: its ``ready`` messages in order, the number of ``unacked`` ones, and a bound that may change."""

    name: str
    durable: bool
    arguments: Mapping[str, str | int]
    bound: Mapping[str, str | int] = field(default_factory=dict)
    ready: deque[MemoryEntry] = field(default_factory=deque)
    ready_bytes: int = 0
    unacked: int = 0
    consumers: deque[MemoryConsumer] = field(default_factory=deque)

    @property
    def overflow(self) -> str:
        """What happens to a message beyond the bound."""
        return str(self.bound.get("overflow", "drop-head"))

    def is_over(self, extra_messages: int = 0, extra_bytes: int = 0) -> bool:
        """Whether the ready messages and this many more exceed the bound."""
        return (
            len(self.ready) + extra_messages > int(self.bound.get("max-length", 1 << 62))
            or self.ready_bytes + extra_bytes > int(self.bound.get("max-length-bytes", 1 << 62))
        )  # fmt: skip

    def add(self, entry: MemoryEntry) -> None:
        """Put a new message at the end, a requeued one back in its position."""
        place = len(self.ready)
        if self.ready and self.ready[-1].order > entry.order:
            place = next(index for index, other in enumerate(self.ready) if other.order > entry.order)
        self.ready.insert(place, entry)
        self.ready_bytes += len(entry.message.body)

    def pop(self) -> MemoryEntry:
        """Take the oldest message."""
        entry = self.ready.popleft()
        self.ready_bytes -= len(entry.message.body)
        return entry


class MemoryBroker:
    """All queues and exchanges, and the clients that are connected."""

    def __init__(self) -> None:
        self.queues: dict[str, MemoryQueue] = {}
        self.bindings: dict[str, list[tuple[str, str]]] = {}
        self.clients: list[MemoryClient] = []
        self.listeners: dict[str, list[Callable[[bytes], None]]] = {}
        self.answers: dict[str, list[Callable[[bytes], bytes | None]]] = {}
        self.alarm = ""
        self._orders = itertools.count()

    # -- faults, for tests and labs

    def disconnect(self, reason: str = "connection closed by the broker") -> None:
        """Close every client's connection; each reconnects at once."""
        for client in list(self.clients):
            client.lose(reason)

    def block(self, reason: str = "low on memory") -> None:
        """Raise the alarm: messages that are published wait."""
        self.alarm = reason

    def unblock(self) -> None:
        """End the alarm."""
        self.alarm = ""
        for client in list(self.clients):
            client.on_alarm_over()

    # -- topology

    def declare(self, queue: MemoryQueue) -> None:
        """Create a queue, or change the bound of the existing one; raises `PreconditionFailedError`."""
        self.compare(queue)
        self.queues.setdefault(queue.name, queue)
        self.set_bound(queue.name, queue.bound)

    def compare(self, queue: MemoryQueue) -> None:
        """Compare a queue with the existing one, if there is one; raises `PreconditionFailedError`."""
        existing = self.queues.get(queue.name, queue)
        if existing.durable != queue.durable:
            raise _inequivalent(queue.name, "durable", queue.durable, existing.durable)
        for key in sorted(existing.arguments.keys() | queue.arguments.keys()):
            wanted, current = queue.arguments.get(key), existing.arguments.get(key)
            if wanted != current:
                raise _inequivalent(queue.name, key, wanted, current)

    def queue(self, name: str) -> MemoryQueue:
        """Return a queue after removing its expired messages; raises `QueueNotFoundError`."""
        if name not in self.queues:
            raise QueueNotFoundError(name)
        self._expire(self.queues[name])
        return self.queues[name]

    def set_bound(self, name: str, bound: Mapping[str, str | int]) -> None:
        """Change the bound; a queue that is too long then loses its oldest messages, if it drops its head."""
        queue = self.queue(name)
        queue.bound = bound
        self._shorten(queue)

    def delete(self, name: str) -> None:
        """Remove a queue, its bindings and its messages."""
        queue = self.queues.pop(name, None)
        for exchange, bound in self.bindings.items():
            self.bindings[exchange] = [(key, target) for key, target in bound if target != name]
        for consumer in list(queue.consumers) if queue else ():
            consumer.on_queue_deleted()

    # -- messages

    def publish(self, message: Message, exchange: str, routing_key: str) -> tuple[bool, bool]:
        """Route one message; return whether it reached any queue, and whether every such queue accepted it."""
        targets = list(self._route(exchange, routing_key))
        accepted = [self._offer(queue, message, exchange, routing_key) for queue in targets]
        return bool(targets), all(accepted)

    def requeue(self, name: str, entry: MemoryEntry) -> None:
        """Return an unsettled message to its position, marked as redelivered."""
        if (queue := self.queues.get(name)) is not None:
            queue.unacked -= 1
            entry.redelivered = True
            queue.add(entry)
            self.pump_soon(queue)

    def settle(self, name: str, entry: MemoryEntry, *, dead_letter: bool = False) -> None:
        """Remove an unsettled message, or dead-letter it as rejected."""
        if (queue := self.queues.get(name)) is not None:
            queue.unacked -= 1
            if dead_letter:
                self._dead_letter(queue, entry, "rejected")

    def pump_soon(self, queue: MemoryQueue) -> None:
        """Schedule the delivery of ready messages."""
        asyncio.get_running_loop().call_soon(self._pump, queue)

    def _pump(self, queue: MemoryQueue) -> None:
        self._expire(queue)
        while queue.ready:
            consumer = next((consumer for consumer in queue.consumers if consumer.has_room()), None)
            if consumer is None:
                return
            queue.consumers.remove(consumer)  # to the end: consumers take turns
            queue.consumers.append(consumer)
            queue.unacked += 1
            consumer.take(queue.pop())

    def _route(self, exchange: str, routing_key: str) -> Iterator[MemoryQueue]:
        names = [routing_key] if not exchange else [name for key, name in self.bindings[exchange] if key == routing_key]
        return (self.queues[name] for name in names if name in self.queues)

    def _offer(self, queue: MemoryQueue, message: Message, exchange: str, routing_key: str) -> bool:
        self._expire(queue)
        lifetimes_ms = [message.expiration_ms, queue.arguments.get("x-message-ttl")]
        lifetime_ms = min((int(known) for known in lifetimes_ms if known is not None), default=None)
        expires_at = float("inf") if lifetime_ms is None else asyncio.get_running_loop().time() + lifetime_ms / 1000
        entry = MemoryEntry(next(self._orders), message, exchange, routing_key, expires_at)
        if queue.overflow != "drop-head" and queue.is_over(1, len(message.body)):
            if queue.overflow == "reject-publish-dlx":
                self._dead_letter(queue, entry, "maxlen")
            return False
        queue.add(entry)
        self._shorten(queue)
        self.pump_soon(queue)
        return True

    def _shorten(self, queue: MemoryQueue) -> None:
        while queue.ready and queue.overflow == "drop-head" and queue.is_over():
            self._dead_letter(queue, queue.pop(), "maxlen")

    def _expire(self, queue: MemoryQueue) -> None:
        now = asyncio.get_running_loop().time()
        while queue.ready and queue.ready[0].expires_at <= now:
            self._dead_letter(queue, queue.pop(), "expired")

    def _dead_letter(self, queue: MemoryQueue, entry: MemoryEntry, reason: str) -> None:
        routing_key = str(queue.arguments.get("x-dead-letter-routing-key", entry.routing_key))
        if "x-dead-letter-exchange" not in queue.arguments:
            return
        dead = dead_letter(
            entry.message, queue=queue.name, reason=reason, exchange=entry.exchange, routing_key=entry.routing_key
        )
        self.publish(dead, str(queue.arguments["x-dead-letter-exchange"]), routing_key)


def _inequivalent(name: str, argument: str, wanted: object, current: object) -> PreconditionFailedError:
    reply_text = (
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{name}' in vhost '/': "
        f"received '{wanted}' but current is '{current}'"
    )
    return PreconditionFailedError(name, argument, reply_text)
