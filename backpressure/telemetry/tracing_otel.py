"""Traces by OpenTelemetry, sent over OTLP/HTTP by a thread in the background.

We write the header and the spans ourselves: instrumenting pika from outside costs more than sending a message does, and
cannot know when a message was confirmed. Attributes follow the semantic conventions for messaging (RabbitMQ, Kafka);
bodies are never among them, nor are the texts of errors, which may quote a body.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf

from backpressure.errors import MissingExtraError
from backpressure.extras import lacks

if lacks("otel"):
    raise MissingExtraError("otel", "tracing")

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, StatusCode, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from backpressure.core.addresses import BrokerAddress
from backpressure.core.message import Delivery, Destination, HeaderValue, Message, Metadata
from backpressure.settings import Settings
from backpressure.version import __version__

_EXPORT_TIMEOUT_S = 5.0
_EXPORT_EVERY_MS = 1000.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0

_log = logging.getLogger("backpressure")
_READ_HEADER = TraceContextTextMapPropagator()


class CalmExporter(SpanExporter):
    """An exporter that says once that the collector is away, and once that it is back, and asks less and less often.

    The exporters of OpenTelemetry log each attempt, some with a traceback, once a second. Spans are lost meanwhile.
    """

    def __init__(self, exporter: SpanExporter, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``address`` is that of the collector, for people."""
        self._exporter = exporter
        parts = replace(BrokerAddress.parse(address), username="", password="")
        self._address = parts.at(parts.servers)
        self._clock = clock
        self._lost = 0
        self._pause_s = _FIRST_PAUSE_S
        self._not_before = -inf
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)  # what it says is said here

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, unless the collector was away a moment ago."""
        if self._clock() < self._not_before:
            self._lost += len(spans)
            return SpanExportResult.FAILURE
        try:
            result, reason = self._exporter.export(spans), "it takes none"
        except Exception as error:  # noqa: BLE001 -- whatever its HTTP client raises: traces are never worth a crash
            result, reason = SpanExportResult.FAILURE, type(error).__name__
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                _log.info("the collector at %s takes traces again; %d spans are lost", self._address, self._lost)
            self._lost, self._pause_s = 0, _FIRST_PAUSE_S
            return result
        if not self._lost:
            _log.warning("no collector takes traces at %s (%s): spans are lost until one does", self._address, reason)
        self._lost += len(spans)
        self._not_before = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return result

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See `SpanExporter`."""
        return self._exporter.force_flush(timeout_millis)


class OpenTelemetryTracer:
    """The tracer of one process; see `backpressure.telemetry.tracing.Tracer`."""

    def __init__(self, settings: Settings, role: str, destination: Destination) -> None:
        """Start exporting to ``tracing.endpoint``; a collector that is away costs spans, never messages."""
        tracing = settings.tracing
        resource = Resource.create(
            {
                "service.name": f"pace-{role}",
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(tracing.sample_ratio), resource=resource, shutdown_on_exit=False
        )
        address = f"{tracing.endpoint.rstrip('/')}/v1/traces"
        exporter = CalmExporter(OTLPSpanExporter(address, timeout=_EXPORT_TIMEOUT_S), address)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_EVERY_MS))
        self._tracer = self._provider.get_tracer("backpressure", __version__)
        common = _common(settings, destination.system)
        group = destination.consumer_group
        consuming: dict[str, AttributeValue] = {"messaging.consumer.group.name": group} if group else {}
        self._sending: dict[str, AttributeValue] = common | {
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": destination.published_to,
        }
        self._processing: dict[str, AttributeValue] = (
            common
            | consuming
            | {
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": destination.consumed_from,
            }
        )

    def sending(self, message: Message, at_ns: int) -> _SendSpan:
        """Begin ``send_to_consumer``, a child of the span whose header the message has, if it has one."""
        attributes = self._sending | _about(message)
        parent = _under(message.headers.get("traceparent"))
        return _SendSpan(
            self._tracer.start_span(
                "send_to_consumer", parent, kind=SpanKind.PRODUCER, attributes=attributes, start_time=at_ns
            )
        )

    @contextmanager
    def processing(self, delivery: Delivery, metadata: Metadata, at_ns: int) -> Iterator[_ProcessSpan]:
        """Begin ``process``, a child of the span whose header came with the message."""
        span = self._tracer.start_span(
            "process",
            _under(metadata.traceparent),
            kind=SpanKind.CONSUMER,
            attributes=self._processing | _about(delivery.message),
            start_time=at_ns,
        )
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield _ProcessSpan(span)
        except BaseException as error:  # the attempt was cancelled: end its span here
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
            span.end()
            raise

    def close(self) -> None:
        """Send what is left; a collector that does not answer is given up after a few seconds."""
        self._provider.shutdown()


class _SendSpan:
    def __init__(self, span: Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, at_ns: int, failure: str = "") -> None:
        if failure:
            self._span.set_attribute("error.type", failure)  # one of a few
            self._span.set_status(StatusCode.ERROR, failure)
        self._span.end(at_ns)


class _ProcessSpan:
    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, at_ns: int, queue_wait_s: float | None, attempt: int, failure: Exception | None) -> None:
        if queue_wait_s is not None:
            self._span.set_attribute("queue.latency_seconds", queue_wait_s)
        self._span.set_attribute("pace.attempt", attempt)
        if failure is not None:
            self._span.set_attribute("error.type", type(failure).__qualname__)
            self._span.set_status(StatusCode.ERROR)
        self._span.end(at_ns)


def _under(traceparent: HeaderValue) -> Context:
    return _READ_HEADER.extract({"traceparent": traceparent}, Context()) if isinstance(traceparent, str) else Context()


def _common(settings: Settings, system: str) -> dict[str, AttributeValue]:
    url = BrokerAddress.parse(settings.broker.address())
    common: dict[str, AttributeValue] = {"messaging.system": system}
    if system == "rabbitmq":
        common["messaging.rabbitmq.destination.routing_key"] = settings.queue.key
    if url.scheme != "memory":
        common["server.address"], port = url.servers[0]
        if port is not None:
            common["server.port"] = port
    return common


def _about(message: Message) -> dict[str, AttributeValue]:
    about: dict[str, AttributeValue] = {"messaging.message.body.size": len(message.body)}
    return about if message.message_id is None else about | {"messaging.message.id": message.message_id}
