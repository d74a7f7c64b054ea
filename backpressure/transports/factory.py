"""Choosing a transport by the scheme of the broker's URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from backpressure.errors import ConfigError
from backpressure.settings import Settings
from backpressure.transports.base import Transport

__all__ = ["connect"]


def connect(settings: Settings) -> Transport:
    """Return the transport for ``settings.broker``; nothing is dialled before a product of it starts.

    Clients are imported here, when chosen: a Kafka user need not have pika, nor the other way round.
    """
    match scheme := urlsplit(settings.broker.full_url()).scheme:
        case "amqp" | "amqps":
            from backpressure.transports.rabbitmq import RabbitMQTransport  # noqa: PLC0415 -- see above

            return RabbitMQTransport(settings)
        case "kafka":
            raise ConfigError("broker.url", f"{scheme}://…", "this version has no Kafka transport yet: use amqp://")
        case _:
            raise ConfigError("broker.url", f"{scheme}://…", "expected amqp:// or amqps://")
