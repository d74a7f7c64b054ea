"""What the engines know of tracing: two spans a message, and the header that joins them into one trace.

Tracing is off unless the settings ask for it; an engine then has no tracer and spends nothing. This module imports no
tracing library: `tracing_otel` does, and is loaded only when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from backpressure.core.message import Delivery, Destination, Message, Metadata
from backpressure.extras import require
from backpressure.settings import Settings


class SendSpan(Protocol):
    """A message on its way to the broker."""

    @property
    def traceparent(self) -> str:
        """The header (W3C Trace Context) that makes the consumer's span a child of this one."""

    def end(self, at_ns: int, failure: str = "") -> None:
        """The message is settled: confirmed, or given up because of ``failure``; nanoseconds since the epoch."""


class ProcessSpan(Protocol):
    """One attempt at working on a message."""

    def end(self, at_ns: int, queue_wait_s: float | None, attempt: int, failure: Exception | None) -> None:
        """The attempt (the first is 1) is over; the wait in seconds is None for a message that tells no time."""


class Tracer(Protocol):
    """Begins spans; times are nanoseconds since the epoch."""

    def sending(self, message: Message, at_ns: int) -> SendSpan:
        """Begin the span of a message that is sent for the first time, under the one in its header, if it has one."""

    def processing(self, delivery: Delivery, metadata: Metadata, at_ns: int) -> AbstractContextManager[ProcessSpan]:
        """Begin the span of an attempt; within the block it is the current one, so a handler's own spans join it."""


@contextmanager
def tracing(
    settings: Settings, role: Literal["producer", "consumer"], destination: Destination
) -> Iterator[Tracer | None]:
    """Yield the tracer of this process, or None when tracing is off; at the end of the block every span is sent.

    Raises:
        MissingExtraError: tracing is on, and the library for it is not installed.
    """
    if not settings.tracing.enabled:
        yield None
        return
    require("otel", "tracing (tracing.enabled)")
    from backpressure.telemetry.tracing_otel import OpenTelemetryTracer  # noqa: PLC0415 - an extra, 30 MB, 0.2 s

    tracer = OpenTelemetryTracer(settings, role, destination)
    try:
        yield tracer
    finally:
        tracer.close()
