"""The virtual host: every queue, exchange, binding and policy of a broker, and the routing between them.

Contains declaring, deleting, binding and publishing. Must not know: channels, frames, sockets, the clock (the caller
sets ``now``).
"""

from __future__ import annotations

import base64
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

from backpressure.amqp.field_tables import Table
from backpressure.broker import declarations
from backpressure.broker.entries import DeadLetter, QueuedMessage
from backpressure.broker.exchange import TYPES, Binding, DirectReplies, Exchange
from backpressure.broker.faults import Connected, Faults
from backpressure.broker.meters import Counters, MemoryAlarm
from backpressure.broker.policy import QUEUE_TYPES, ApplyTo, Policy, matching
from backpressure.broker.queue import Journal, Queue
from backpressure.broker.replies import (
    access_refused,
    denied_feature,
    no_exchange,
    no_queue,
    precondition_failed,
    resource_locked,
)
from backpressure.broker.timers import Timers
from backpressure.errors import ConfigError

_BUILT_IN = (
    ("", "direct"),
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
)


class TopologyJournal(Journal, Protocol):
    """Also records exchanges, queues, bindings and policies, to be written later."""

    def exchange_declared(self, exchange: Exchange) -> None:
        """An exchange was created."""

    def exchange_deleted(self, exchange: Exchange) -> None:
        """An exchange was deleted, with all bindings from and to it."""

    def queue_declared(self, queue: Queue) -> None:
        """A queue was created."""

    def queue_deleted(self, queue: Queue) -> None:
        """A queue was deleted, with its messages and all bindings to it."""

    def bound(self, source: Exchange, binding: Binding) -> None:
        """A binding was requested; it may exist already."""

    def unbound(self, source: Exchange, binding: Binding) -> None:
        """A binding was removed; it may not have existed."""

    def default_queue_type_set(self, kind: str) -> None:
        """Queues declared without a type have this one from now on."""

    def policy_set(self, policy: Policy) -> None:
        """A policy was added or replaced."""

    def policy_deleted(self, name: str) -> None:
        """A policy was deleted."""


class VirtualHost:
    """The state of one broker."""

    def __init__(
        self,
        *,
        memory_limit_bytes: int = 0,
        now: float = 0.0,
        epoch_s: float = 0.0,
        denied: Collection[str] = (),
    ) -> None:
        """``now`` is the time on the clock, and ``epoch_s`` the same moment in seconds since 1970.

        ``denied`` are deprecated features that are not permitted.
        """
        self.denied = denied
        self.now = now
        self._epoch_offset_s = epoch_s - now
        self.timers = Timers()
        self.memory = MemoryAlarm(memory_limit_bytes, self._alarm_changed)
        self.counters = Counters()
        self.exchanges = {name: Exchange(name, kind, durable=True, internal=False) for name, kind in _BUILT_IN}
        self.queues: dict[str, Queue] = {}
        self.policies: dict[str, Policy] = {}
        self.default_queue_type = "classic"
        self.sessions: set[Connected] = set()
        self.faults = Faults(self)
        self.journal: TopologyJournal | None = None
        self.last_queue_id = 0
        self.direct_replies = DirectReplies()
        self._dead: deque[tuple[Queue, QueuedMessage, str]] = deque()
        self._burying = False
        self._sources: dict[Queue | Exchange, dict[Exchange, None]] = {}
        """The exchanges that each destination is, or was, bound to."""

    @property
    def epoch_s(self) -> float:
        """The wall-clock time, in seconds since 1970."""
        return self.now + self._epoch_offset_s

    def advance(self, now: float) -> None:
        """Advance the clock: expire messages and queues that are due."""
        self.now = now
        self.timers.run(now)

    # -- exchanges -----------------------------------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """Return the exchange called ``name``; 404 if there is none."""
        try:
            return self.exchanges[name]
        except KeyError:
            raise no_exchange(name) from None

    def declare_exchange(
        self, name: str, kind: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table
    ) -> Exchange:
        """Create an exchange, or check that an existing one is equal."""
        if kind not in TYPES:
            raise precondition_failed(f"unknown exchange type '{kind}'")
        existing = self.exchanges.get(name)
        if existing is not None:
            declarations.same_exchange(
                existing,
                kind=kind,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=arguments,
            )
            return existing
        _refuse_reserved("exchange", name)
        declarations.check_exchange_arguments(name, arguments)
        exchange = Exchange(
            name, kind, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments
        )
        exchange.policy = matching(self.policies.values(), name, "exchanges")
        self.exchanges[name] = exchange
        if self.journal is not None:
            self.journal.exchange_declared(exchange)
        return exchange

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange and its bindings; no error if it does not exist."""
        _refuse_default(name)
        if name.startswith("amq."):
            raise access_refused(f"deletion of system exchange '{name}' in vhost '/' not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise precondition_failed(f"exchange '{name}' in vhost '/' in use")
        self._remove_exchange(exchange)
        self._unbind_everywhere(exchange)

    # -- queues --------------------------------------------------------------------------------------------------

    def queue(self, name: str, session: object | None = None) -> Queue:
        """Return the queue called ``name``; 404 if there is none, 405 if it belongs to another session."""
        queue = self.queues.get(name)
        if queue is None:
            raise no_queue(name)
        if queue.owner is not None and session is not None and queue.owner is not session:
            raise resource_locked(name)
        return queue

    def declare_queue(
        self,
        name: str,
        session: object,
        *,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Table,
    ) -> Queue:
        """Create a queue, or check that an existing one is equal; an empty name is replaced by a generated one."""
        _refuse_reserved("queue", name)
        arguments = declarations.with_queue_type(
            arguments, self.default_queue_type, durable=durable, auto_delete=auto_delete, exclusive=exclusive
        )
        lasts = durable and not exclusive  # an exclusive queue ends with its connection
        if name in self.queues:
            queue = self.queue(name, session)
            declarations.same_queue(
                queue, durable=lasts, auto_delete=auto_delete, exclusive=exclusive, arguments=arguments
            )
            queue.touch()
            return queue
        if not (durable or exclusive) and "transient_nonexcl_queues" in self.denied:
            raise denied_feature("transient_nonexcl_queues")
        if not name:
            name = "amq.gen-" + base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
        declarations.check_queue_arguments(
            name, arguments, durable=durable, auto_delete=auto_delete, exclusive=exclusive
        )
        queue = Queue(
            self,
            name,
            id=self.new_queue_id(),
            durable=lasts,
            auto_delete=auto_delete,
            owner=session if exclusive else None,
            arguments=arguments,
        )
        self._apply_policy(queue)
        self.queues[name] = queue
        if self.journal is not None:
            self.journal.queue_declared(queue)
        return queue

    def set_default_queue_type(self, kind: str) -> None:
        """Choose the type of queues that are declared without one; `ConfigError` for a type that there is not."""
        if kind not in QUEUE_TYPES:
            raise ConfigError("default_queue_type", kind, f"must be one of: {', '.join(QUEUE_TYPES)}")
        self.default_queue_type = kind
        if self.journal is not None:
            self.journal.default_queue_type_set(kind)

    def new_queue_id(self) -> int:
        """Return an id that no queue of this broker, or of the data it started with, has used."""
        self.last_queue_id += 1
        return self.last_queue_id

    def check_deletion(self, queue: Queue, *, if_unused: bool, if_empty: bool) -> None:
        """406 when a queue is in use, or not empty, and the client asked to delete it only if it is not."""
        if if_unused and queue.consumers:
            raise precondition_failed(f"queue '{queue.name}' in vhost '/' in use")
        if if_empty and queue.ready:
            raise precondition_failed(f"queue '{queue.name}' in vhost '/' not empty")

    def delete_queue(self, queue: Queue) -> int:
        """Remove a queue and its bindings; returns the number of ready messages it held."""
        if self.queues.pop(queue.name, None) is None:
            return 0
        if self.journal is not None:
            self.journal.queue_deleted(queue)
        self._unbind_everywhere(queue)
        return queue.close()

    # -- bindings ------------------------------------------------------------------------------------------------

    def bind(self, source: str, destination: Queue | Exchange, routing_key: str, arguments: Table) -> Binding:
        """Bind ``destination`` to the exchange ``source``."""
        _refuse_default(source)
        exchange, binding = self.exchange(source), Binding(destination, routing_key, arguments)
        declarations.check_binding_arguments(exchange.kind, arguments)
        self.attach(exchange, binding)
        if self.journal is not None:
            self.journal.bound(exchange, binding)
        return binding

    def attach(self, exchange: Exchange, binding: Binding) -> None:
        """Add a binding that was checked before."""
        exchange.bind(binding)
        self._sources.setdefault(binding.destination, {})[exchange] = None

    def unbind(self, source: str, destination: Queue | Exchange | None, routing_key: str, arguments: Table) -> None:
        """Remove a binding; no error if it, or one of its ends, does not exist."""
        _refuse_default(source)
        exchange = self.exchanges.get(source)
        if exchange is not None and destination is not None:
            binding = Binding(destination, routing_key, arguments)
            exchange.unbind(binding)
            if self.journal is not None:
                self.journal.unbound(exchange, binding)
            if exchange.auto_delete and not exchange.bindings:
                self._remove_exchange(exchange)
                self._unbind_everywhere(exchange)

    def _unbind_everywhere(self, destination: Queue | Exchange) -> None:
        """Remove all bindings to ``destination``, then auto-delete exchanges that have none left, and so on."""
        gone: list[Queue | Exchange] = [destination]
        while gone:
            target = gone.pop()
            unbound = [exchange for exchange in self._sources.pop(target, ()) if exchange.unbind_all(target)]
            for exchange in unbound:
                if exchange.auto_delete and not exchange.bindings:
                    self._remove_exchange(exchange)
                    gone.append(exchange)

    def _remove_exchange(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.name]
        for destination in exchange.destinations:
            self._sources.get(destination, {}).pop(exchange, None)
        if self.journal is not None:
            self.journal.exchange_deleted(exchange)

    # -- policies ------------------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy) -> None:
        """Add or replace a policy; it applies at once."""
        self.policies[policy.name] = policy
        if self.journal is not None:
            self.journal.policy_set(policy)
        self.apply_policies()

    def delete_policy(self, name: str) -> None:
        """Delete a policy; KeyError if there is none."""
        del self.policies[name]
        if self.journal is not None:
            self.journal.policy_deleted(name)
        self.apply_policies()

    def apply_policies(self) -> None:
        """Apply the matching policy to each queue and exchange."""
        for queue in list(self.queues.values()):
            self._apply_policy(queue)
        for exchange in self.exchanges.values():
            exchange.policy = matching(self.policies.values(), exchange.name, "exchanges")

    def _apply_policy(self, queue: Queue) -> None:
        of_type: ApplyTo = "quorum_queues" if queue.is_quorum else "classic_queues"
        queue.apply(matching(self.policies.values(), queue.name, "queues", of_type))

    # -- messages ------------------------------------------------------------------------------------------------

    def route(self, exchange: Exchange, message: QueuedMessage) -> Sequence[Queue]:
        """Return the queues that a message reaches, each once, also through other exchanges."""
        if not exchange.name:
            queue = self.queues.get(message.routing_key)
            if message.other_keys:
                keys = dict.fromkeys((message.routing_key, *message.other_keys))
                return tuple(self.queues[key] for key in keys if key in self.queues)
            return (queue,) if queue is not None else ()
        found = exchange.route(message)
        if len(found) == 1 and isinstance(found[0], Queue):
            return (found[0],)
        queues: dict[Queue, None] = {}
        seen, pending = {exchange}, [exchange]
        while pending:
            source = pending.pop()
            destinations = source.route(message) if source.name else self.route(source, message)
            if not destinations and source.alternate in self.exchanges:
                destinations = (self.exchanges[source.alternate],)
            for destination in destinations:
                if isinstance(destination, Queue):
                    queues[destination] = None
                elif destination not in seen:
                    seen.add(destination)
                    pending.append(destination)
        return tuple(queues)

    def publish(self, queues: Sequence[Queue], message: QueuedMessage) -> bool:
        """Enqueue in all of ``queues``; return False if one of them rejects the message."""
        accepted = True
        for queue in queues:
            if not queue.push(message):
                accepted = False
        return accepted

    def dead_letter(self, queue: Queue, message: QueuedMessage, reason: str) -> None:
        """Publish to the queue's dead-letter exchange; without one, or in a cycle, the message is dropped.

        One dead letter may cause the next: they are handled in a loop, not by recursion.
        """
        self._dead.append((queue, message, reason))
        if self._burying:
            return
        self._burying = True
        try:
            while self._dead:
                self._bury(*self._dead.popleft())
        finally:
            self._burying = False

    def _bury(self, queue: Queue, message: QueuedMessage, reason: str) -> None:
        self.counters.totals[f"dead_letter_{reason}"] += 1
        limits = queue.limits
        name = limits.dead_letter_exchange
        exchange = None if name is None else self.exchanges.get(name)
        if exchange is None:
            return
        dead = DeadLetter(
            message,
            queue=queue.name,
            reason=reason,
            exchange=exchange.name,
            routing_key=limits.dead_letter_routing_key,
            epoch_s=int(self.epoch_s),
        )
        found = self.route(exchange, dead.message)
        self.publish([target for target in found if dead.may_enter(target.name)], dead.message)

    def _alarm_changed(self, active: bool) -> None:
        for session in list(self.sessions):
            session.alarm_changed(active=active)


def _refuse_reserved(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise access_refused(f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def _refuse_default(exchange: str) -> None:
    if not exchange:
        raise access_refused("operation not permitted on the default exchange")
