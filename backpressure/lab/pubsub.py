"""Publish and subscribe: a fanout exchange, and a queue for each subscriber, filled whether it consumes or not."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass

from backpressure.core.message import Delivery
from backpressure.errors import PaceError, TransportError, UnknownNameError
from backpressure.lab.messages import LabNote, ReceivedNote
from backpressure.lab.queues import LabReceiver, LabSender, NewestItems, fanout_name, opened, subscriber_queue
from backpressure.settings import LabSettings
from backpressure.transports.base import ExchangeTransport


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has it, and gave a copy to every subscriber there was."""

    message_id: str
    subscribers: int


@dataclass(frozen=True, slots=True)
class SubscriberView:
    """One subscriber; ``dropped`` of the ``received`` messages are kept no longer."""

    subscriber_id: str
    queue: str
    consuming: bool
    received: int
    dropped: int


@dataclass(frozen=True, slots=True)
class SubscriberMessages(SubscriberView):
    """The same, with what it has received."""

    messages: list[ReceivedNote]


class _Subscription:
    """A subscriber's queue and what came out of it."""

    def __init__(self, transport: ExchangeTransport, queue: str, kept: int) -> None:
        self.queue = queue
        self.received: NewestItems[ReceivedNote] = NewestItems(kept)
        self.receiver = LabReceiver(transport, self._take)

    def _take(self, delivery: Delivery) -> None:
        self.received.add(ReceivedNote.read(delivery))


class PubSub:
    """The exchange and its subscribers."""

    def __init__(self, transport: ExchangeTransport, lab: LabSettings) -> None:
        self._transport = transport
        self._lab = lab
        self._subscriptions: dict[str, _Subscription] = {}
        self._sender = LabSender(transport, self._declare)
        self._changing = asyncio.Lock()  # one request at a time changes the subscriptions
        self._published = 0

    @property
    def published(self) -> int:
        """How many messages were published here."""
        return self._published

    async def subscribe(self, subscriber_id: str | None = None) -> SubscriberView:
        """Create a subscriber (None: under a new UUID) and its queue; a queue left by an earlier lab is reused.

        Raises `TransportError`, and `PaceError` for a name that is taken or one subscriber too many.
        """
        name = subscriber_id or str(uuid.uuid4())
        async with self._changing:
            if name in self._subscriptions:
                raise PaceError(f"there is a subscriber {name!r} already")
            if len(self._subscriptions) >= self._lab.max_subscribers:
                raise PaceError(f"there are {self._lab.max_subscribers} subscribers already (lab.max_subscribers)")
            queue = subscriber_queue(self._lab, name)
            await self._declare_queues([queue])
            self._subscriptions[name] = _Subscription(self._transport, queue, self._lab.kept_messages)
        return self._view(name)

    async def consume(self, subscriber_id: str) -> SubscriberView:
        """Let a subscriber receive from now on; raises `UnknownNameError`, `TransportError`."""
        async with self._changing:
            subscription = self._find(subscriber_id)
            await self._sender.prepare()
            await subscription.receiver.start(subscription.queue)
        return self._view(subscriber_id)

    async def unsubscribe(self, subscriber_id: str) -> None:
        """Remove a subscriber and its queue; raises `UnknownNameError`, `TransportError`."""
        async with self._changing:
            subscription = self._find(subscriber_id)
            async with opened(self._transport.admin()) as admin:
                await subscription.receiver.stop()  # first: otherwise it would wait for its deleted queue
                await admin.delete(subscription.queue)
            del self._subscriptions[subscriber_id]

    async def publish(self, note: LabNote) -> Published:
        """Send ``note`` to every subscriber; raises `TransportError`."""
        message = note.as_message()
        reached = await self._sender.send(message, exchange=fanout_name(self._lab), routing_key="")
        self._published += 1
        return Published(message.message_id or "", len(self._subscriptions) if reached else 0)

    def subscribers(self) -> list[SubscriberView]:
        """Return all subscribers, oldest first."""
        return [self._view(name) for name in self._subscriptions]

    def messages(self, subscriber_id: str, newest: int | None = None) -> SubscriberMessages:
        """Return a subscriber with its ``newest`` messages (None: all that are kept); raises `UnknownNameError`."""
        received = self._find(subscriber_id).received
        return SubscriberMessages(**asdict(self._view(subscriber_id)), messages=received.newest(newest))

    async def stop(self) -> None:
        """Remove the subscribers' queues, if the broker can be reached, and close the connections."""
        subscriptions = self._subscriptions.values()
        await asyncio.gather(self._sender.stop(), *(subscription.receiver.stop() for subscription in subscriptions))
        if subscriptions:
            with suppress(TransportError):
                async with opened(self._transport.admin()) as admin:
                    for subscription in subscriptions:
                        await admin.delete(subscription.queue)

    async def _declare(self) -> None:
        await self._declare_queues([subscription.queue for subscription in self._subscriptions.values()])

    async def _declare_queues(self, queues: list[str]) -> None:
        async with opened(self._transport.admin()) as admin:
            await admin.declare_fanout(fanout_name(self._lab), queues, max_length=self._lab.kept_messages)

    def _find(self, subscriber_id: str) -> _Subscription:
        if subscriber_id not in self._subscriptions:
            raise UnknownNameError(f"there is no subscriber {subscriber_id!r}")
        return self._subscriptions[subscriber_id]

    def _view(self, name: str) -> SubscriberView:
        subscription = self._subscriptions[name]
        return SubscriberView(
            subscriber_id=name,
            queue=subscription.queue,
            consuming=subscription.receiver.consuming,
            received=subscription.received.total,
            dropped=subscription.received.dropped,
        )
