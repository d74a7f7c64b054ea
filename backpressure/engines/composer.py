"""Composes a producer's messages (sender, id, number, body), each with what is kept about it until it is settled."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from backpressure.core.fields import MessageField
from backpressure.core.journal import Outcome
from backpressure.core.message import HeaderValue, Message, message_id
from backpressure.core.reports import REPORT_HEADER
from backpressure.core.templates import Draw
from backpressure.derived import METADATA_BYTES, body_of
from backpressure.engines.payload_source import Made
from backpressure.engines.payloads import Payloads
from backpressure.settings import Settings
from backpressure.telemetry.journal_file import IdJournal
from backpressure.telemetry.tracing import SendSpan
from backpressure.transports.base import Cause

__all__ = ["Composer", "Outgoing", "Settlement"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a message ended: confirmed, rejected, returned, or unsettled when the producer had to stop.

    ``cause`` is the kind of reason for a rejection. A message that is not confirmed ``may_have_arrived`` when the
    broker has not answered for it, or not for an earlier attempt.
    """

    message_id: str
    outcome: Outcome
    reason: str = ""
    cause: Cause | None = None
    may_have_arrived: bool = False


@dataclass(slots=True, eq=False)
class Outgoing:
    """One message on its way."""

    message: Message
    sequence: int
    intended_ns: int
    sent_ns: int = 0
    attempts: int = 0
    returned: str = ""
    may_retry: bool = True
    routing_key: str = ""
    result: asyncio.Future[Settlement] | None = None
    span: SendSpan | None = None

    def traced(self, span: SendSpan) -> None:
        """Let ``span`` travel with the message, and last until it is settled."""
        self.span = span
        self.message = self.message.with_headers({"traceparent": span.traceparent})

    def stamped(self, sent_ns: int) -> Message:
        """Return the message with the time it is (again) sent at."""
        self.sent_ns = sent_ns
        self.attempts += 1
        self.returned = ""
        self.message = self.message.with_headers({"sent_ns": sent_ns})
        return self.message


class Composer:
    """Numbers messages from 0 within its session; ``settings`` may be exchanged at any time."""

    def __init__(self, settings: Settings, session: int, *, retries: bool) -> None:
        """``session`` identifies this producer process in every message id; ``retries``: see `use`."""
        self.session = session
        self.id = settings.producer.identity()
        self._host = socket.gethostname()
        self._sequence = 0
        self._report_ms: int | None = None
        process = settings.process
        self._ids = None
        if process.ids_file:
            self._ids = IdJournal(Path(process.ids_file), session, MessageField.parse(process.id_field))
        self.use(settings, retries=retries)

    def use(self, settings: Settings, *, retries: bool) -> None:
        """Compose by these settings from now on; with ``retries`` a message that is refused is sent again."""
        producer = settings.producer
        self.body = body_of(producer)
        self._body_bytes = 0
        self.retries = retries
        self._payloads = Payloads(settings) if producer.composed or settings.queue.routing_keys else None
        self._content_type = producer.content_type or None
        self._ttl_ms = producer.ttl_ms
        self._reply_to = producer.reply_to or None
        self._processing_time_s = producer.processing_time_s
        self._persistent = settings.queue.durable

    def ask_for_reports(self, every_ms: int | None) -> None:
        """Let messages tell the consumers of a fleet how often to report; None: as often as usual."""
        self._report_ms = every_ms

    @property
    def message_bytes(self) -> int:
        """Roughly the bytes of one message in the broker: body, properties and headers."""
        return max(len(self.body), self._body_bytes) + METADATA_BYTES

    def scheduled(self, intended_ns: int, given: Made | None = None) -> Outgoing:
        """Return the next generated message, due at ``intended_ns``; ``given`` are body and headers, if not ours."""
        return self._compose(None, intended_ns, self._processing_time_s, given)

    def requested(
        self,
        given_id: str | None,
        body: bytes,
        processing_time_s: float | None,
        intended_ns: int,
        traceparent: str = "",
    ) -> Outgoing:
        """Return a requested message. It is not sent again after a refusal: the caller waits for the answer.

        Where the caller chose the id, session and sequence travel in headers, so that the ledger finds the message.
        ``traceparent`` is the caller's trace, which the message continues.
        """
        work_s = self._processing_time_s if processing_time_s is None else processing_time_s
        item = self._compose(body, intended_ns, work_s)
        if given_id is not None:
            item.message = replace(item.message.with_headers({"session": self.session}), message_id=given_id)
        if traceparent:
            item.message = item.message.with_headers({"traceparent": traceparent})
        item.may_retry = False
        return item

    def _compose(
        self, body: bytes | None, intended_ns: int, processing_time_s: float | None, given: Made | None = None
    ) -> Outgoing:
        """Return a message with a given body, or a generated one."""
        sequence = self._sequence
        self._sequence += 1
        name = message_id(self.session, sequence)
        made = None
        if body is None:
            body = self.body
            if self._payloads is not None:
                made = self._payloads.make(Draw(sequence, intended_ns, name, self.id))
                body = made.body
            if given is not None:
                body = given[0]
            self._body_bytes = len(body)
        own: dict[str, HeaderValue] = {
            "producer_id": self.id,
            "host": self._host,
            "sequence": sequence,
            "intended_ns": intended_ns,
        }
        if processing_time_s is not None:
            own["processing_time"] = str(processing_time_s)  # pika cannot publish floats
        if self._report_ms is not None:
            own[REPORT_HEADER] = self._report_ms
        message = Message(
            body,
            message_id=name,
            timestamp_s=intended_ns // 1_000_000_000,
            headers={**({} if made is None else made.headers), **({} if given is None else given[1]), **own},
            persistent=self._persistent,
            content_type=self._content_type,
            expiration_ms=self._ttl_ms,
            priority=None if made is None else made.priority,
            correlation_id=name if self._reply_to else None,
            reply_to=self._reply_to,
        )
        if self._ids is not None:
            self._ids.note(sequence, message)
        route = "" if made is None else made.routing_key
        return Outgoing(message, sequence, intended_ns, may_retry=self.retries, routing_key=route)
