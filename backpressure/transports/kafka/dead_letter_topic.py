"""The dead-letter topic, for messages that a subscriber rejects."""

from __future__ import annotations

import asyncio

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from backpressure.core.message import Delivery, Message
from backpressure.errors import NotConnectedError
from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.client import client_configuration
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.kafka_names import topic_name
from backpressure.transports.kafka.records import content_of, dead_letter

__all__ = ["DeadLetterTopic"]


class DeadLetterTopic:
    """Connects at the first message. Dead letters are rare, so each is written and awaited in a thread."""

    def __init__(self, broker: BrokerSettings, name: str, queue: str) -> None:
        self._broker = broker
        self._name = name
        self._queue = queue
        self._producer: Producer | None = None

    async def add(self, delivery: Delivery, source: str) -> None:
        """Write what was delivered, rejected from the queue ``source``; raises `TransportError`."""
        letter = dead_letter(delivery, source, {})
        if self._producer is None:
            configuration = client_configuration(self._broker, self._name)
            self._producer = Producer(configuration | {"enable.idempotence": True, "message.timeout.ms": 10_000})
        await asyncio.to_thread(self._write, self._producer, letter)

    def _write(self, producer: Producer, message: Message) -> None:
        outcome: list[KafkaError | None] = []

        def on_delivery(error: KafkaError | None, _record: Record) -> None:
            outcome.append(error)

        address, topic = self._broker.address(), topic_name(self._queue)
        try:
            producer.produce(topic, on_delivery=on_delivery, **content_of(message))
        except KafkaException as error:  # for instance, the new headers have made it too large
            raise kafka_error(error.args[0], address, self._queue) from error
        producer.flush()
        if not outcome:
            raise NotConnectedError(f"the broker at {address} did not answer for a dead letter")
        if outcome[0] is not None:
            raise kafka_error(outcome[0], address, self._queue)
