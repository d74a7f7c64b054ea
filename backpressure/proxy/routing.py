"""Which queues a message reaches: from exchange and routing key, by the bindings that are known.

Bindings become known in three ways: those that clients make through the proxy, those that the management API lists, and
those that the configuration states. What is not known is not paced. If the type of an exchange is unknown, or what it
does depends on more than the routing key (headers, hashing), every binding that could match counts.
Must not know: frames, connections, pace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from pamqp import base, commands

from backpressure.amqp.bindings import takes, topic_matches

_PREDECLARED = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}
_MOST_BINDINGS = 100_000


@dataclass(frozen=True, slots=True)
class KnownBinding:
    """A binding of exchange ``source``; ``to_exchange``: its destination is an exchange, not a queue."""

    source: str
    destination: str
    routing_key: str
    to_exchange: bool = False


@dataclass(slots=True)
class _Exchange:
    kind: str = ""
    alternate: str = ""
    bindings: set[KnownBinding] = field(default_factory=set)


class Topology:
    """The exchanges and bindings of one virtual host, as far as they are known.

    Attributes:
        version: grows with every change.
    """

    def __init__(self, configured: Iterable[KnownBinding] = ()) -> None:
        """``configured`` bindings are never forgotten; their routing keys are patterns of a topic exchange."""
        self._configured = tuple(configured)
        self._exchanges: dict[str, _Exchange] = {}
        self._count = 0
        self._passed: list[KnownBinding] = []
        self.version = 0
        for name, kind in _PREDECLARED.items():
            self.declare(name, kind)

    def declare(self, name: str, kind: str, alternate: str = "") -> None:
        """An exchange exists; an empty ``kind`` is an unknown one."""
        exchange = self._exchanges.setdefault(name, _Exchange())
        if (exchange.kind, exchange.alternate) != (kind, alternate):
            exchange.kind, exchange.alternate = kind, alternate
            self.version += 1

    def bind(self, binding: KnownBinding) -> None:
        """A binding was made; beyond a hundred thousand it is ignored."""
        bindings = self._exchanges.setdefault(binding.source, _Exchange()).bindings
        if binding not in bindings and self._count < _MOST_BINDINGS:
            bindings.add(binding)
            self._passed.append(binding)
            self._count += 1
            self.version += 1

    def unbind(self, binding: KnownBinding) -> None:
        """A binding was removed."""
        exchange = self._exchanges.get(binding.source)
        if exchange is not None and binding in exchange.bindings:
            exchange.bindings.discard(binding)
            self._count -= 1
            self.version += 1

    def delete_exchange(self, name: str) -> None:
        """An exchange was deleted, with its bindings."""
        exchange = self._exchanges.pop(name, None)
        if exchange is not None:
            self._count -= len(exchange.bindings)
            self.version += 1
        self._delete_destination(name, to_exchange=True)

    def delete_queue(self, name: str) -> None:
        """A queue was deleted, with its bindings."""
        self._delete_destination(name, to_exchange=False)

    def learn(self, method: base.Frame, last_queue: str) -> None:
        """Take a declaration, binding or deletion that passes; an empty name of a queue means ``last_queue``."""
        match method:
            case commands.Queue.Bind():
                self.bind(KnownBinding(method.exchange, method.queue or last_queue, method.routing_key))
            case commands.Queue.Unbind():
                self.unbind(KnownBinding(method.exchange, method.queue or last_queue, method.routing_key))
            case commands.Exchange.Bind():
                self.bind(KnownBinding(method.source, method.destination, method.routing_key, to_exchange=True))
            case commands.Exchange.Unbind():
                self.unbind(KnownBinding(method.source, method.destination, method.routing_key, to_exchange=True))
            case commands.Exchange.Declare(passive=False):
                alternate = (method.arguments or {}).get("alternate-exchange")
                self.declare(method.exchange, method.exchange_type, alternate if isinstance(alternate, str) else "")
            case commands.Exchange.Delete(if_unused=False):
                self.delete_exchange(method.exchange)
            case commands.Queue.Delete(if_unused=False, if_empty=False):
                self.delete_queue(method.queue or last_queue)
            case _:
                pass

    def about_to_list(self) -> None:
        """The broker is about to be asked for its list: what passes from now on may be missing in it."""
        self._passed.clear()

    def replace(self, exchanges: Iterable[tuple[str, str, str]], bindings: Iterable[KnownBinding]) -> None:
        """Take over what the broker lists: exchanges as (name, type, alternate exchange), and all bindings."""
        listed: dict[str, _Exchange] = {name: _Exchange(kind) for name, kind in _PREDECLARED.items()}
        for name, kind, alternate in exchanges:
            listed[name] = _Exchange(kind, alternate)
        count = 0
        for binding in chain(bindings, self._passed):
            if count < _MOST_BINDINGS and binding.source:
                known = listed.setdefault(binding.source, _Exchange()).bindings
                count += binding not in known
                known.add(binding)
        if listed != self._exchanges:
            self._exchanges, self._count = listed, count
            self.version += 1

    def queues(self, exchange: str, routing_key: str) -> frozenset[str]:
        """Return the queues that a message reaches; none if nothing is known."""
        if not exchange:
            return frozenset((routing_key,))
        found: set[str] = set()
        self._collect(exchange, routing_key, found, set())
        return frozenset(found)

    def _collect(self, name: str, key: str, found: set[str], seen: set[str]) -> None:
        if name in seen:
            return
        seen.add(name)
        known = self._exchanges.get(name)
        matching = [b for b in self._configured if b.source == name and topic_matches(b.routing_key, key)]
        if known is not None:
            matching += [b for b in known.bindings if takes(known.kind, b.routing_key, key)]
        for binding in matching:
            if binding.to_exchange:
                self._collect(binding.destination, key, found, seen)
            else:
                found.add(binding.destination)
        if not matching and known is not None and known.alternate:
            self._collect(known.alternate, key, found, seen)

    def _delete_destination(self, name: str, *, to_exchange: bool) -> None:
        for exchange in self._exchanges.values():
            gone = {b for b in exchange.bindings if b.destination == name and b.to_exchange == to_exchange}
            if gone:
                exchange.bindings -= gone
                self._count -= len(gone)
                self.version += 1
