"""FastStream: ``pace(broker)`` paces what is published, and reports what is worked on; for RabbitMQ and Kafka."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from backpressure.errors import ConfigError, MissingExtraError
from backpressure.extras import lacks

if lacks("faststream") and lacks("faststream-kafka"):
    raise MissingExtraError("faststream", "pacing FastStream")

from faststream import BaseMiddleware
from faststream.response import PublishType

from backpressure.integrations.paced_queues import PacedQueues

__all__ = ["FastStreamPace", "pace"]


def pace(
    broker: Any, *, queues: Mapping[str, str] | None = None, url: str | None = None, **options: Any
) -> PacedQueues:
    """Pace what is published through ``broker``, and report what its subscribers work on.

    Args:
        broker: a ``RabbitBroker``, or a ``KafkaBroker`` on aiokafka or on confluent-kafka.
        queues: routing key → queue, where messages are published to an exchange of the application's own.
        url: the broker's address; None: that of ``broker``.
        options: see `PacedQueues`; on Kafka ``group`` names the consumer group.

    Returns:
        What paces, to ask for `PacedQueues.statuses`. It ends with the process, or by `PacedQueues.close`.

    Raises:
        ConfigError: the address is not known, or an option is wrong.
    """
    paced = PacedQueues(url or _address(broker), **options)
    broker.add_middleware(FastStreamPace(paced, queues or {}))
    return paced


class FastStreamPace:
    """The middleware that `pace` adds: FastStream calls it once for each message."""

    def __init__(self, paced: PacedQueues, queues: Mapping[str, str]) -> None:
        self._paced = paced
        self._queues = queues

    def __call__(self, msg: Any, /, *, context: Any) -> _PacedMessage:
        """Return the middleware of one message."""
        return _PacedMessage(msg, context=context, paced=self._paced, queues=self._queues)


class _PacedMessage(BaseMiddleware):  # for messages of every kind
    def __init__(self, msg: Any, /, *, context: Any, paced: PacedQueues, queues: Mapping[str, str]) -> None:
        super().__init__(msg, context=context)
        self._paced = paced
        self._queues = queues

    async def publish_scope(self, call_next: Callable[[Any], Awaitable[Any]], cmd: Any) -> Any:
        """Wait until the queue has room, and publish."""
        queue = self._queues.get(cmd.destination) or self._direct(cmd)
        limiter = None if queue is None or cmd.publish_type is PublishType.REPLY else self._paced.limiter(queue)
        if limiter is None:
            return await call_next(cmd)
        async with limiter.sending_async(self._paced.timeout):
            return await call_next(cmd)

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        """Report the work on a message."""
        raw = msg.raw_message
        key = getattr(raw, "routing_key", None) or getattr(raw, "topic", None)
        key = key() if callable(key) else key  # confluent-kafka has methods
        if key is None:  # a batch, or a message of a test
            return await call_next(msg)
        with self._paced.work(self._queues.get(key, key), 0):
            return await call_next(msg)

    @staticmethod
    def _direct(cmd: Any) -> str | None:
        """Return the queue of a message that goes to the default exchange, or the topic."""
        exchange = getattr(cmd, "exchange", None)
        return cmd.destination if exchange is None or exchange.name in {"", "default"} else None


def _address(broker: Any) -> str:
    """Return the address with its password, which FastStream itself shows without."""
    given = getattr(broker, "_connection_kwargs", {})
    if "url" in given:
        return str(given["url"])
    specification = getattr(broker, "specification", None)  # Kafka's names no password: that is in its ``security``
    if specification is not None and str(specification.protocol).startswith("kafka"):
        return f"kafka://{','.join(server.rpartition('//')[2] for server in specification.url)}"
    raise ConfigError("url", None, "expected the broker's URL: this broker of FastStream does not tell it")
