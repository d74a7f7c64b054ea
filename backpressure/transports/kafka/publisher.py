"""Publishing with delivery reports as confirms.

librdkafka survives an outage: messages in flight stay in flight and are written exactly once when the broker is back.
So an outage is not a loss but a *blockage* (`PublisherListener.on_blocked`). Only after a fatal error, for instance
when the broker has lost what it had acknowledged, are all messages in flight lost, and a new producer is created.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException

from backpressure.core.message import Message
from backpressure.errors import NotConnectedError
from backpressure.settings import BrokerSettings, QueueSettings
from backpressure.transports.base import PublisherListener
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.failures import MISSING, reason_of, refusal_of
from backpressure.transports.kafka.producer_thread import ProducerThread, Report
from backpressure.transports.kafka.records import content_of, topic_name

__all__ = ["KafkaPublisher", "Routes"]

_FLUSH_S = 1.0  # who stops has waited for confirms before
_NO_ROUTE = "NO_ROUTE (312)"  # the same text as with AMQP


class Routes:
    """The bindings of one experiment."""

    def __init__(self, queue: QueueSettings) -> None:
        self._bound = (queue.exchange, queue.key)
        self._topics = tuple(
            topic_name(name) for name in ([queue.work, queue.audit] if queue.auditing else [queue.work])
        )

    def topics(self, exchange: str, routing_key: str) -> tuple[str, ...]:
        """Return the topics: the default exchange reaches the queue named by the key, any other those bound to it."""
        if not exchange:
            return (topic_name(routing_key),)
        return self._topics if (exchange, routing_key) == self._bound else ()


@dataclass(slots=True)
class _Open:
    """An unsettled message: how many topics it still has to reach, and its size."""

    topics: int
    size_bytes: int
    message_id: str | None


class KafkaPublisher:
    """A `Publisher`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, routes: Routes) -> None:
        self._broker = broker
        self._outage = outage
        self._name = name
        self._routes = routes
        self._listener: PublisherListener
        self._sender: ProducerThread | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._epoch = 0
        self._last_tag = 0
        self._open: dict[int, _Open] = {}
        self._open_bytes = 0

    @property
    def ready(self) -> bool:
        """Whether `publish` may be called now."""
        return self._sender is not None

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes accepted by `publish` and not confirmed; librdkafka does not report what the socket has taken."""
        return self._open_bytes

    async def start(self, listener: PublisherListener) -> None:
        """See `Publisher.start`."""
        self._listener = listener
        await self._connect()

    def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
        """See `Publisher.publish`; a message that librdkafka has no room for, or does not take, is nacked."""
        if self._sender is None:
            raise NotConnectedError(f"not connected to the broker at {self._broker.address()}")
        topics = self._routes.topics(exchange, routing_key)
        content = content_of(message)
        self._last_tag += 1
        self._open[self._last_tag] = _Open(len(topics), len(message.body), message.message_id)
        self._open_bytes += len(message.body)
        if not topics:
            self._report_soon(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        for topic in topics:
            try:
                self._sender.send(self._last_tag, topic, content)
            except BufferError:
                self._report_soon(KafkaError(KafkaError._QUEUE_FULL))  # noqa: SLF001 -- librdkafka's own codes begin so
            except KafkaException as error:
                self._report_soon(error.args[0])
        return self._last_tag

    async def stop(self) -> None:
        """See `Publisher.stop`."""
        if self._renewal is not None:
            self._renewal.cancel()
        sender, self._sender = self._sender, None
        if sender is not None:
            await asyncio.to_thread(sender.close, _FLUSH_S)
            self._forget()

    async def _connect(self) -> None:
        self._epoch += 1
        sender = ProducerThread(
            self._broker,
            self._outage,
            self._name,
            on_reports=partial(self._on_reports, self._epoch),
            on_blocked=self._listener.on_blocked,
            on_unblocked=self._listener.on_unblocked,
            on_fatal=partial(self._on_fatal, self._epoch),
        )
        await sender.start()
        self._sender = sender
        self._listener.on_ready()

    def _report_soon(self, error: KafkaError) -> None:
        """Settle the last message as librdkafka would have done."""
        asyncio.get_running_loop().call_soon(self._on_reports, self._epoch, [(self._last_tag, error)])

    def _on_reports(self, epoch: int, reports: Sequence[Report]) -> None:
        if epoch != self._epoch:
            return
        alone = len({tag for tag, error in reports if error is not None}) == 1
        for tag, error in reports:
            message = self._open.get(tag)
            if message is None:
                continue  # another topic of the same message failed before
            message.topics -= 1
            if error is None and message.topics > 0:
                continue
            del self._open[tag]
            self._open_bytes -= message.size_bytes
            if error is None or error.code() in MISSING:
                if error is not None:
                    self._listener.on_returned(message.message_id, _NO_ROUTE)
                self._listener.on_confirmed(tag, multiple=False)
            else:
                self._listener.on_nacked(tag, multiple=False, refusal=refusal_of(error, alone=alone))

    def _on_fatal(self, epoch: int, error: KafkaError) -> None:
        sender = self._sender
        if epoch != self._epoch or sender is None:
            return
        self._sender = None
        self._forget()
        loss = NotConnectedError(f"the producer at {self._broker.address()} cannot go on ({reason_of(error)})")
        self._outage.begin(loss)
        self._listener.on_lost(loss)
        self._renewal = asyncio.create_task(self._renew(sender), name=f"renew {self._name}")

    async def _renew(self, sender: ProducerThread) -> None:
        await asyncio.to_thread(sender.close, 0.0)
        await self._connect()

    def _forget(self) -> None:
        """Forget the unsettled messages: none of them will be settled."""
        self._epoch += 1
        self._last_tag = 0
        self._open.clear()
        self._open_bytes = 0
