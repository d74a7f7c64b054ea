"""Traces as a collector receives them: one trace per message, across two processes, over real OTLP/HTTP."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SECRET_TEXT = "the body of a message"


def read(attributes: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


@dataclass
class Collector:
    """Takes what is exported to it."""

    url: str
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> list[tuple[str, Span]]:
        """Return (service, span) of everything received so far."""
        return [
            (str(read(resource.resource.attributes)["service.name"]), span)
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def traces(self) -> list[tuple[Span, Span]]:
        """Return (sent, processed) of every trace; each must consist of just these two."""
        by_trace: dict[bytes, dict[str, Span]] = {}
        for service, span in self.spans():
            trace = by_trace.setdefault(span.trace_id, {})
            assert service not in trace
            trace[service] = span
        return [(trace["pace-producer"], trace["pace-consumer"]) for trace in by_trace.values()]


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield received
        server.shutdown()
        thread.join()


def exchange(start: Any, broker: Any, queue: str, count: int, endpoint: str, **settings: str) -> list[Any]:
    """Send ``count`` messages and process them, both with tracing on, each in a process of its own."""
    where = ("--url", broker.url, "--queue", queue, "--no-api")
    tracing = {"PACE_TRACING__ENABLED": "true", "PACE_TRACING__ENDPOINT": endpoint, "NO_PROXY": "*"}
    count_of = {"fast_producer.py": "--count", "slow_consumer.py": "--expect"}
    ended = []
    for script, limit in count_of.items():
        running = start(script, *where, limit, str(count), **tracing, **settings)
        assert running.ends() == 0, running.text
        ended.append(running)
    return ended


def test_each_message_is_one_trace_across_producer_and_consumer(start: Any, broker: Any, collector: Collector) -> None:
    exchange(start, broker, "q.traced", 20, collector.url, PACE_PRODUCER__TEXT=SECRET_TEXT)
    traces = collector.traces()
    assert len(traces) == 20
    for sent, processed in traces:
        assert (sent.name, sent.kind) == ("send_to_consumer", Span.SPAN_KIND_PRODUCER)
        assert (processed.name, processed.kind) == ("process", Span.SPAN_KIND_CONSUMER)
        assert sent.parent_span_id == b""
        assert processed.parent_span_id == sent.span_id
        assert sent.start_time_unix_nano < sent.end_time_unix_nano  # it lasts until the confirm
        assert sent.start_time_unix_nano < processed.start_time_unix_nano < processed.end_time_unix_nano
        out, work = read(sent.attributes), read(processed.attributes)
        assert out["messaging.message.id"] == work["messaging.message.id"]
        assert (out["messaging.system"], work["messaging.system"]) == ("rabbitmq", "rabbitmq")
        assert (out["messaging.operation.type"], work["messaging.operation.type"]) == ("send", "process")
        assert out["messaging.destination.name"] == "direct.exchange:q.traced"
        assert work["messaging.destination.name"] == "q.traced"
        assert out["messaging.message.body.size"] == len(SECRET_TEXT)
        assert work["pace.attempt"] == 1
        assert 0 < work["queue.latency_seconds"] < (processed.end_time_unix_nano - sent.start_time_unix_nano) * 1e-9
    assert not any(SECRET_TEXT.encode() in body for body in collector.bodies)


def test_a_request_to_produce_goes_on_in_the_trace_of_its_caller(
    start: Any, broker: Any, collector: Collector, free_port: int
) -> None:
    trace_id, span_id = "0123456789abcdef" * 2, "fedcba9876543210"
    settings = {"PACE_TRACING__ENABLED": "true", "PACE_TRACING__ENDPOINT": collector.url, "NO_PROXY": "*"}
    flags = ("--url", broker.url, "--queue", "q.traced.requested", "--api-port", str(free_port))
    producer = start("fast_producer.py", *flags, PACE_PRODUCER__START_PAUSED="true", **settings)
    producer.says("control API")
    for headers in ({"traceparent": f"00-{trace_id}-{span_id}-01"}, {"traceparent": f"00-{'0' * 32}-{span_id}-01"}, {}):
        answer = httpx.post(
            f"http://127.0.0.1:{free_port}/produce", json={"payload": "x"}, headers=headers, trust_env=False, timeout=60
        )
        assert answer.status_code == 200
    producer.signal(signal.SIGINT)
    assert producer.ends() == 0
    followed, *others = sorted((span for _, span in collector.spans()), key=lambda span: span.start_time_unix_nano)
    assert (followed.trace_id.hex(), followed.parent_span_id.hex()) == (trace_id, span_id)
    assert [span.parent_span_id for span in others] == [b"", b""]


def test_every_attempt_is_a_span_and_a_failed_one_is_an_error(start: Any, broker: Any, collector: Collector) -> None:
    quickly = {"PACE_RETRY__MAX_ATTEMPTS": "2", "PACE_RETRY__BACKOFF_MIN_MS": "1", "PACE_RETRY__BACKOFF_MAX_MS": "1"}
    exchange(start, broker, "q.traced.poison", 1, collector.url, PACE_CONSUMER__FAILURE_RATE="1", **quickly)
    attempts = [span for service, span in collector.spans() if service == "pace-consumer"]
    assert [read(span.attributes)["pace.attempt"] for span in attempts] == [1, 2]
    for span in attempts:
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert read(span.attributes)["error.type"] == "SimulatedFailureError"
    assert len({span.parent_span_id for span in attempts}) == 1


def test_what_the_producer_does_not_sample_the_consumer_does_not_record(
    start: Any, broker: Any, collector: Collector
) -> None:
    exchange(start, broker, "q.traced.never", 10, collector.url, PACE_TRACING__SAMPLE_RATIO="0")
    assert collector.spans() == []


def test_without_a_collector_every_message_is_sent_and_processed_all_the_same(
    start: Any, broker: Any, free_port: int
) -> None:
    producer, consumer = exchange(start, broker, "q.traced.away", 10, f"http://127.0.0.1:{free_port}")
    assert "published=10, " in producer.text
    assert "consumed=10, " in consumer.text
    for text in (producer.text, consumer.text):
        assert "Traceback" not in text
        assert text.count("no collector takes traces") == 1
        assert "exporter" not in text.lower()
