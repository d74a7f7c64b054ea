"""Consuming one queue with manual acknowledgements and a prefetch that can change at any time.

There are two kinds of prefetch limit:

- per *channel* (``global`` in AMQP): changes at once and counts all unsettled deliveries. Used if the broker has it.
- per *consumer*: applies to consumers that start after it is set. Quorum queues have only this kind, so a change
  replaces the consumer; deliveries that are unsettled at that moment do not count against the new limit.

An acknowledgement costs the broker nearly as much as a delivery, but one with ``multiple`` settles many deliveries. So
acknowledgements are collected for one iteration of the event loop (`Unsettled`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from typing import Any

from pika.channel import Channel as PikaChannel
from pika.exceptions import ConnectionClosedByBroker

from backpressure.core.message import Delivery, Message
from backpressure.errors import QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import SubscriberListener
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.link import RabbitMQLink, SetUpAgain
from backpressure.transports.rabbitmq.wire import WireChannel, WireConnection, read_elsewhere

_NOT_IMPLEMENTED, _INTERNAL_ERROR = 540, 541


class Unsettled:
    """The unsettled delivery tags of one channel, oldest first, and which of them are acknowledged.

    ``multiple`` settles everything up to a tag, so it is used as long as nothing older is unsettled. A message that
    waits for another attempt stays unsettled, and those after it are acknowledged one by one.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[int, bool] = OrderedDict()  # tag → acknowledged, but not sent yet
        self._acked: list[int] = []

    def delivered(self, tag: int) -> None:
        """A message arrived; tags only grow."""
        self._open[tag] = False

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge ``tag``, or everything up to it, with the next `take_acks`; an unknown tag is ignored."""
        if not multiple:
            if self._open.get(tag) is False:
                self._open[tag] = True
                self._acked.append(tag)
            return
        for each in [each for each, acked in self._open.items() if each <= tag and not acked]:
            self._open[each] = True
            self._acked.append(each)

    def forget(self, tag: int) -> None:
        """``tag`` was settled in another way."""
        self._open.pop(tag, None)

    def take_acks(self) -> list[tuple[int, bool]]:
        """Return the acknowledgements to send as (tag, multiple); they count as settled from now on."""
        run: list[int] = []
        for tag, acked in self._open.items():
            if not acked:
                break
            run.append(tag)
        for tag in run:
            del self._open[tag]
        acks = [(run[-1], len(run) > 1)] if run else []
        if len(run) < len(self._acked):
            acks += [(tag, False) for tag in self._acked if self._open.pop(tag, False)]
        self._acked.clear()
        return acks


class RabbitMQSubscriber:
    """A `Subscriber` on a connection and a channel of its own."""

    round_trip_s: float | None = None

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._link = RabbitMQLink(broker, name, outage, set_up=self._set_up, on_lost=self._on_lost)
        self._listener: SubscriberListener
        self._queue = ""
        self._prefetch = 1
        self._limit_is_per_channel = True
        self._paused = False
        self._epoch = 0
        self._channel: WireChannel | None = None
        self._unsettled = Unsettled()
        self._acknowledging = False
        self._consumer_tags = (f"{name}-{number}" for number in itertools.count(1))
        self._consumer_tag: str | None = None

    async def start(self, listener: SubscriberListener, *, queue: str, prefetch: int) -> None:
        """See `Subscriber.start`; raises `QueueNotFoundError` for a queue that is not there."""
        self._listener, self._queue, self._prefetch = listener, queue, prefetch
        await self._link.start()

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """See `Subscriber.ack`."""
        if self._channel_of(delivery) is None:
            return False
        self._unsettled.ack(delivery.tag, multiple=multiple)
        if not self._acknowledging:
            self._acknowledging = True
            asyncio.get_running_loop().call_soon(self._acknowledge)
        return True

    def nack(self, delivery: Delivery, *, requeue: bool) -> bool:
        """See `Subscriber.nack`."""
        channel = self._channel_of(delivery)
        if channel is None:
            return False
        self._unsettled.forget(delivery.tag)
        channel.basic_nack(delivery.tag, multiple=False, requeue=requeue)
        return True

    def set_prefetch(self, count: int) -> None:
        """See `Subscriber.set_prefetch`; takes effect with the next connection when there is none now."""
        if count == self._prefetch:
            return
        self._prefetch = count
        if self._channel is None or not self._channel.is_open:
            return
        self._channel.raw.basic_qos(prefetch_count=count, global_qos=self._limit_is_per_channel)
        if not self._limit_is_per_channel and self._consumer_tag is not None:
            self._cancel(self._channel, self._consumer_tag, lambda _frame: None)
            self._consume(self._channel, lambda _frame: None)

    async def pause(self) -> None:
        """See `Subscriber.pause`."""
        self._paused = True
        channel = self._channel
        if channel is None or not channel.is_open or self._consumer_tag is None:
            return
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancel(channel, self._consumer_tag, lambda _frame: cancelled.set_result(None))
        either: set[asyncio.Future[Any]] = {cancelled, channel.closed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    async def resume(self) -> None:
        """See `Subscriber.resume`."""
        self._paused = False
        if self._channel is not None and self._channel.is_open and self._consumer_tag is None:
            self._consume(self._channel, lambda _frame: None)

    async def stop(self) -> None:
        """See `Subscriber.stop`."""
        self._acknowledge()
        await self._link.stop()
        self._channel = None

    async def _set_up(self, connection: WireConnection) -> None:
        channel = await connection.open_channel(vital=True)
        channel.raw.add_on_cancel_callback(lambda _frame: connection.fail(QueueNotFoundError(self._queue)))
        try:
            asked_at = time.monotonic()
            await channel.call("basic_qos", prefetch_count=self._prefetch, global_qos=self._limit_is_per_channel)
            answered_at = time.monotonic()
            self._epoch += 1
            self._unsettled = Unsettled()
            self._channel = channel
            self._consumer_tag = None
            connection.incoming.deliver_to(channel.raw.channel_number, self._on_message)
            consuming: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def on_consuming(_frame: Any) -> None:
                self.round_trip_s = min(answered_at - asked_at, time.monotonic() - answered_at)
                self._listener.on_ready()  # not after the await: deliveries may follow in the same read
                consuming.set_result(None)

            if self._paused:
                self._listener.on_ready()
            else:
                self._consume(channel, on_consuming)
                await channel.wait_for(consuming)
        except ConnectionClosedByBroker as error:
            if self._limit_is_per_channel and error.reply_code in {_NOT_IMPLEMENTED, _INTERNAL_ERROR}:
                self._limit_is_per_channel = False
                raise SetUpAgain from error
            raise

    def _consume(self, channel: WireChannel, on_ok: Any) -> None:
        self._consumer_tag = next(self._consumer_tags)
        channel.raw.basic_consume(self._queue, read_elsewhere, consumer_tag=self._consumer_tag, callback=on_ok)

    def _on_message(
        self, message: Message, tag: int, redelivered: bool, exchange: str, routing_key: str, header: bytes
    ) -> None:
        self._unsettled.delivered(tag)
        received_ns = time.monotonic_ns()
        self._listener.on_delivery(
            Delivery(message, tag, self._epoch, redelivered, exchange, routing_key, received_ns, header),
        )

    def _cancel(self, channel: WireChannel, tag: str, on_ok: Any) -> None:
        self._consumer_tag = None
        channel.raw.basic_cancel(tag, callback=on_ok)

    def _acknowledge(self) -> None:
        """Send the acknowledgements of this iteration of the event loop."""
        self._acknowledging = False
        if self._channel is not None and self._channel.is_open:
            for tag, multiple in self._unsettled.take_acks():
                self._channel.raw.basic_ack(tag, multiple)

    def _channel_of(self, delivery: Delivery) -> PikaChannel | None:
        channel = self._channel
        return channel.raw if channel is not None and channel.is_open and delivery.epoch == self._epoch else None

    def _on_lost(self, error: TransportError) -> None:
        self._channel = None
        self._listener.on_lost(error)
