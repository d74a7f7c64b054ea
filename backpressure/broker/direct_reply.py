"""Direct reply-to: replies that go directly to the requesting channel, without a queue.

A channel consumes from the pseudo-queue `REPLY_TO` and publishes requests with that ``reply_to``; the broker puts the
channel's own address there, and what is published to an address on the default exchange is delivered to its channel.
Must not know: frames, how a channel delivers.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from backpressure.amqp.field_tables import short_string

if TYPE_CHECKING:
    from collections.abc import Callable

    from backpressure.broker.entries import QueuedMessage

__all__ = ["REPLY_TO", "DirectReplies", "ReplyConsumer"]

REPLY_TO = "amq.rabbitmq.reply-to"


class ReplyConsumer:
    """The one subscription of a channel to the answers it gets."""

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
