"""Publishing to the broker in memory, and consuming from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from backpressure.core.message import Delivery, Message
from backpressure.core.sums import SUMS_SUFFIX
from backpressure.errors import ExchangeNotFoundError, NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import QueueSettings
from backpressure.transports.base import (
    Answer,
    BrokerIdentity,
    FoundQueue,
    NamesItsBroker,
    PublisherListener,
    QueueReading,
    SubscriberListener,
)
from backpressure.transports.memory.memory_broker import MemoryBroker, MemoryEntry, MemoryQueue
from backpressure.transports.queue_declarations import bound_policy, not_reached, queue_declarations
from backpressure.version import __version__

_RETRY_S = 0.05


class MemoryPublisher:
    """A `Publisher`. Messages reach the broker, and are confirmed, in the next iteration of the event loop."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._listener: PublisherListener
        self._tag = 0
        self._epoch = 0
        self._held: list[tuple[int, Message, str, str]] = []
        self.ready = False

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes that are held back by an alarm."""
        return sum(len(message.body) for _tag, message, _exchange, _key in self._held)

    async def start(self, listener: PublisherListener) -> None:
        """See `Publisher.start`."""
        self._listener = listener
        self._broker.clients.append(self)
        self._connect()

    def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
        """See `Publisher.publish`."""
        if not self.ready:
            raise NotConnectedError("not connected to the broker in this process")
        self._tag += 1
        publication = (self._tag, message, exchange, routing_key)
        if self._broker.alarm:
            if not self._held:
                asyncio.get_running_loop().call_soon(self._listener.on_blocked, self._broker.alarm)
            self._held.append(publication)
        else:
            asyncio.get_running_loop().call_soon(self._hand_over, self._epoch, publication)
        return self._tag

    async def stop(self) -> None:
        """See `Publisher.stop`."""
        await asyncio.sleep(0)  # let the last messages reach the broker
        self.ready = False
        self._epoch += 1
        if self in self._broker.clients:
            self._broker.clients.remove(self)

    def lose(self, reason: str) -> None:
        """See `MemoryClient.lose`."""
        self.ready = False
        self._epoch += 1
        self._held.clear()
        self._listener.on_lost(NotConnectedError(f"lost the broker in this process ({reason})"))
        asyncio.get_running_loop().call_soon(self._connect)

    def on_alarm_over(self) -> None:
        """See `MemoryClient.on_alarm_over`."""
        if not self._held:
            return
        for publication in self._held:
            asyncio.get_running_loop().call_soon(self._hand_over, self._epoch, publication)
        self._held.clear()
        self._listener.on_unblocked()

    def _connect(self) -> None:
        if self in self._broker.clients and not self.ready:
            self.ready = True
            self._tag = 0
            self._listener.on_ready()

    def _hand_over(self, epoch: int, publication: tuple[int, Message, str, str]) -> None:
        tag, message, exchange, routing_key = publication
        if epoch != self._epoch:
            return  # it was lost with its connection
        if exchange and exchange not in self._broker.bindings:
            self.lose(f"NOT_FOUND - no exchange '{exchange}' in vhost '/'")
            return
        routed, accepted = self._broker.publish(message, exchange, routing_key)
        if not routed:
            self._listener.on_returned(message.message_id, "NO_ROUTE (312)")
        if accepted:
            self._listener.on_confirmed(tag, multiple=False)
        else:
            self._listener.on_nacked(tag, multiple=False)


class MemorySubscriber:
    """A `Subscriber`."""

    round_trip_s: float | None = None

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._listener: SubscriberListener
        self._queue = ""
        self._prefetch = 1
        self._epoch = 0
        self._tag = 0
        self._unsettled: dict[int, MemoryEntry] = {}
        self._paused = False
        self._connected = False

    async def start(self, listener: SubscriberListener, *, queue: str, prefetch: int) -> None:
        """See `Subscriber.start`; raises `QueueNotFoundError`."""
        self._broker.queue(queue)
        self._listener, self._queue, self._prefetch = listener, queue, prefetch
        self._broker.clients.append(self)
        self._connect()

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """See `Subscriber.ack`."""
        if not self._is_current(delivery):
            return False
        for tag in [tag for tag in self._unsettled if tag == delivery.tag or (multiple and tag < delivery.tag)]:
            self._broker.settle(self._queue, self._unsettled.pop(tag))
        self._pump()
        return True

    def nack(self, delivery: Delivery, *, requeue: bool) -> bool:
        """See `Subscriber.nack`."""
        if not self._is_current(delivery):
            return False
        entry = self._unsettled.pop(delivery.tag)
        if requeue:
            self._broker.requeue(self._queue, entry)
        else:
            self._broker.settle(self._queue, entry, dead_letter=True)
        self._pump()
        return True

    def set_prefetch(self, count: int) -> None:
        """See `Subscriber.set_prefetch`."""
        self._prefetch = count
        self._pump()

    async def pause(self) -> None:
        """See `Subscriber.pause`."""
        self._paused = True

    async def resume(self) -> None:
        """See `Subscriber.resume`."""
        self._paused = False
        self._pump()

    async def stop(self) -> None:
        """See `Subscriber.stop`."""
        self._disconnect()
        if self in self._broker.clients:
            self._broker.clients.remove(self)

    def has_room(self) -> bool:
        """See `MemoryConsumer.has_room`."""
        return self._connected and not self._paused and len(self._unsettled) < self._prefetch

    def take(self, entry: MemoryEntry) -> None:
        """See `MemoryConsumer.take`."""
        self._tag += 1
        self._unsettled[self._tag] = entry
        delivery = Delivery(
            message=entry.message,
            tag=self._tag,
            epoch=self._epoch,
            redelivered=entry.redelivered,
            exchange=entry.exchange,
            routing_key=entry.routing_key,
            received_ns=time.monotonic_ns(),
        )
        self._listener.on_delivery(delivery)

    def on_queue_deleted(self) -> None:
        """See `MemoryConsumer.on_queue_deleted`."""
        self._lose(QueueNotFoundError(self._queue))

    def lose(self, reason: str) -> None:
        """See `MemoryClient.lose`."""
        self._lose(NotConnectedError(f"lost the broker in this process ({reason})"))

    def on_alarm_over(self) -> None:
        """An alarm never concerns a consumer."""

    def _is_current(self, delivery: Delivery) -> bool:
        return self._connected and delivery.epoch == self._epoch and delivery.tag in self._unsettled

    def _lose(self, error: TransportError) -> None:
        self._disconnect()
        self._listener.on_lost(error)
        asyncio.get_running_loop().call_soon(self._connect)

    def _disconnect(self) -> None:
        self._connected = False
        queue = self._broker.queues.get(self._queue)
        if queue is not None and self in queue.consumers:
            queue.consumers.remove(self)
        for entry in self._unsettled.values():
            self._broker.requeue(self._queue, entry)
        self._unsettled.clear()

    def _connect(self) -> None:
        if self._connected or self not in self._broker.clients:
            return
        if (queue := self._broker.queues.get(self._queue)) is None:
            asyncio.get_running_loop().call_later(_RETRY_S, self._connect)
            return
        self._epoch += 1
        self._tag = 0
        self._connected = True
        queue.consumers.append(self)
        self._listener.on_ready()
        self._pump()

    def _pump(self) -> None:
        if (queue := self._broker.queues.get(self._queue)) is not None:
            self._broker.pump_soon(queue)


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

    async def look(self, queue: str, *, exchange: str, keys: Sequence[str], dead_letter: str) -> FoundQueue:
        """See `QueueAdmin.look`."""
        arguments = self._broker.queue(queue).arguments
        if exchange and exchange not in self._broker.bindings:
            raise ExchangeNotFoundError(exchange)
        bound = [pattern for pattern, name in self._broker.bindings.get(exchange, ()) if name == queue]
        if exchange and (lost := set(keys) - set(bound)):
            raise not_reached(queue, exchange, min(lost), bound)
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

    async def owns(self, management: NamesItsBroker) -> bool:  # noqa: ARG002 - it has none
        """See `QueueProbe.owns`."""
        return True

    async def stop(self) -> None:
        """Nothing to close."""


class MemoryFeedback:
    """A `FeedbackBus`."""

    def __init__(self, broker: MemoryBroker, exchange: str) -> None:
        self._broker = broker
        self._listeners = broker.listeners.setdefault(exchange, [])
        self._of_sums = broker.listeners.setdefault(f"{exchange}{SUMS_SUFFIX}", [])
        self._answers = broker.answers.setdefault(exchange, [])
        self._on_report: Callable[[bytes], None] | None = None
        self._answer: Answer | None = None
        self._on_answer: Callable[[bytes], None] | None = None
        self._started = False

    async def start(
        self,
        on_report: Callable[[bytes], None] | None = None,
        *,
        answer: Answer | None = None,
        on_answer: Callable[[bytes], None] | None = None,
    ) -> None:
        """See `FeedbackBus.start`."""
        self._started = True
        self._on_report, self._answer, self._on_answer = on_report, answer, on_answer
        if answer is not None:
            self._answers.append(answer)
        if on_report is not None:
            self._listeners.append(on_report)

    @property
    def blocked(self) -> bool:
        """See `FeedbackBus.blocked`."""
        return bool(self._broker.alarm)

    @property
    def carries_sums(self) -> bool:
        """See `FeedbackBus.carries_sums`."""
        return True

    def listen(self, *, reports: bool, sums: bool) -> None:
        """See `FeedbackBus.listen`."""
        if self._on_report is not None and self._started:
            for wanted, listeners in ((reports, self._listeners), (sums, self._of_sums)):
                if wanted and self._on_report not in listeners:
                    listeners.append(self._on_report)
                elif not wanted and self._on_report in listeners:
                    listeners.remove(self._on_report)

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> bool:
        """See `FeedbackBus.send`."""
        if not self._started or self._broker.alarm:
            return False
        for listener in self._of_sums if is_sum else self._listeners:
            asyncio.get_running_loop().call_soon(listener, payload)
        if asks and self._on_answer is not None:
            asyncio.get_running_loop().call_soon(self._ask, payload)
        return True

    def _ask(self, payload: bytes) -> None:
        for answer in self._answers:
            told = answer(payload)
            if told is not None and self._on_answer is not None:
                self._on_answer(told)

    async def stop(self) -> None:
        """Stop listening and sending."""
        self.listen(reports=False, sums=False)
        self._started = False
        self._on_answer = None
        if self._answer in self._answers:
            self._answers.remove(self._answer)
