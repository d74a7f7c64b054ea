"""Tracing is off unless configured, and then costs not even an import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from backpressure.api.common import public_settings
from backpressure.config import replaced
from backpressure.core.message import Delivery, Message, Metadata
from backpressure.errors import ConfigError, MissingExtraError
from backpressure.settings import Settings
from backpressure.telemetry import tracing_otel
from backpressure.telemetry.tracing import Tracer, tracing
from backpressure.transports.factory import connect

Spans = Callable[[], tuple[ReadableSpan, ...]]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Return a function that returns what was exported, which then goes nowhere."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing_otel, "OTLPSpanExporter", lambda *_, **__: exporter)
    return exporter.get_finished_spans


def sent(tracer: Tracer | None, failure: str) -> None:
    assert tracer is not None
    tracer.sending(Message(b"x", message_id="1"), at_ns=1).end(2, failure)


def traced(
    role: Literal["producer", "consumer"] = "producer", **changes: object
) -> AbstractContextManager[Tracer | None]:
    """Trace a process with these settings; ``broker__url="…"`` stands for ``broker.url``."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    settings = replaced(Settings(), {"tracing.enabled": True, **dotted})
    return tracing(settings, role, connect(settings).destination)


def test_by_default_there_is_no_tracer() -> None:
    with traced(tracing__enabled=False) as tracer:
        assert tracer is None


def test_a_program_without_tracing_does_not_even_load_the_library() -> None:
    code = """
import sys
from backpressure.cli import consumer, producer
from backpressure.transports.factory import connect
from backpressure.settings import Settings
from backpressure.telemetry.tracing import tracing
with tracing(Settings(), "producer", None):
    print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(MissingExtraError, match=r"tracing\.enabled.*pace-matching\[otel\]"), traced("consumer"):
        pass


def test_a_message_that_was_not_sent_is_an_error_of_a_kind(spans: Spans) -> None:
    with traced() as tracer:
        sent(tracer, "")
        sent(tracer, "the queue is full")
    well, full = spans()
    assert "error.type" not in (well.attributes or {})
    assert (full.attributes or {})["error.type"] == "the queue is full"
    assert full.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [
        ("amqp://guest:secret@mq", "mq", 5672),
        ("amqps://[::1]:5999/vhost", "::1", 5999),
        ("kafka://one:9095,two:9096", "one", 9095),
    ],
)
def test_a_span_names_the_server_and_its_port(spans: Spans, url: str, address: str, port: int) -> None:
    with traced(broker__url=url) as tracer:
        sent(tracer, "")
    attributes = spans()[0].attributes or {}
    assert (attributes["server.address"], attributes["server.port"]) == (address, port)


@pytest.mark.parametrize(
    ("url", "sent_to", "worked_on", "group"),
    [
        ("amqp://mq", "direct.exchange:to.work", "work/queue", None),
        ("kafka://mq", "work_queue", "work_queue", "pace.work_queue"),
    ],
)
def test_a_span_names_where_a_message_goes_and_comes_from(
    spans: Spans, url: str, sent_to: str, worked_on: str, group: str | None
) -> None:
    with traced(broker__url=url, queue__work="work/queue", queue__routing_key="to.work") as tracer:
        sent(tracer, "")
        assert tracer is not None
        with tracer.processing(Delivery(Message(b"x"), tag=1, epoch=1, redelivered=False), Metadata(), 1) as span:
            span.end(2, None, 1, None)
    out, work = (span.attributes or {} for span in spans())
    assert (out["messaging.destination.name"], work["messaging.destination.name"]) == (sent_to, worked_on)
    assert (out.get("messaging.consumer.group.name"), work.get("messaging.consumer.group.name")) == (None, group)


def test_an_attempt_that_is_cancelled_ends_its_span_as_an_error(spans: Spans) -> None:
    delivery = Delivery(Message(b"x"), tag=1, epoch=1, redelivered=False)
    with traced("consumer") as tracer:
        assert tracer is not None
        with pytest.raises(asyncio.CancelledError), tracer.processing(delivery, Metadata(), at_ns=1):
            raise asyncio.CancelledError
    (attempt,) = spans()
    assert (attempt.attributes or {})["error.type"] == "CancelledError"
    assert attempt.status.status_code is StatusCode.ERROR
    assert attempt.events == ()  # no texts of errors


def test_an_endpoint_that_is_not_an_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tracing\.endpoint.*http://"):
        replaced(Settings(), {"tracing.endpoint": "localhost:4318"})


def test_a_password_in_the_endpoint_is_not_shown() -> None:
    settings = replaced(Settings(), {"tracing.endpoint": "https://me:secret@traces.example:4318"})
    assert public_settings(settings)["tracing"]["endpoint"] == "https://traces.example:4318"


class Collector(SpanExporter):
    """One that is away as long as the test says."""

    def __init__(self) -> None:
        self.away = True
        self.asked = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked += 1
        if self.away:
            raise ConnectionError("refused")
        return SpanExportResult.SUCCESS


def test_a_collector_that_is_away_is_one_line_and_asked_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    collector = Collector()
    calm = tracing_otel.CalmExporter(collector, "http://me:secret@traces:4318/v1/traces", lambda: now[0])
    span = cast("ReadableSpan", object())
    with caplog.at_level("INFO", logger="backpressure"):
        for second in range(300):
            now[0] = float(second)
            calm.export([span])
        assert collector.asked < 12
        assert caplog.messages == [
            "no collector takes traces at http://traces:4318/v1/traces (ConnectionError): spans are lost until one does"
        ]
        collector.away = False
        for second in range(300, 400):
            now[0] = float(second)
            calm.export([span])
        assert collector.asked > 30
        assert "takes traces again" in caplog.messages[-1]
        assert len(caplog.messages) == 2
        collector.away = True
        calm.export([span])
        assert len(caplog.messages) == 3
