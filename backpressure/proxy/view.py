"""What the connections of one proxy share: the paced queues, the way to them, and what passed of each queue.

It is about one virtual host, that of the upstream URL; connections to others only pass.
Must not know: sockets, tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from backpressure.proxy.paced_queue import PacedQueue
from backpressure.proxy.routing import Topology
from backpressure.proxy.watching import Departures, QueueTally, WatchedConsumer

_MOST_ROUTES = 10_000
_MOST_TALLIES = 1000
_MOST_FOUND = 100
_FIRST_PREFETCH, _LARGEST_PREFETCH = 10, 65_535
_CUSHION_S = 0.04
_ENOUGH_SEEN = 20
_NAMED_BY_BROKER = "amq."  # queues for replies, as a rule


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """How much may wait in one channel before the client's socket is no longer read."""

    messages: int = 100
    octets: int = 1 << 20


class View:
    """Queues, routes and consumers, as far as this proxy knows them.

    Attributes:
        virtual_host: whose queues these are.
        topology: exchanges and bindings.
        paced: the paced queues by name.
        tallies: what passed of each queue.
        consumers: those that consume now, by number.
        prefetch_auto: whether consumers get no more prefetch than keeps them busy.
        limits: of what may wait.
    """

    def __init__(
        self,
        virtual_host: str,
        topology: Topology,
        *,
        limits: HoldLimits,
        ignored_exchange: str,
        find: Callable[[str], PacedQueue | None] | None = None,
        may_find: Callable[[str], bool] = lambda _name: True,
        prefetch_auto: bool = False,
    ) -> None:
        """``find`` makes a paced queue of one that messages were found to lead to, if it ``may_find`` it.

        None: only named queues are paced.
        Messages to ``ignored_exchange``, the reports of other programs, are not paced.
        """
        self.virtual_host = virtual_host
        self.topology = topology
        self.paced: dict[str, PacedQueue] = {}
        self.tallies: dict[str, QueueTally] = {}
        self.consumers: dict[int, WatchedConsumer] = {}
        self.limits = limits
        self.prefetch_auto = prefetch_auto
        self._find = find
        self._wanted = may_find
        self._ignored_exchange = ignored_exchange
        self._routes: dict[bytes, tuple[PacedQueue, ...]] = {}
        self._routes_of = -1
        self._consumers_seen = 0
        self._enough: dict[str, int] = {}

    def pace(self, queue: PacedQueue) -> None:
        """Pace one more queue from now on."""
        self._found(queue)
        self._routes.clear()

    def _found(self, queue: PacedQueue) -> None:
        self.paced[queue.name] = queue
        if queue.departures is None:
            for consumer in self.consumers.values():
                if consumer.queue == queue.name and not consumer.no_ack:
                    self._compare_times(queue, consumer)

    def _compare_times(self, queue: PacedQueue, consumer: WatchedConsumer) -> None:
        """Note when messages leave for ``queue``: ``consumer`` may get them."""
        queue.departures = queue.departures or Departures()
        consumer.departures = queue.departures

    def forget(self, name: str) -> None:
        """Pace a queue no longer."""
        self.paced.pop(name, None)
        self._routes.clear()

    def queues_of(self, route: bytes) -> tuple[PacedQueue, ...]:
        """Return the paced queues of a message; ``route`` are exchange and routing key as ``basic.publish`` has them.

        None for octets that make no sense, which the broker will refuse.
        """
        if self._routes_of != self.topology.version:
            self._routes.clear()
            self._routes_of = self.topology.version
        known = self._routes.get(route)
        if known is None:
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()  # clients may use endlessly many keys
            known = self._routes[route] = self._resolve(route)
        return known

    def _resolve(self, route: bytes) -> tuple[PacedQueue, ...]:
        length = route[0] if route else 0
        exchange = route[1 : 1 + length].decode(errors="replace")
        key = route[2 + length :].decode(errors="replace")
        if len(route) < 2 + length or exchange == self._ignored_exchange:
            return ()
        found = []
        for name in sorted(self.topology.queues(exchange, key)):
            queue = self.paced.get(name)
            if queue is None and self._find is not None and self._may_be_found(name):
                queue = self._find(name)
            if queue is not None:
                self._found(queue)
                found.append(queue)
        return tuple(found)

    def _may_be_found(self, name: str) -> bool:
        named_by_broker = not name or name.startswith(_NAMED_BY_BROKER)
        return not named_by_broker and len(self.paced) < _MOST_FOUND and self._wanted(name)

    def tally(self, queue: str) -> QueueTally:
        """Return the counters of ``queue``.

        Queues that the broker has named, and those beyond a thousand names, are counted together.
        """
        name = f"{_NAMED_BY_BROKER}*" if queue.startswith(_NAMED_BY_BROKER) else queue
        known = self.tallies.get(name)
        if known is None:
            name = name if len(self.tallies) < _MOST_TALLIES else "others"
            known = self.tallies.setdefault(name, QueueTally())
        return known

    def enough_prefetch(self, queue: str) -> int:
        """Return the prefetch that keeps a consumer of ``queue`` busy, by those that were seen; ten for a first one.

        Besides what is in work, enough must be at hand for the time that an acknowledgement and the next message take,
        and that a busy machine does not run a process.
        """
        seen = [one for one in self.consumers.values() if one.queue == queue and one.acked >= _ENOUGH_SEEN]
        if not seen:
            return self._enough.get(queue, _FIRST_PREFETCH)
        enough = max(
            one.workers + ceil(_CUSHION_S * one.workers * one.acked / max(one.service_sum_s, 1e-6)) + 2 for one in seen
        )
        if len(self._enough) >= _MOST_TALLIES:
            self._enough.clear()
        self._enough[queue] = min(enough, _LARGEST_PREFETCH)
        return self._enough[queue]

    def watch(self, queue: str, *, no_ack: bool, prefetch: int, subscribed: bool = True) -> WatchedConsumer:
        """Return the counters of a new consumer, or (not ``subscribed``) of a client that fetches single messages."""
        self._consumers_seen += 1
        consumer = WatchedConsumer(self._consumers_seen, queue, self.tally(queue), no_ack=no_ack, prefetch=prefetch)
        if subscribed:
            self.consumers[consumer.number] = consumer
            if queue in self.paced and not no_ack:
                self._compare_times(self.paced[queue], consumer)
        return consumer

    def ended(self, consumer: WatchedConsumer) -> None:
        """A consumer was cancelled, or its channel is gone."""
        if self.prefetch_auto:
            self.enough_prefetch(consumer.queue)  # remember what it needed
        self.consumers.pop(consumer.number, None)
        queue = self.paced.get(consumer.queue)
        if queue is not None and not any(one.departures is queue.departures for one in self.consumers.values()):
            queue.departures = None
