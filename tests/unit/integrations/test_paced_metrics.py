"""What Prometheus sees of limiters."""

from __future__ import annotations

import gc

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from backpressure.integrations.limiter import Limiter
from backpressure.integrations.paced_metrics import METRICS, register_metrics


def test_every_queue_is_a_label_and_every_metric_is_there_once() -> None:
    registry = CollectorRegistry()
    limiters = [Limiter(queue, "amqp://localhost/") for queue in ("orders", "invoices")]
    for limiter in limiters:
        limiter.acquire()
        register_metrics(limiter, registry)
    text = generate_latest(registry).decode()
    for name in METRICS:
        assert text.count(f"# TYPE {name} ") == 1
    assert 'pace_messages_published_total{queue="orders"} 1.0' in text
    assert 'pace_messages_published_total{queue="invoices"} 1.0' in text
    assert "pace_queue_ready_messages{" not in text  # nothing was read yet: unknown, and not 0


def test_a_limiter_that_nobody_uses_any_more_is_gone() -> None:
    registry = CollectorRegistry()
    limiter = Limiter("orders", "amqp://localhost/")
    register_metrics(limiter, registry)
    del limiter
    gc.collect()
    assert "orders" not in generate_latest(registry).decode()
