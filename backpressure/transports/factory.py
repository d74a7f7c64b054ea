"""Choosing a transport by the scheme of the broker's URL."""

from __future__ import annotations

from backpressure.settings import Settings
from backpressure.transports.base import Transport


def connect(settings: Settings) -> Transport:
    """Return the transport for ``settings.broker``; it connects when a product of it starts.

    Client libraries are imported only when they are needed.
    """
    scheme = settings.broker.parts().scheme
    if scheme == "memory":
        from backpressure.transports.memory import MemoryTransport  # noqa: PLC0415 -- see above

        return MemoryTransport(settings)
    if scheme in {"kafka", "kafka+ssl"}:
        from backpressure.transports.kafka import KafkaTransport  # noqa: PLC0415 -- see above

        return KafkaTransport(settings)
    from backpressure.transports.rabbitmq import RabbitMQTransport  # noqa: PLC0415 -- see above

    return RabbitMQTransport(settings)
