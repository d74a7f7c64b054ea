"""Sends with aiokafka."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from backpressure.errors import MissingExtraError
from backpressure.extras import lacks

if lacks("aiokafka"):
    raise MissingExtraError("aiokafka", "Paced on Kafka")

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerClosed,
    UnknownTopicOrPartitionError,
)

from backpressure.core.addresses import BrokerAddress, bracketed
from backpressure.errors import ConfigError, NotConnectedError, TransportError, UncarriableError, UnroutableError

_PORT = 9092
_ANSWER_MS = 10_000  # a topic that is not there is looked for so long


class AioKafkaClient:
    """An `AsyncClient` on a producer of aiokafka, which connects again by itself, or on one of its own."""

    def __init__(self, client: str | AIOKafkaProducer, *, exchange: str, routing_key: str) -> None:
        if exchange:
            raise ConfigError("exchange", exchange, "Kafka has no exchanges")
        self._topic = routing_key
        self._own = isinstance(client, str)
        self._producer: Any = None if isinstance(client, str) else client
        if isinstance(client, str):
            self.url = client
        else:
            servers = ",".join(f"{bracketed(host)}:{port}" for host, port, _ in client.client.hosts)
            self.url = f"kafka://{servers}"

    async def open(self) -> None:
        """See `AsyncClient.open`."""
        if self._producer is not None:
            return
        producer: Any = AIOKafkaProducer  # without types
        self._producer = producer(**_configuration(self.url))
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            self._producer = None
            raise NotConnectedError(f"not connected to the broker: {error!r}") from error

    async def send(self, message: Any, options: Mapping[str, Any]) -> None:
        """See `AsyncClient.send`; ``options``: ``key``, ``partition``, ``timestamp_ms``, ``headers``."""
        if self._producer is None:
            raise NotConnectedError("not open")
        try:
            await self._producer.send_and_wait(self._topic, message, **options)
        except (UnknownTopicOrPartitionError, AssertionError) as error:  # of a wrong partition, the latter
            raise UnroutableError(f"there is no topic {self._topic!r}, or no such partition") from error
        except MessageSizeTooLargeError as error:
            raise UncarriableError(str(error)) from error
        except (KafkaConnectionError, KafkaTimeoutError) as error:
            raise NotConnectedError(f"not confirmed: {error!r}") from error
        except ProducerClosed as error:
            raise TransportError("the producer is closed") from error

    async def close(self) -> None:
        """See `AsyncClient.close`."""
        if self._own and self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()


def _configuration(address: str) -> dict[str, Any]:
    """Return what a producer of our own needs for a URL, as `BrokerSettings.url` describes it."""
    try:
        url = BrokerAddress.parse(address)
    except ValueError as error:
        raise ConfigError("client", address, str(error)) from None
    secure = url.scheme == "kafka+ssl"
    configuration = {
        "bootstrap_servers": [f"{bracketed(host)}:{port}" for host, port in url.hosts("localhost", _PORT)],
        "enable_idempotence": True,
        "request_timeout_ms": _ANSWER_MS,
        "security_protocol": ("SASL_" if url.username else "") + ("SSL" if secure else "PLAINTEXT"),
        "ssl_context": ssl.create_default_context() if secure else None,
    }
    if url.username:
        mechanism = parse_qs(url.query).get("sasl", ["PLAIN"])[0]
        configuration |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": url.username,
            "sasl_plain_password": url.password,
        }
    return configuration
