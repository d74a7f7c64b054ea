"""The message and the metadata that travels with it, and the kind of class that values of every message have.

The body is the user's payload, untouched. Metadata travels in properties and headers, so that a foreign consumer can
ignore it and a foreign producer can omit it: a message without it is processed as well.

A message id is a UUID of version 8 (RFC 9562, section 5.8) that holds the *session* of the producer process (60 bits)
and the *sequence* within it (62 bits). So a set of ids is a bitmap per session, and the loss ledger is exact in bounded
memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make ``cls`` a dataclass with slots for values that are created for every message.

    mypy refuses assignments to its fields. `dataclass(frozen=True)` enforces at run time what mypy has already checked,
    and creating one costs three times as much; a consumer makes six such values for each message.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


HeaderValue = int | float | str | bytes | bool | Decimal | datetime | None | list[object] | dict[str, object]

MAX_SESSION = (1 << 60) - 1
MAX_SEQUENCE = (1 << 62) - 1
MAX_PROCESSING_TIME_S = 3600.0
"""The most work one message may ask for: a consumer has one pair of hands."""
_MAX_TIME_NS = (1 << 63) - 1  # in the year 2262, and the most that a journal holds

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_VERSION_DIGIT = 0x8 << 12
_VERSION = _VERSION_DIGIT << 64
_VARIANT = 0x2 << 62
_LOW_12 = (1 << 12) - 1


def message_id(session: int, sequence: int) -> str:
    """Return the UUID text of one message.

    Args:
        session: identity of the producer process, 0 … 2⁶⁰−1.
        sequence: number of the message within the session, 0 … 2⁶²−1.
    """
    low = f"{_VARIANT | sequence:016x}"
    return f"{_of_session(session)}-{low[:4]}-{low[4:]}"


@lru_cache(maxsize=16)
def _of_session(session: int) -> str:
    """Return the first three groups of an id, which are the same for all messages of a session."""
    text = f"{(session >> 12) << 16 | _VERSION_DIGIT | session & _LOW_12:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:]}"


def parse_message_id(text: str | None) -> tuple[int, int] | None:
    """Return (session, sequence), or None when the id is not one of ours."""
    if text is None or not _UUID.fullmatch(text):
        return None
    value = int(text.replace("-", ""), 16)
    if value & (0xF << 76) != _VERSION or value & (0x3 << 62) != _VARIANT:
        return None
    session = (value >> 80) << 12 | (value >> 64) & _LOW_12
    return session, value & MAX_SEQUENCE


@value
class Message:
    """What is published: a body, its properties and headers.

    ``timestamp_s`` is the AMQP timestamp property (whole seconds since the epoch). Times in headers are integer
    nanoseconds, which every client library can read.

    ``native`` is for a message that is handed on: its properties and headers in the broker's own encoding, which only
    its transport understands. Where it is given it is published in place of the other fields. ``priority``,
    ``correlation_id`` and ``reply_to`` are published, but not read from what arrives.
    """

    body: bytes
    message_id: str | None = None
    timestamp_s: int | None = None
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    persistent: bool = True
    content_type: str | None = None
    expiration_ms: int | None = None
    native: object = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None

    def with_headers(self, more: Mapping[str, HeaderValue]) -> Message:
        """Return the same message with these headers too (`dataclasses.replace` takes four times as long)."""
        return Message(
            self.body,
            self.message_id,
            self.timestamp_s,
            {**self.headers, **more},
            self.persistent,
            self.content_type,
            self.expiration_ms,
            None,
            self.priority,
            self.correlation_id,
            self.reply_to,
        )


@value
class Delivery:
    """A message handed to a consumer, with what is needed to settle it.

    ``tag`` counts per channel and ``epoch`` per connection: a tag of an earlier epoch settles nothing. ``native`` holds
    the message's properties and headers as they came, for its transport to hand them on unchanged.
    """

    message: Message
    tag: int
    epoch: int
    redelivered: bool
    exchange: str = ""
    routing_key: str = ""
    received_ns: int = 0
    native: object = None


@value
class Destination:
    """Where messages go to and come from, in the terms of traces (OpenTelemetry's conventions for messaging)."""

    system: str
    published_to: str
    consumed_from: str
    consumer_group: str = ""


@value
class Metadata:
    """Who sent a message and when; every field may be unknown (None) for a foreign producer.

    ``intended_ns`` is when the schedule wanted it sent, ``sent_ns`` when it was; both in nanoseconds since the epoch on
    the sender's clock. ``processing_time_s`` asks the consumer for that much work.
    """

    session: int | None = None
    sequence: int | None = None
    producer_id: str | None = None
    host: str | None = None
    intended_ns: int | None = None
    sent_ns: int | None = None
    processing_time_s: float | None = None
    traceparent: str | None = None

    @classmethod
    def read(cls, message: Message) -> Metadata:
        """Return what is known about ``message``; malformed values count as unknown."""
        header = message.headers.get
        session = header("session")  # messages have it whose id the sender chose
        ids = None if session is None else _ids(session, header("sequence"))
        if ids is None:
            ids = parse_message_id(message.message_id)
        sent_ns = _time(header("sent_ns"))
        if sent_ns is None and message.timestamp_s:  # 0 is what a client sends that knows no time
            sent_ns = _time(message.timestamp_s * 1_000_000_000)
        work = header("processing_time")
        return cls(
            ids[0] if ids else None,
            ids[1] if ids else None,
            _text(header("producer_id")),
            _text(header("host")),
            _time(header("intended_ns")),
            sent_ns,
            None if work is None else _seconds(work),
            _text(header("traceparent")),
        )

    def headers(self) -> dict[str, HeaderValue]:
        """Return the headers to publish: the known fields only."""
        known: dict[str, HeaderValue | None] = {
            "producer_id": self.producer_id,
            "host": self.host,
            "sequence": self.sequence,
            "intended_ns": self.intended_ns,
            "sent_ns": self.sent_ns,
            "processing_time": None if self.processing_time_s is None else str(self.processing_time_s),
            "traceparent": self.traceparent,
        }
        return {name: value for name, value in known.items() if value is not None}


def _ids(session: object, sequence: object) -> tuple[int, int] | None:
    """Return (session, sequence) if both are within what an id can hold."""
    session, sequence = _integer(session), _integer(sequence)
    if session is None or sequence is None or not (0 <= session <= MAX_SESSION and 0 <= sequence <= MAX_SEQUENCE):
        return None
    return session, sequence


def _integer(value: object) -> int | None:
    if type(value) is int:  # as a rule; the rest is what other programs send
        return value
    if isinstance(value, float) and value.is_integer():  # JavaScript has no other numbers
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: object) -> int | None:
    """Accept nanoseconds since the epoch; a time outside this era (milliseconds taken for seconds) is unknown."""
    time_ns = value if type(value) is int else _integer(value)
    return time_ns if time_ns is not None and 0 <= time_ns <= _MAX_TIME_NS else None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None


def _seconds(value: object) -> float | None:
    """Accept a number or its text (seconds), within what may be asked for."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds <= MAX_PROCESSING_TIME_S else None
