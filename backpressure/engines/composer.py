"""Composes a producer's messages: who sent them, under which id, with which number and body."""

from __future__ import annotations

import socket
from dataclasses import replace

from backpressure.core.message import HeaderValue, Message, message_id
from backpressure.engines.outbox import Outgoing
from backpressure.settings import ProducerSettings, Settings

__all__ = ["Composer", "message_bytes", "retries"]

_METADATA_BYTES = 240
_NEVER_RETRY = {"unbounded", "bounded", "rate_limited"}  # these laws do not adapt, so what is refused stays refused


def retries(producer: ProducerSettings) -> bool:
    """Return whether a refused message is sent again, rather than counted as rejected."""
    return producer.on_nack == "retry" or (producer.on_nack == "auto" and producer.strategy not in _NEVER_RETRY)


def message_bytes(producer: ProducerSettings) -> int:
    """Return about what a generated message weighs: body, properties and headers."""
    return len(_body(producer)) + _METADATA_BYTES


class Composer:
    """Numbers messages from 0 within its session; ``settings`` may be exchanged at any time."""

    def __init__(self, settings: Settings, session: int) -> None:
        """``session`` identifies this producer process in every message id."""
        self.session = session
        self.id = settings.producer.identity()
        self._host = socket.gethostname()
        self._sequence = 0
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Compose by these settings from now on."""
        producer = settings.producer
        self.body = _body(producer)
        self.retries = retries(producer)
        self._processing_time_s = producer.processing_time_s
        self._persistent = settings.queue.durable

    @property
    def message_bytes(self) -> int:
        """About what one message weighs in the broker: body, properties and headers."""
        return len(self.body) + _METADATA_BYTES

    def scheduled(self, intended_ns: int) -> Outgoing:
        """Return the next generated message, due at ``intended_ns``."""
        return self._compose(self.body, intended_ns, self._processing_time_s)

    def requested(
        self,
        given_id: str | None,
        body: bytes,
        processing_time_s: float | None,
        intended_ns: int,
        traceparent: str = "",
    ) -> Outgoing:
        """Return a message somebody asked for: refused once, it is refused, for they are waiting for the answer.

        Under an id of the caller's own, session and sequence ride in headers, by which the ledger still finds it.
        ``traceparent`` is the trace the caller is in, which the message carries on.
        """
        work_s = self._processing_time_s if processing_time_s is None else processing_time_s
        item = self._compose(body, intended_ns, work_s)
        if given_id is not None:
            item.message = replace(item.message.with_headers({"session": self.session}), message_id=given_id)
        if traceparent:
            item.message = item.message.with_headers({"traceparent": traceparent})
        item.may_retry = False
        return item

    def _compose(self, body: bytes, intended_ns: int, processing_time_s: float | None) -> Outgoing:
        sequence = self._sequence
        self._sequence += 1
        headers: dict[str, HeaderValue] = {
            "producer_id": self.id,
            "host": self._host,
            "sequence": sequence,
            "intended_ns": intended_ns,
        }
        if processing_time_s is not None:
            headers["processing_time"] = str(processing_time_s)  # pika cannot publish floats
        message = Message(
            body,
            message_id=message_id(self.session, sequence),
            timestamp_s=intended_ns // 1_000_000_000,
            headers=headers,
            persistent=self._persistent,
        )
        return Outgoing(message, sequence, intended_ns, may_retry=self.retries)


def _body(producer: ProducerSettings) -> bytes:
    return producer.text.encode().ljust(producer.payload_bytes, b".")
