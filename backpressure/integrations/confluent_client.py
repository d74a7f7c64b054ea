"""Sends with confluent-kafka, from tasks and from threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from math import inf
from typing import Any

from backpressure.errors import MissingExtraError
from backpressure.extras import lacks

if lacks("kafka"):
    raise MissingExtraError("kafka", "SyncPaced on Kafka")

from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import ValidationError

from backpressure.core.addresses import bracketed
from backpressure.errors import ConfigError, NotConnectedError, PaceError, TransportError, UncarriableError
from backpressure.errors import UnroutableError as Unroutable
from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.client import client_configuration

_POLL_S = 0.1
_FLUSH_S = 10.0
_CONNECT_S = 10.0
_AWAY = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT}  # noqa: SLF001 - their names
_NOWHERE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # noqa: SLF001 - likewise
_NEVER = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG}


class _ConfirmingProducer:
    """A producer whose messages have a future each."""

    def __init__(self, client: str | Producer, *, exchange: str, routing_key: str) -> None:
        if exchange:
            raise ConfigError("exchange", exchange, "Kafka has no exchanges")
        self._topic = routing_key
        self._given = None if isinstance(client, str) else client
        self._producer = self._given
        self.url = client if isinstance(client, str) else ""  # a producer tells after it has connected

    def _connect(self) -> None:
        """Make the producer, unless one was given, and ask where the brokers are."""
        if self._producer is None:
            try:
                settings = BrokerSettings(url=self.url)
            except ValidationError as error:
                raise ConfigError("client", self.url, error.errors()[0]["msg"]) from None
            self._producer = Producer(client_configuration(settings, "paced") | {"enable.idempotence": True})
        try:
            brokers = self._producer.list_topics(timeout=_CONNECT_S).brokers.values()
        except KafkaException as error:
            raise NotConnectedError(f"no broker answers: {error.args[0].str()}") from error
        if not self.url:
            self.url = f"kafka://{','.join(f'{bracketed(broker.host)}:{broker.port}' for broker in brokers)}"

    def _produce(self, message: Any, options: Mapping[str, Any]) -> Future[None]:
        """Return the answer to come; raises `BufferError` while the producer has no room."""
        answer: Future[None] = Future()

        def answered(error: KafkaError | None, _record: object) -> None:
            with suppress(InvalidStateError):  # whoever waited was cancelled
                if error is None:
                    answer.set_result(None)
                else:
                    answer.set_exception(self._failure(error))

        if self._producer is None:
            raise NotConnectedError("not open")
        try:
            self._producer.produce(self._topic, message, on_delivery=answered, **options)
        except KafkaException as error:
            raise self._failure(error.args[0]) from error
        return answer

    def _failure(self, error: KafkaError) -> PaceError:
        if error.code() in _AWAY:
            return NotConnectedError(f"not confirmed: {error.str()}")
        if error.code() in _NOWHERE:
            return Unroutable(f"there is no topic {self._topic!r}, or no such partition: {error.str()}")
        return (UncarriableError if error.code() in _NEVER else TransportError)(error.str())

    def _flush(self) -> None:
        if self._given is None and self._producer is not None:
            self._producer.flush(_FLUSH_S)


class BlockingConfluentClient(_ConfirmingProducer):
    """A `BlockingClient`; the threads that wait for confirms fetch them as well."""

    def open(self) -> None:
        """See `BlockingClient.open`."""
        self._connect()

    def send(self, message: Any, options: Mapping[str, Any], timeout_s: float) -> None:
        """See `BlockingClient.send`; ``options``: ``key``, ``partition``, ``timestamp``, ``headers``."""
        deadline = time.monotonic() + timeout_s if timeout_s < inf else inf
        answer: Future[None] | None = None
        while answer is None or not answer.done():
            if answer is None:
                with suppress(BufferError):
                    answer = self._produce(message, options)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            assert self._producer is not None
            self._producer.poll(min(_POLL_S, left_s))
        answer.result()

    def close(self) -> None:
        """See `BlockingClient.close`."""
        self._flush()


class ConfluentClient(_ConfirmingProducer):
    """An `AsyncClient`, with a thread that fetches confirms."""

    def __init__(self, client: str | Producer, *, exchange: str, routing_key: str) -> None:
        super().__init__(client, exchange=exchange, routing_key=routing_key)
        self._closing = threading.Event()
        self._polling: threading.Thread | None = None

    async def open(self) -> None:
        """See `AsyncClient.open`."""
        await asyncio.to_thread(self._connect)
        if self._polling is None:
            self._closing.clear()
            self._polling = threading.Thread(target=self._poll, name="pace-confirms", daemon=True)
            self._polling.start()

    async def send(self, message: Any, options: Mapping[str, Any]) -> None:
        """See `AsyncClient.send`; ``options``: ``key``, ``partition``, ``timestamp``, ``headers``."""
        while True:
            try:
                answer = self._produce(message, options)
            except BufferError:
                await asyncio.sleep(_POLL_S)
            else:
                return await asyncio.wrap_future(answer)

    async def close(self) -> None:
        """See `AsyncClient.close`."""
        self._closing.set()
        polling, self._polling = self._polling, None
        if polling is not None:
            await asyncio.to_thread(polling.join)
        await asyncio.to_thread(self._flush)

    def _poll(self) -> None:
        assert self._producer is not None
        while not self._closing.is_set():
            self._producer.poll(_POLL_S)
