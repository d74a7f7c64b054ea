"""Administration, probe and feedback of a broker in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable

from backpressure.core.message import Delivery
from backpressure.errors import ExchangeNotFoundError
from backpressure.settings import QueueSettings
from backpressure.transports.base import BrokerIdentity, FoundQueue, QueueReading
from backpressure.transports.memory.memory_broker import MemoryBroker, MemoryQueue
from backpressure.transports.queue_declarations import bound_policy, queue_declarations
from backpressure.version import __version__

__all__ = ["MemoryAdmin", "MemoryFeedback", "MemoryProbe"]


class MemoryAdmin:
    """An `ExchangeAdmin`."""

    def __init__(self, broker: MemoryBroker, address: str) -> None:
        self._broker = broker
        self._address = address

    async def start(self) -> None:
        """See `QueueAdmin.start`."""

    async def identity(self) -> BrokerIdentity:
        """See `QueueAdmin.identity`."""
        return BrokerIdentity(product="Pace Matching memory broker", version=__version__, address=self._address)

    async def missing(self, queue: QueueSettings) -> list[str]:
        """See `QueueAdmin.missing`."""
        names = [] if queue.exchange in self._broker.bindings else [queue.exchange]
        for declared in queue_declarations(queue, bound_by_policy=True):
            if declared.name in self._broker.queues:
                self._broker.compare(MemoryQueue(declared.name, declared.durable, declared.arguments))
            else:
                names.append(declared.name)
        return names

    async def declare(self, queue: QueueSettings, *, keep_bound: bool = False) -> None:  # noqa: ARG002 - one process only
        """See `QueueAdmin.declare`."""
        await self.missing(queue)
        bindings = self._broker.bindings.setdefault(queue.exchange, [])
        for declared in queue_declarations(queue, bound_by_policy=True):
            bound = bound_policy(queue) if declared.name == queue.work else {}
            if declared.name == queue.audit:
                bound = {"max-length": queue.audit_max_length, "overflow": "drop-head"}
            self._broker.declare(MemoryQueue(declared.name, declared.durable, declared.arguments, bound))
            for key in queue.bindings:
                binding = (key, declared.name)
                if declared.bound and binding not in bindings:
                    bindings.append(binding)

    async def look(self, queue: str, *, exchange: str, dead_letter: str) -> FoundQueue:
        """See `QueueAdmin.look`."""
        arguments = self._broker.queue(queue).arguments
        if exchange and exchange not in self._broker.bindings:
            raise ExchangeNotFoundError(exchange)
        target, key = arguments.get("x-dead-letter-exchange"), arguments.get("x-dead-letter-routing-key")
        reachable = key in self._broker.queues if target == "" else bool(self._broker.bindings.get(str(target)))
        return FoundQueue(dead_letters=reachable, has_dead_letter_queue=dead_letter in self._broker.queues)

    async def declare_fanout(self, exchange: str, queues: Iterable[str], *, max_length: int) -> None:
        """See `ExchangeAdmin.declare_fanout`: everything published there has the routing key ""."""
        bindings = self._broker.bindings.setdefault(exchange, [])
        for queue in queues:
            bound: dict[str, str | int] = {"max-length": max_length, "overflow": "drop-head"}
            self._broker.declare(MemoryQueue(queue, True, {}, bound))
            if ("", queue) not in bindings:
                bindings.append(("", queue))

    async def purge(self, queue: str) -> int:
        """See `QueueAdmin.purge`."""
        found = self._broker.queue(queue)
        count = len(found.ready)
        while found.ready:
            found.pop()
        return count

    async def delete(self, queue: str) -> None:
        """See `QueueAdmin.delete`."""
        self._broker.delete(queue)

    async def delete_exchange(self, exchange: str) -> None:
        """See `QueueAdmin.delete_exchange`."""
        self._broker.bindings.pop(exchange, None)

    async def set_bound(self, queue: str, *, max_length: int | None, overflow: str) -> None:
        """See `QueueAdmin.set_bound`."""
        kept = {key: value for key, value in self._broker.queue(queue).bound.items() if key == "max-length-bytes"}
        limits = kept if max_length is None else kept | {"max-length": max_length}
        self._broker.set_bound(queue, limits | {"overflow": overflow} if limits else {})

    async def drain(self, queue: str) -> AsyncIterator[Delivery]:
        """See `QueueAdmin.drain`."""
        tag = 0
        while (found := self._broker.queue(queue)).ready:
            tag += 1
            entry = found.pop()
            yield Delivery(
                message=entry.message,
                tag=tag,
                epoch=0,
                redelivered=entry.redelivered,
                exchange=entry.exchange,
                routing_key=entry.routing_key,
                received_ns=time.monotonic_ns(),
            )

    async def stop(self) -> None:
        """Nothing to close."""


class MemoryProbe:
    """A `QueueProbe` that knows unacked messages too."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        """See `QueueProbe.start`."""

    async def read(self, queue: str, *, exactly: bool = False) -> QueueReading:  # noqa: ARG002 - it always is exact
        """See `QueueProbe.read`."""
        found = self._broker.queue(queue)
        return QueueReading(ready=len(found.ready), unacked=found.unacked, consumers=len(found.consumers))

    async def stop(self) -> None:
        """Nothing to close."""


class MemoryFeedback:
    """A `FeedbackBus`."""

    def __init__(self, broker: MemoryBroker, exchange: str) -> None:
        self._broker = broker
        self._listeners = broker.listeners.setdefault(exchange, [])
        self._on_report: Callable[[bytes], None] | None = None
        self._started = False

    async def start(self, on_report: Callable[[bytes], None] | None = None) -> None:
        """See `FeedbackBus.start`."""
        self._started = True
        self._on_report = on_report
        if on_report is not None:
            self._listeners.append(on_report)

    @property
    def blocked(self) -> bool:
        """See `FeedbackBus.blocked`."""
        return bool(self._broker.alarm)

    def send(self, payload: bytes) -> bool:
        """See `FeedbackBus.send`."""
        if not self._started or self._broker.alarm:
            return False
        for listener in self._listeners:
            asyncio.get_running_loop().call_soon(listener, payload)
        return True

    async def stop(self) -> None:
        """Stop listening and sending."""
        self._started = False
        if self._on_report in self._listeners:
            self._listeners.remove(self._on_report)
