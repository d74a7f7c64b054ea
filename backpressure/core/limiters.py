"""What enforces the decisions of a law: the token bucket applies its rate, the confirm window limits what is in flight.

Time is passed in. Neither of them sleeps, sends or decides.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Generic, TypeVar


class TokenBucket:
    """Accrues ``rate_per_s`` tokens a second, and holds one plus ``burst_s`` seconds' worth of them.

    The extra one is the next token: without room for it, every late wake-up at a slow rate would lose some.
    `take` uses up tokens, `wait_s` says how long until the next one.

    Meaning of a rate change: tokens that accrued before it were earned at the old rate and are kept; the fraction of a
    token under way carries over; the new rate counts from that moment on. Source: golang.org/x/time/rate, which settles
    it the same way.
    """

    __slots__ = ("_tokens", "_updated_at", "burst_s", "rate_per_s")

    def __init__(self, rate_per_s: float, burst_s: float, now: float) -> None:
        """Start with one token, so that the first message need not wait.

        Args:
            rate_per_s: tokens per second, 0 (closed) … infinite (no limit).
            burst_s: how many seconds' worth, at the current rate, may be caught up after a stall; > 0.
            now: seconds, monotonic.
        """
        self.rate_per_s = rate_per_s
        self.burst_s = burst_s
        self._tokens = 1.0 if rate_per_s < inf else inf
        self._updated_at = now

    @property
    def capacity(self) -> float:
        """The most tokens it can hold."""
        return 1.0 + self.rate_per_s * self.burst_s

    def set_rate(self, rate_per_s: float, now: float) -> None:
        """Accrue at ``rate_per_s`` from ``now`` on; what was earned is kept up to the new capacity."""
        self._accrue(now)
        self.rate_per_s = rate_per_s
        self._tokens = min(self._tokens, self.capacity) if rate_per_s < inf else inf

    def set_burst(self, burst_s: float, now: float) -> None:
        """Hold this many seconds' worth from ``now`` on; what was earned is kept up to the new capacity."""
        self._accrue(now)
        self.burst_s = burst_s
        self._tokens = min(self._tokens, self.capacity)

    def available(self, now: float) -> float:
        """Return the tokens there are at ``now`` (with the fraction under way)."""
        self._accrue(now)
        return self._tokens

    def accrued_at(self, ahead: int, now: float) -> float:
        """Return when the token was earned that is taken after ``ahead`` others: when its message was due."""
        surplus = self.available(now) - ahead - 1
        return now - max(0.0, surplus) / self.rate_per_s if 0 < self.rate_per_s < inf else now

    def take(self, count: float, now: float) -> None:
        """Use up ``count`` tokens; the caller has asked `available`."""
        self._accrue(now)
        if self.rate_per_s < inf:
            self._tokens -= count

    def wait_s(self, now: float) -> float:
        """Return the seconds until a whole token is there: 0 if one is, infinite at rate 0."""
        missing = 1.0 - self.available(now)
        if missing <= 0:
            return 0.0
        return missing / self.rate_per_s if self.rate_per_s > 0 else inf

    def drain(self, now: float) -> None:
        """Discard what accrued, for example while sending was impossible."""
        self._accrue(now)
        if self.rate_per_s < inf:
            self._tokens = min(self._tokens, 1.0)

    def _accrue(self, now: float) -> None:
        elapsed = now - self._updated_at
        if elapsed > 0:  # it is called several times per message, with the same time
            self._updated_at = now
            self._tokens = min(self.capacity, self._tokens + elapsed * self.rate_per_s)


Item = TypeVar("Item")


class ConfirmWindow(Generic[Item]):
    """At most ``limit`` items in flight, by delivery tag: what is sent and unconfirmed, and whether one more may be.

    Delivery tags count from 1 per channel, and a confirm or nack may be *multiple*: settle every earlier tag too (AMQP
    0-9-1 ``basic.ack``; RabbitMQ, "Publisher Confirms"). After a connection is lost none of its tags will ever be
    settled: `lost` returns all messages, oldest first, to be published again with their old ids.
    """

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
