"""Kafka, through confluent-kafka (librdkafka).

No other package imports the client. A queue is a topic and one consumer group. There are no exchanges: a routing key
names a topic. librdkafka calls back in the thread that polls it, so ``producer_thread`` and ``group`` have a thread
each, which passes everything to the event loop in batches. ``client`` has requests, which need no thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from backpressure.core.message import Delivery, Destination, HeaderValue, Message
from backpressure.errors import MissingExtraError
from backpressure.extras import lacks
from backpressure.settings import Settings
from backpressure.transports.connecting import Outage

if lacks("kafka"):
    raise MissingExtraError("kafka", "Kafka")

from backpressure.transports.kafka.admin import KafkaAdmin
from backpressure.transports.kafka.feedback import KafkaFeedback
from backpressure.transports.kafka.probe import KafkaProbe
from backpressure.transports.kafka.publisher import KafkaPublisher, Routes
from backpressure.transports.kafka.records import dead_letter, group_id, topic_name
from backpressure.transports.kafka.subscriber import KafkaSubscriber


class KafkaTransport:
    """All products for one cluster."""

    bounds_queues = False

    def __init__(self, settings: Settings) -> None:
        self.address = settings.broker.address()
        self._settings = settings
        self._outage = Outage(self.address)
        topic = topic_name(settings.queue.work)
        self.destination = Destination("kafka", topic, topic, group_id(settings.queue.work))

    @property
    def obstacle(self) -> str:
        """See `Transport.obstacle`."""
        return self._outage.reason

    def publisher(self) -> KafkaPublisher:
        """Return a new, unstarted publisher."""
        name = f"producer-{self._settings.producer.identity()}-{os.getpid()}"
        return KafkaPublisher(self._settings.broker, self._outage, name, Routes(self._settings.queue))

    def subscriber(self) -> KafkaSubscriber:
        """Return a new, unstarted subscriber."""
        name = self._settings.consumer.identity()
        return KafkaSubscriber(self._settings.broker, self._outage, name, self._settings.queue.dead_letter)

    def probe(self) -> KafkaProbe:
        """Return a new, unstarted probe."""
        group = self._settings.queue.consumer_group
        return KafkaProbe(self._settings.broker, self._outage, f"probe-{os.getpid()}", group)

    def feedback(self, *, create: bool = True) -> KafkaFeedback:
        """Return a new, unstarted feedback bus."""
        name, topic = f"feedback-{os.getpid()}", self._settings.feedback.exchange
        create = create and not self._settings.queue.predeclared
        return KafkaFeedback(self._settings.broker, self._outage, name, topic, create=create)

    def admin(self) -> KafkaAdmin:
        """Return a new, unstarted admin."""
        return KafkaAdmin(self._settings.broker, self._outage, f"admin-{os.getpid()}")

    def dead_letter(self, delivery: Delivery, queue: str, headers: Mapping[str, HeaderValue]) -> Message:
        """See `Transport.dead_letter`."""
        return dead_letter(delivery, queue, headers)
