"""Where messages go: from a routing key or headers to the bindings of an exchange that match, or directly to a channel.

Each type of exchange is one predicate over a binding. The matches of a routing key are cached until a binding changes.
Must not know: how queues work, channels, frames.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from backpressure.amqp.field_tables import Table, decode_value, octets_of, short_string, split_table
from backpressure.broker.entries import QueuedMessage
from backpressure.broker.meters import Counters
from backpressure.broker.policy import Policy
from backpressure.broker.queue import Queue

_REMEMBERED_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Binding:
    """A destination, and which messages an exchange sends to it."""

    destination: Queue | Exchange
    routing_key: str
    arguments: Table = field(default_factory=dict, compare=False)
    words: tuple[str, ...] = field(init=False, compare=False)
    fields: frozenset[tuple[bytes, bytes]] = field(init=False)
    """The arguments for comparison: types matter (1 differs from true), the order of names does not."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.routing_key.split(".")))
        fields = frozenset(split_table(octets_of(self.arguments)).items()) if self.arguments else frozenset()
        object.__setattr__(self, "fields", fields)


class Exchange:
    """One exchange of a virtual host."""

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Table | None = None,
    ) -> None:
        """``kind`` is one of `TYPES`."""
        self.name = name
        self.kind = kind
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = arguments or {}
        self.policy: Policy | None = None
        self.bindings: dict[Binding, None] = {}
        self.counters = Counters()
        self._matches = TYPES[kind]
        self._by_destination: dict[Queue | Exchange, list[Binding]] = {}
        self._remembered: dict[str, Sequence[Queue | Exchange]] = {}

    @property
    def alternate(self) -> str | None:
        """The exchange that receives what this one cannot route."""
        policy = self.policy.definition if self.policy else {}
        name = self.arguments.get("alternate-exchange", policy.get("alternate-exchange"))
        return name if isinstance(name, str) else None

    @property
    def destinations(self) -> Iterable[Queue | Exchange]:
        """Every queue and exchange that is bound to this one."""
        return self._by_destination

    @property
    def is_kept(self) -> bool:
        """Whether it survives a restart of the broker."""
        return self.durable

    def bind(self, binding: Binding) -> None:
        """Add a binding; a second one that is equal changes nothing."""
        if binding not in self.bindings:
            self.bindings[binding] = None
            self._by_destination.setdefault(binding.destination, []).append(binding)
            self._remembered.clear()

    def unbind(self, binding: Binding) -> None:
        """Remove a binding; it is no error if it does not exist."""
        if binding in self.bindings:
            del self.bindings[binding]
            others = self._by_destination[binding.destination]
            others.remove(binding)
            if not others:
                del self._by_destination[binding.destination]
            self._remembered.clear()

    def unbind_all(self, destination: Queue | Exchange) -> bool:
        """Remove all bindings to ``destination``; return whether there were any."""
        gone = self._by_destination.pop(destination, ())
        for binding in gone:
            del self.bindings[binding]
        if gone:
            self._remembered.clear()
        return bool(gone)

    def route(self, message: QueuedMessage) -> Sequence[Queue | Exchange]:
        """The destinations of a message, each once."""
        if self.kind == "headers":
            return tuple(dict.fromkeys(b.destination for b in self.bindings if _headers(b, message)))
        if not message.other_keys:
            return self._search(message.routing_key)
        keys = (message.routing_key, *message.other_keys)
        return tuple(dict.fromkeys(chain.from_iterable(map(self._search, keys))))

    def _search(self, routing_key: str) -> Sequence[Queue | Exchange]:
        found = self._remembered.get(routing_key)
        if found is None:
            if len(self._remembered) >= _REMEMBERED_KEYS:
                self._remembered.clear()
            matches = self._matches
            found = tuple(dict.fromkeys(b.destination for b in self.bindings if matches(b, routing_key)))
            self._remembered[routing_key] = found
        return found


def _direct(binding: Binding, routing_key: str) -> bool:
    return binding.routing_key == routing_key


def _fanout(_binding: Binding, _routing_key: str) -> bool:
    return True


def _topic(binding: Binding, routing_key: str) -> bool:
    """``*`` matches one word, ``#`` any number of words. Tracks the set of possible positions from left to right."""
    pattern, words = binding.words, routing_key.split(".") if routing_key else []
    positions = {0}  # how many words may have been matched so far
    if binding.routing_key == "":
        return not words
    for part in pattern:
        if part == "#":
            positions = set(range(min(positions), len(words) + 1))
        else:
            positions = {p + 1 for p in positions if p < len(words) and part in {"*", words[p]}}
        if not positions:
            return False
    return len(words) in positions


def _headers(binding: Binding, message: QueuedMessage) -> bool:
    """All arguments (``x-match`` = ``all``, the default) or one of them (``any``) equal the message's headers."""
    mode = str(binding.arguments.get("x-match", "all"))
    with_x = mode.endswith("-with-x")
    present = message.headers()
    hits = (
        _equal(value, present.get(name))
        for name, value in binding.fields
        if name != b"x-match" and (with_x or not name.startswith(b"x-"))
    )
    return any(hits) if mode.startswith("any") else all(hits)


def _equal(wanted: bytes, present: bytes | None) -> bool:
    """Whether two undecoded values are the same; a binding's field without a value asks for any."""
    if present is None or wanted[:1] == b"V":
        return present is not None
    return wanted == present or _comparable(wanted) == _comparable(present)


def _comparable(raw: bytes) -> object:
    """A value as Erlang compares it: numbers by value, text by its octets, and all others also by their types."""
    if raw[:1] in {b"S", b"x"}:
        return raw[5:]
    number = decode_value(raw)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return number if is_number else raw


TYPES: dict[str, Callable[[Binding, str], bool]] = {
    "direct": _direct,
    "fanout": _fanout,
    "topic": _topic,
    "headers": _fanout,  # not asked: these look at the message
}
"""The predicate of each exchange type, over a binding and a routing key."""


REPLY_TO = "amq.rabbitmq.reply-to"


class ReplyConsumer:
    """The one subscription of a channel to the answers it gets: direct reply-to, without a queue.

    A channel consumes from the pseudo-queue `REPLY_TO` and publishes requests with that ``reply_to``; the broker puts
    the channel's own address there, and what is published to an address on the default exchange is delivered to its
    channel.
    """

    def __init__(self, tag: str, deliver: Callable[[QueuedMessage], None]) -> None:
        """``deliver`` sends an answer to the client."""
        self.tag = tag
        self.deliver = deliver
        self.address = f"{REPLY_TO}.{secrets.token_urlsafe(24)}"
        self.reply_to = short_string(self.address)
        """The property ``reply_to`` of this channel's requests."""


class DirectReplies:
    """Where answers go, by address."""

    def __init__(self) -> None:
        self._consumers: dict[str, ReplyConsumer] = {}

    def add(self, consumer: ReplyConsumer) -> None:
        """Answers to this consumer's address reach it from now on."""
        self._consumers[consumer.address] = consumer

    def remove(self, consumer: ReplyConsumer) -> None:
        """Answers that are still to come are lost, as there."""
        self._consumers.pop(consumer.address, None)

    def exist(self, name: str) -> bool:
        """Whether ``name`` may be declared as if it were a queue."""
        return name == REPLY_TO or name in self._consumers

    def deliver(self, message: QueuedMessage) -> None:
        """Deliver what was published to an address on the default exchange; without a channel there, it is lost."""
        consumer = self._consumers.get(message.routing_key)
        if consumer is not None:
            consumer.deliver(message)
