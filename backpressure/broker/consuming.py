"""The consuming half of a channel: consumers, deliveries, acknowledgements.

Must not know: how frames are read, how a queue orders its messages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from pamqp import commands

from backpressure.amqp.field_tables import Long, Table, encode_value
from backpressure.amqp.frames import content_frames
from backpressure.amqp.methods import deliver_frame, deliver_prefix, get_ok_frame, method_frame
from backpressure.broker.entries import Entry, QueuedMessage
from backpressure.broker.exchange import ReplyConsumer
from backpressure.broker.meters import Counters
from backpressure.broker.peer import Peer, Settled, Settling, Transaction
from backpressure.broker.queue import Queue
from backpressure.broker.replies import precondition_failed


class Prefetch:
    """The number of unacknowledged deliveries that a consumer or a channel may hold; 0 means no limit."""

    __slots__ = ("limit", "unacked")

    def __init__(self, limit: int = 0) -> None:
        """``limit`` is in messages."""
        self.limit = limit
        self.unacked = 0

    @property
    def full(self) -> bool:
        """Whether one more delivery would exceed the limit."""
        return 0 < self.limit <= self.unacked


class Consumer:
    """One subscription of a channel to a queue."""

    def __init__(
        self, channel: Consuming, queue: Queue, tag: str, *, no_ack: bool, prefetch: int, arguments: Table
    ) -> None:
        """``prefetch`` is this consumer's own limit, in messages; 0 means none."""
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.arguments = arguments
        priority = arguments.get("x-priority")
        self.priority = priority if isinstance(priority, int) else 0
        self.prefetch = Prefetch(prefetch)
        self.deliver_prefix = deliver_prefix(tag)
        self._channel = channel
        self._session = channel.session

    @property
    def ready(self) -> bool:
        """Whether the client reads, and its prefetch windows have room."""
        if self._session.congested or self._channel.shared_prefetch.full:
            return False
        return self.no_ack or not self.prefetch.full

    @property
    def idle(self) -> bool:
        """Whether it holds no message that is not settled."""
        return not self.prefetch.unacked

    def take(self, entry: Entry) -> None:
        """Deliver a message of the queue."""
        self._channel.deliver(self, entry)

    def cancelled(self) -> None:
        """The queue was deleted: notify clients that support it."""
        self._channel.consumers.pop(self.tag, None)
        if self._session.can("consumer_cancel_notify"):
            self._session.send(method_frame(self._channel.number, commands.Basic.Cancel(self.tag, nowait=True)))


Delivery = tuple["Queue", "Entry", "Consumer | None"]


class Consuming:
    """Consumers and unacknowledged deliveries of one channel."""

    def __init__(self, session: Peer, number: int, counters: Counters) -> None:
        """``number`` and ``counters`` are the channel's."""
        self.session = session
        self.number = number
        self.consumers: dict[str, Consumer] = {}
        self.unacked: OrderedDict[int, Delivery] = OrderedDict()  # taking the first item of a plain dict is slow
        self.prefetch = 0
        self.shared_prefetch = Prefetch()
        self.reply_consumer: ReplyConsumer | None = None
        self.transaction: Transaction[Delivery] | None = None
        self._last_tag = 0
        self._totals = (counters.totals, session.vhost.counters.totals)

    # -- deliveries ----------------------------------------------------------------------------------------------

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """Send ``basic.deliver`` and keep the message until it is acknowledged."""
        self._last_tag = tag = self._last_tag + 1
        message, queue = entry.message, consumer.queue
        self.session.send(
            deliver_frame(self.number, consumer.deliver_prefix, tag, entry.redelivered, message.route)
            + content_frames(self.number, _header(queue, entry), message.body, self.session.frame_max)
        )
        self._count(queue, "deliver_no_ack" if consumer.no_ack else "deliver", redelivered=entry.redelivered)
        if consumer.no_ack:
            queue.settle(entry)
        else:
            if self.shared_prefetch.limit:  # the queue that was served last is served last the next time
                self.consumers[consumer.tag] = self.consumers.pop(consumer.tag)
            consumer.prefetch.unacked += 1
            self.shared_prefetch.unacked += 1
            self.unacked[tag] = (queue, entry, consumer)

    def get(self, queue: Queue, *, no_ack: bool) -> bool:
        """Send ``basic.get-ok`` with the oldest message; return False if there is none."""
        queue.touch()
        entry = queue.take()
        if entry is None:
            self._add("get_empty", 1)
            return False
        self._last_tag = tag = self._last_tag + 1
        message = entry.message
        self.session.send(
            get_ok_frame(self.number, tag, entry.redelivered, message.route, len(queue))
            + content_frames(self.number, _header(queue, entry), message.body, self.session.frame_max)
        )
        self._count(queue, "get_no_ack" if no_ack else "get", redelivered=entry.redelivered)
        if no_ack:
            queue.settle(entry)
        else:
            self.unacked[tag] = (queue, entry, None)
        return True

    def consume_replies(self, tag: str) -> None:
        """Subscribe to replies sent directly to this channel; 406 if it is subscribed already."""
        if self.reply_consumer is not None:
            raise precondition_failed("reply consumer already set")
        self.reply_consumer = ReplyConsumer(tag, self._deliver_reply)
        self.session.vhost.direct_replies.add(self.reply_consumer)

    def _deliver_reply(self, message: QueuedMessage) -> None:
        """Send a reply; it needs no acknowledgement, so its delivery tag is not kept."""
        assert self.reply_consumer is not None
        prefix = deliver_prefix(self.reply_consumer.tag)
        self.session.send(
            deliver_frame(self.number, prefix, self._last_tag + 1, False, message.route)
            + content_frames(self.number, message.header, message.body, self.session.frame_max)
        )

    def _count(self, queue: Queue, kind: str, *, redelivered: bool) -> None:
        for totals in (queue.counters.totals, *self._totals):
            totals[kind] += 1
            totals["deliver_get"] += 1
            if redelivered:
                totals["redeliver"] += 1

    def _add(self, kind: str, count: int) -> None:
        for totals in self._totals:
            totals[kind] += count

    # -- acknowledgements ----------------------------------------------------------------------------------------

    def ack(self, tag: int, *, multiple: bool) -> None:
        """Acknowledge deliveries; 406 for a tag that is not outstanding."""
        if self.transaction is not None:
            self._set_aside("ack", tag, multiple=multiple)
            return
        self._settle("ack", self._resolve(tag, multiple=multiple))

    def refuse(self, tag: int, *, multiple: bool, requeue: bool) -> None:
        """Nack or reject: return messages to the queue, or dead-letter them."""
        how: Settling = "requeue" if requeue else "discard"
        if self.transaction is not None:
            self._set_aside(how, tag, multiple=multiple)
            return
        self._settle(how, self._resolve(tag, multiple=multiple))

    def _settle(self, how: Settling, deliveries: list[Delivery]) -> None:
        for _, _, consumer in deliveries:
            if consumer is not None:
                consumer.prefetch.unacked -= 1
                self.shared_prefetch.unacked -= 1
        if how == "ack":
            for queue, entry, _ in deliveries:
                queue.settle(entry)
                queue.counters.totals["ack"] += 1
            self._add("ack", len(deliveries))
        elif how == "requeue":
            _requeue(deliveries)
        else:
            for queue, entry, _ in deliveries:
                queue.discard(entry)
        self._pump(deliveries)

    def recover(self) -> None:
        """Requeue everything that is unacknowledged."""
        self._settle("requeue", self._resolve(0, multiple=True))

    def _resolve(self, tag: int, *, multiple: bool) -> list[Delivery]:
        unacked = self.unacked
        if multiple and tag == 0:
            deliveries = list(unacked.values())
            unacked.clear()
        elif tag not in unacked:
            raise precondition_failed(f"unknown delivery tag {tag}")
        elif multiple:
            deliveries, oldest = [], 0
            while oldest != tag:
                oldest, delivery = unacked.popitem(last=False)
                deliveries.append(delivery)
        else:
            deliveries = [unacked.pop(tag)]
        return deliveries

    # -- transactions --------------------------------------------------------------------------------------------

    def _set_aside(self, how: Settling, tag: int, *, multiple: bool) -> None:
        """Hold deliveries back from being settled until the transaction ends."""
        assert self.transaction is not None
        if tag not in self.unacked and not (multiple and tag == 0):
            raise precondition_failed(f"unknown delivery tag {tag}")
        tags = [known for known in self.unacked if not tag or known <= tag] if multiple else [tag]
        self.transaction.settled.append(Settled(how, {known: self.unacked.pop(known) for known in tags}))

    def commit(self) -> None:
        """Settle what the transaction holds."""
        for settled in self.transaction.take_settled() if self.transaction is not None else ():
            self._settle(settled.how, list(settled.deliveries.values()))

    def roll_back(self) -> None:
        """Make what the transaction holds unacknowledged again."""
        deliveries = dict(self.unacked)
        for settled in self.transaction.take_settled() if self.transaction is not None else ():
            deliveries.update(settled.deliveries)
        self.unacked = OrderedDict(sorted(deliveries.items(), key=lambda item: item[0]))

    # -- windows -------------------------------------------------------------------------------------------------

    def _pump(self, deliveries: list[Delivery]) -> None:
        """Prefetch windows have room again: serve the queues that may have waited."""
        if self.shared_prefetch.limit:
            self.pump_all()
        elif len(deliveries) == 1:
            deliveries[0][0].pump()
        else:
            for queue in {delivery[0] for delivery in deliveries}:
                queue.pump()

    def pump_all(self) -> None:
        """Serve every queue that this channel consumes from."""
        for queue in list(dict.fromkeys(consumer.queue for consumer in self.consumers.values())):
            queue.pump()

    # -- consumers -----------------------------------------------------------------------------------------------

    def cancel(self, tag: str) -> None:
        """End a subscription; the channel keeps its unacknowledged deliveries."""
        consumer = self.consumers.pop(tag, None)
        if consumer is not None:
            consumer.queue.unsubscribe(consumer)
        elif self.reply_consumer is not None and self.reply_consumer.tag == tag:
            self._end_replies()

    def _end_replies(self) -> None:
        if self.reply_consumer is not None:
            self.session.vhost.direct_replies.remove(self.reply_consumer)
            self.reply_consumer = None

    def close(self) -> None:
        """End all subscriptions and requeue what is unacknowledged."""
        self._end_replies()
        for tag in list(self.consumers):
            self.cancel(tag)
        if self.transaction is not None:
            self.roll_back()
        self._settle("requeue", self._resolve(0, multiple=True))


def _requeue(deliveries: Iterable[Delivery]) -> None:
    by_queue: dict[Queue, list[Entry]] = {}
    for queue, entry, _ in deliveries:
        by_queue.setdefault(queue, []).append(entry)
    for queue, entries in by_queue.items():
        queue.requeue(entries)


def _header(queue: Queue, entry: Entry) -> bytes:
    """Return the content header; redeliveries from a quorum queue carry their count."""
    if not (queue.is_quorum and entry.delivery_count):
        return entry.message.header
    properties = entry.message.properties()
    properties.set_headers({**properties.headers(), b"x-delivery-count": encode_value(Long(entry.delivery_count))})
    return properties.payload()
