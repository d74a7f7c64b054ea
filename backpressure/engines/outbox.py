"""The outbox: every message that a producer has accepted and not yet settled, and what becomes of it.

It guarantees that the producer loses no message: each is in exactly one place (waiting, in flight, or settled), is kept
until the broker has answered for it, and is sent again with its old id after a nack or a lost connection. The outbox
counts, writes the journal, and knows nothing about rates. A `Composer` makes what it keeps.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from backpressure.core.fields import MessageField
from backpressure.core.histogram import Histogram
from backpressure.core.journal import Outcome, ProducerRecord
from backpressure.core.limiters import ConfirmWindow
from backpressure.core.message import HeaderValue, Message, message_id
from backpressure.core.reports import REPORT_HEADER
from backpressure.core.templates import Draw
from backpressure.derived import METADATA_BYTES, body_of
from backpressure.engines.clock import Clock
from backpressure.engines.payloads import Made, Payloads
from backpressure.settings import Settings
from backpressure.telemetry.journal_file import IdJournal, JournalWriter
from backpressure.telemetry.tracing import SendSpan
from backpressure.transports.base import FULL, Cause, Refusal


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
    was_returned: bool = False
    goes_again: bool = False
    may_retry: bool = True
    routing_key: str | None = None
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
        self.returned, self.goes_again = "", False
        self.message = self.message.with_headers({"sent_ns": sent_ns})
        return self.message


class Composer:
    """Composes messages (sender, id, number, body), each with what is kept about it until it is settled.

    It numbers them from 0 within its session; ``settings`` may be exchanged at any time.
    """

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
        route = None if made is None else made.routing_key
        return Outgoing(message, sequence, intended_ns, may_retry=self.retries, routing_key=route)


class Outbox:
    """Waiting, in flight, settled: with totals, confirm latency and the journal."""

    def __init__(
        self, session: int, window: int, nack_pause_s: float, clock: Clock, journal: JournalWriter | None
    ) -> None:
        """At most ``window`` messages are in flight; a refused one goes again after ``nack_pause_s``."""
        self.session = session
        self.in_flight: ConfirmWindow[Outgoing] = ConfirmWindow(window)
        self.confirmed = self.nacked = self.rejected = self.returned = self.published = self.republished = 0
        self.unsettled = 0
        self.confirm_latency = Histogram()
        self._again: deque[tuple[float, Outgoing]] = deque()
        self._urgent: deque[Outgoing] = deque()
        self.nack_pause_s = nack_pause_s
        self._clock = clock
        self._journal = journal

    @property
    def settled(self) -> int:
        """Messages whose fate is known."""
        return self.confirmed + self.rejected + self.returned

    @property
    def open(self) -> int:
        """Accepted messages that are not settled yet."""
        return len(self.in_flight) + len(self._again) + len(self._urgent)

    @property
    def urgent(self) -> int:
        """Messages sent regardless of the pace: requested ones, and those unconfirmed when a connection was lost."""
        return len(self._urgent)

    def due_again(self, now: float) -> bool:
        """Return whether a refused message may be sent again at ``now``."""
        return bool(self._again) and self._again[0][0] <= now

    def again_wait_s(self, now: float) -> float | None:
        """Return the seconds until the first refused message may be sent again, or None when there is none."""
        return max(0.0, self._again[0][0] - now) if self._again else None

    def add_urgent(self, item: Outgoing) -> None:
        """Accept a message that is sent next, regardless of the pace."""
        self._urgent.append(item)

    def next_urgent(self) -> Outgoing:
        """Remove and return the next urgent message."""
        return self._urgent.popleft()

    def next_again(self) -> Outgoing:
        """Remove and return the refused message that has waited longest."""
        return self._again.popleft()[1]

    def sent(self, tag: int, item: Outgoing) -> None:
        """Record that ``item`` was handed to the transport under ``tag``."""
        if item.attempts == 1:
            self.published += 1
        else:
            self.republished += 1
        self.in_flight.sent(tag, item)

    def not_sent(self, item: Outgoing) -> None:
        """The transport did not take ``item``: it is sent next, and this does not count as an attempt."""
        item.attempts -= 1
        self._urgent.appendleft(item)

    def confirm(self, tag: int, *, multiple: bool) -> None:
        """The broker answers for one message, or for all up to it."""
        now_ns = self._clock.wall_ns()
        for item in self.in_flight.settle(tag, multiple=multiple):
            if item.goes_again:
                self._again.append((self._clock.now(), item))
                continue
            self.confirm_latency.record((now_ns - item.sent_ns) * 1e-9)
            if item.returned:
                self.returned += 1
                self._settle(item, Outcome.RETURNED, now_ns, item.returned)
            else:
                self.confirmed += 1
                self._settle(item, Outcome.CONFIRMED, now_ns)

    def nack(self, tag: int, *, multiple: bool, refusal: Refusal = FULL) -> None:
        """The broker refuses one message, or all up to it: they wait to go again, or are rejected."""
        now_ns = self._clock.wall_ns()
        not_before = self._clock.now() + self.nack_pause_s
        for item in self.in_flight.settle(tag, multiple=multiple):
            self.nacked += 1
            if item.may_retry and not refusal.final:
                self._again.append((not_before, item))
            else:
                self.rejected += 1
                self._settle(item, Outcome.REJECTED, now_ns, refusal.reason, refusal.cause)

    def mark_returned(self, message_id: str | None, reason: str) -> bool:
        """Remember that the confirm to come for this message means "routed to no queue".

        Returns whether the queues may be gone. Then the message is sent again, once, as soon as they are in place; but
        not a message that was requested, whose sender is told. One with a routing key of its own has other queues.
        """
        for item in self.in_flight.items():
            if item.message.message_id == message_id and not item.returned:
                item.returned = reason
                first, item.was_returned = not item.was_returned, True
                item.goes_again = first and item.result is None and item.routing_key is None
                return first and item.routing_key is None
        return False

    def connection_lost(self) -> None:
        """Nothing in flight will be settled: all of it is sent again before anything else, oldest first."""
        self._urgent.extendleft(reversed(self.in_flight.lost()))

    def abandon(self) -> None:
        """Journal what is still open when the producer must end."""
        now_ns = self._clock.wall_ns()
        waiting = [item for _, item in self._again]
        for item in [*self.in_flight.lost(), *waiting, *self._urgent]:
            self.unsettled += 1
            self._settle(item, Outcome.UNSETTLED, now_ns, "the producer stopped before the broker answered")
        self._again.clear()
        self._urgent.clear()

    def _settle(
        self, item: Outgoing, outcome: Outcome, now_ns: int, reason: str = "", cause: Cause | None = None
    ) -> None:
        if self._journal is not None:
            self._journal.write(
                ProducerRecord(
                    self.session, item.sequence, outcome, item.intended_ns, item.sent_ns, now_ns, item.attempts
                )
            )
        if item.span is not None:
            item.span.end(now_ns, reason)
        if item.result is not None and not item.result.done():
            unanswered = item.attempts - (outcome is not Outcome.UNSETTLED)
            settlement = Settlement(
                item.message.message_id or "", outcome, reason, cause, may_have_arrived=unanswered > 0
            )
            item.result.set_result(settlement)
