"""RabbitMQ and other brokers that speak AMQP 0-9-1, through pika.

No other package imports pika. Each product has a connection of its own, so publishing, consuming and watching never
wait for each other. ``wire`` is pika's connection made awaitable, ``link`` keeps it alive; the others are the products.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from backpressure.core.message import Delivery, Destination, HeaderValue, Message
from backpressure.settings import Settings
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.admin import RabbitMQAdmin
from backpressure.transports.rabbitmq.feedback import Creates, RabbitMQFeedback
from backpressure.transports.rabbitmq.link import login
from backpressure.transports.rabbitmq.probe import RabbitMQProbe
from backpressure.transports.rabbitmq.publisher import RabbitMQPublisher, dead_letter_header
from backpressure.transports.rabbitmq.subscriber import RabbitMQSubscriber


class RabbitMQTransport:
    """All products for one broker."""

    bounds_queues = True

    def __init__(self, settings: Settings) -> None:
        self.address = settings.broker.address()
        self._settings = settings
        self._outage = Outage(self.address)
        queue = settings.queue
        self.destination = Destination("rabbitmq", f"{queue.exchange}:{queue.key}", queue.work)

    @property
    def obstacle(self) -> str:
        """See `Transport.obstacle`."""
        return self._outage.reason

    def publisher(self) -> RabbitMQPublisher:
        """Return a new, unstarted publisher."""
        name = f"producer-{self._settings.producer.identity()}-{os.getpid()}"
        return RabbitMQPublisher(self._settings.broker, self._outage, name)

    def subscriber(self) -> RabbitMQSubscriber:
        """Return a new, unstarted subscriber."""
        name = self._settings.consumer.identity()
        return RabbitMQSubscriber(self._settings.broker, self._outage, name)

    def probe(self) -> RabbitMQProbe:
        """Return a new, unstarted probe."""
        return RabbitMQProbe(self._settings.broker, self._outage, f"probe-{os.getpid()}")

    def feedback(self, *, create: bool = True) -> RabbitMQFeedback:
        """Return a new, unstarted feedback bus."""
        name, exchange = f"feedback-{os.getpid()}", self._settings.feedback.exchange
        if not create:
            creates = Creates.NOTHING
        elif self._settings.queue.predeclared:
            creates = Creates.TEMPORARY
        else:
            creates = Creates.LASTING
        return RabbitMQFeedback(self._settings.broker, self._outage, name, exchange, creates)

    def admin(self) -> RabbitMQAdmin:
        """Return a new, unstarted admin."""
        return RabbitMQAdmin(self._settings.broker, self._outage, f"admin-{os.getpid()}")

    def dead_letter(self, delivery: Delivery, queue: str, headers: Mapping[str, HeaderValue]) -> Message:
        """See `Transport.dead_letter`."""
        user, _password = login(self._settings.broker)
        received = delivery.message
        header = dead_letter_header(delivery, queue, user, headers)
        return Message(received.body, received.message_id, headers=received.headers, native=header)
