"""Messages in queues: what was published, dead letters, the place in a queue, and the order of the ready ones.

The content is opaque: header and body are the octets that the publisher sent. Must not know: consumers, limits,
channels, frames, time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import chain

from backpressure.amqp.deaths import deaths_of, forget_deaths, is_cycle, record_death
from backpressure.amqp.field_tables import RawTable, short_string, split_array
from backpressure.amqp.properties import Properties

ENTRY_COST_BYTES = 400
"""Memory of an entry and its message besides their content, measured for small messages on CPython 3.11."""
_HIGHEST_NORMAL = 4
_HIGH_IN_A_ROW = 2


def keys_in(headers: RawTable, name: bytes) -> tuple[str, ...]:
    """The routing keys in the header ``CC`` or ``BCC``; what is not text there is none."""
    return texts_in(headers.get(name, b""))


def texts_in(raw: bytes) -> tuple[str, ...]:
    """Return the texts in an array field; what is not text there is left out."""
    return tuple(item[5:].decode(errors="surrogateescape") for item in split_array(raw) if item[:1] == b"S")


class QueuedMessage:
    """A published message: one object, shared by all queues it was routed to."""

    __slots__ = (
        "body",
        "exchange",
        "expiration_s",
        "has_died",
        "header",
        "other_keys",
        "persistent",
        "route",
        "routing_key",
    )

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        header: bytes,
        body: bytes,
        *,
        route: bytes = b"",
        persistent: bool = False,
        expiration_s: float | None = None,
        other_keys: tuple[str, ...] = (),
        has_died: bool = False,
    ) -> None:
        """``header`` is the content header frame's payload; ``route`` is exchange and key as short strings.

        ``has_died``: it is a dead letter, so its ``x-death`` is the broker's own.
        """
        self.exchange = exchange
        self.routing_key = routing_key
        self.route = route or short_string(exchange) + short_string(routing_key)
        self.header = header
        self.body = body
        self.persistent = persistent
        self.expiration_s = expiration_s
        self.other_keys = other_keys
        """Further routing keys, from the headers ``CC`` and ``BCC``."""
        self.has_died = has_died

    @property
    def cost_bytes(self) -> int:
        """The approximate memory of one queued copy."""
        return len(self.header) + len(self.body) + ENTRY_COST_BYTES

    @property
    def priority(self) -> int:
        """The property of that name; 0 when it is absent."""
        return self.properties().number("priority") or 0

    def properties(self) -> Properties:
        """Parse the properties."""
        return Properties.parse(self.header)

    def headers(self) -> RawTable:
        """The headers table, values undecoded."""
        return self.properties().headers()


class DeadLetter:
    """A message to be routed to the dead-letter exchange."""

    def __init__(
        self, message: QueuedMessage, *, queue: str, reason: str, exchange: str, routing_key: str | None, epoch_s: int
    ) -> None:
        """``reason`` is ``maxlen``, ``expired``, ``rejected`` or ``delivery_limit``.

        ``routing_key`` None keeps the message's own.
        """
        properties = message.properties()
        copies = keys_in(properties.headers(), b"CC") if message.other_keys else ()
        if not message.has_died:
            forget_deaths(properties)
        record_death(
            properties,
            queue=queue,
            reason=reason,
            exchange=message.exchange,
            routing_keys=[message.routing_key, *copies],
            epoch_s=epoch_s,
        )
        self.message = QueuedMessage(
            exchange,
            message.routing_key if routing_key is None else routing_key,
            properties.payload(),
            message.body,
            persistent=message.persistent,
            other_keys=message.other_keys if routing_key is None else (),
            has_died=True,
        )
        self._deaths: list[RawTable] = [] if reason == "rejected" else deaths_of(properties.headers())

    def may_enter(self, queue: str) -> bool:
        """Whether it has not been there before, or was rejected since; this prevents endless cycles."""
        return not is_cycle(self._deaths, queue)


class Entry:
    """A message's place in one queue."""

    __slots__ = ("delivery_count", "expires_at_s", "message", "redelivered", "sequence", "stored")

    def __init__(self, sequence: int, message: QueuedMessage) -> None:
        """``sequence`` is the position in the queue, which sets ``expires_at_s`` (the broker's clock)."""
        self.sequence = sequence
        self.message = message
        self.expires_at_s: float | None = None
        self.redelivered = False
        self.delivery_count = 0
        self.stored = False

    def __lt__(self, other: Entry) -> bool:
        return self.sequence < other.sequence


class Backlog:
    """The ready messages in order, also after some were returned: O(1) for new ones, O(log n) for returned ones.

    New messages wait in arrival order, returned ones in a heap; `take` merges the two by sequence number.
    """

    __slots__ = ("_fresh", "_returned", "body_bytes")

    def __init__(self) -> None:
        self._fresh: deque[Entry] = deque()
        self._returned: list[Entry] = []
        self.body_bytes = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._returned)

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, in order."""
        return heapq.merge(sorted(self._returned), self._fresh)

    def append(self, entry: Entry) -> None:
        """Add an entry that is newer than all others."""
        self._fresh.append(entry)
        self.body_bytes += len(entry.message.body)

    def give_back(self, entry: Entry) -> None:
        """Put an entry back in its place."""
        heapq.heappush(self._returned, entry)
        self.body_bytes += len(entry.message.body)

    def head(self) -> Entry:
        """Return the oldest entry without removing it; IndexError if there is none."""
        if self._returned and (not self._fresh or self._returned[0] < self._fresh[0]):
            return self._returned[0]
        return self._fresh[0]

    def take(self) -> Entry:
        """Remove and return the oldest entry; IndexError if there is none."""
        if self._returned and (not self._fresh or self._returned[0] < self._fresh[0]):
            entry = heapq.heappop(self._returned)
        else:
            entry = self._fresh.popleft()
        self.body_bytes -= len(entry.message.body)
        return entry

    def clear(self) -> None:
        """Remove all entries."""
        self._fresh.clear()
        self._returned.clear()
        self.body_bytes = 0


class PriorityBacklog:
    """A backlog for each priority. The highest goes first: to consumers, and when the bound drops messages."""

    __slots__ = ("_highest", "_levels")

    def __init__(self, highest: int) -> None:
        """Messages of a priority above ``highest`` have that one; 0 is no limit, as in RabbitMQ 4."""
        self._highest = highest or 255
        self._levels: dict[int, Backlog] = {}
        """Those that are not empty, the highest first."""

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, in order."""
        return chain.from_iterable(self._levels.values())

    @property
    def body_bytes(self) -> int:
        """How much the bodies hold."""
        return sum(level.body_bytes for level in self._levels.values())

    def append(self, entry: Entry) -> None:
        """Add an entry that is younger than all others."""
        self._level(entry).append(entry)

    def give_back(self, entry: Entry) -> None:
        """Return an entry to its place."""
        self._level(entry).give_back(entry)

    def _level(self, entry: Entry) -> Backlog:
        priority = min(entry.message.priority, self._highest)
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = Backlog()
            self._levels = dict(sorted(self._levels.items(), reverse=True))
        return level

    def head(self) -> Entry:
        """The next entry, which stays; StopIteration when there is none."""
        return next(iter(self._levels.values())).head()

    def take(self) -> Entry:
        """Remove and return the next entry; StopIteration when there is none."""
        priority, level = next(iter(self._levels.items()))
        entry = level.take()
        if not level:
            del self._levels[priority]
        return entry

    def clear(self) -> None:
        """Forget everything."""
        self._levels.clear()


class QuorumBacklog:
    """The ready messages of a quorum queue: two priorities, and before them what was returned.

    Of messages of high priority two go for each other one, unless the high one is older anyway. What is returned does
    not get its place back, but goes next, in the order of its return. Source: RabbitMQ 4.0, ``rabbit_fifo_q``.
    """

    __slots__ = ("_high", "_normal", "_returned", "_taken", "body_bytes")

    def __init__(self) -> None:
        self._returned: deque[Entry] = deque()
        self._high: deque[Entry] = deque()
        self._normal: deque[Entry] = deque()
        self._taken = 0
        self.body_bytes = 0

    def __len__(self) -> int:
        return len(self._returned) + len(self._high) + len(self._normal)

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, those of high priority first."""
        return chain(self._returned, self._high, self._normal)

    def append(self, entry: Entry) -> None:
        """Add an entry that is newer than all others."""
        (self._high if entry.message.priority > _HIGHEST_NORMAL else self._normal).append(entry)
        self.body_bytes += len(entry.message.body)

    def give_back(self, entry: Entry) -> None:
        """Let a returned entry go next, after those that were returned before."""
        self._returned.append(entry)
        self.body_bytes += len(entry.message.body)

    def _next(self) -> deque[Entry]:
        if self._returned:
            return self._returned
        high, normal = self._high, self._normal
        if not (high and normal):
            return high or normal
        return normal if self._taken == _HIGH_IN_A_ROW and normal[0] < high[0] else high

    def head(self) -> Entry:
        """Return the next entry without removing it; IndexError if there is none."""
        return self._next()[0]

    def take(self) -> Entry:
        """Remove and return the next entry; IndexError if there is none."""
        source = self._next()
        entry = source.popleft()
        if source is not self._returned:
            self._taken = 0 if self._taken == _HIGH_IN_A_ROW else self._taken + 1
        self.body_bytes -= len(entry.message.body)
        return entry

    def clear(self) -> None:
        """Remove all entries."""
        for source in (self._returned, self._high, self._normal):
            source.clear()
        self.body_bytes = 0
