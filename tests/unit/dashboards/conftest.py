"""A loop at work; each test changes one aspect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.core.snapshot import (
    BrokerState,
    Client,
    Connection,
    Event,
    EventKind,
    Outlook,
    ProcessState,
    Quantiles,
    QueueState,
    Rates,
    Snapshot,
    Source,
    Threshold,
    Totals,
)

PRODUCER = ProducerReport(
    id="alice", session=1, pid=11, host="lab", queue="work.queue", at_ns=0, offered=1000, published=130, confirmed=120,
    nacked=0, rejected=0, returned=0, republished=0, in_flight=10, window=100, target_rate_per_s=1000.0,
    pacing_rate_per_s=100.0, weight=1.0, application_limited=False, blocked=False, blocked_events=0, strategy="pace",
    reason="holding the queue", rss_bytes=1 << 25, cpu_s=0.5,
)  # fmt: skip
CONSUMER = ConsumerReport(
    id="slow", pid=7, host="lab", at_ns=0, queue="work.queue", delivered=0, processed=42, failed=4, retried=3,
    dead_lettered=0, redelivered=0, duplicates=0, out_of_order=0, held=5, prefetch=5, paused=False,
    capacity_per_s=100.0, busy_s=0.0, service_sum_s=0.0, service_sum_s2=0.0, rss_bytes=1 << 20, cpu_s=0.0,
    api_url="http://127.0.0.1:8001",
)  # fmt: skip
SNAPSHOT = Snapshot(
    at_ns=1_800_000_000_000_000_000,
    address="amqp://lab:5672",
    sources=(Source("broker", ok=True), Source("management", ok=True)),
    queues={
        "work.queue": QueueState(
            name="work.queue", ready=40, unacked=5, consumers=1, age_s=0.1,
            published_per_s=101.0, delivered_per_s=99.0, acked_per_s=98.0,
        ),
        "work.queue.dlq": QueueState(
            name="work.queue.dlq", ready=0, unacked=0, consumers=0, age_s=0.1, published_per_s=0.0, acked_per_s=0.0
        ),
    },
    work_queue="work.queue",
    producers=(PRODUCER,),
    consumers=(CONSUMER,),
    processes=(
        ProcessState(
            role="producer", id="alice", host="lab", pid=11, rss_bytes=1 << 25, cpu_share=0.25, age_s=0.1,
            rate_per_s=101.0,
        ),
        ProcessState(
            role="consumer", id="slow", host="lab", pid=7, rss_bytes=1 << 20, cpu_share=0.05, age_s=0.1,
            rate_per_s=98.0,
        ),
    ),
    totals=Totals(confirmed=12_000, processed=11_500),
    rates=Rates(offered_per_s=1000.0, confirmed_per_s=101.0, processed_per_s=98.0, nacked_per_s=0.0),
    queue_wait=Quantiles(200, 0.050, 0.045, 0.090, 0.120),
    service=Quantiles(200, 0.010, 0.010, 0.010, 0.011),
    confirm_latency=Quantiles(200, 0.001, 0.001, 0.002, 0.003),
    queue_wait_ever=Histogram(), service_ever=Histogram(), confirm_latency_ever=Histogram(),
    target_rate_per_s=1000.0,
    pacing_rate_per_s=100.0,
    bottleneck_per_s=100.0,
    thresholds=(Threshold("depth", 45.0, 5000.0, "messages"), Threshold("queue wait p99", 120.0, 1000.0, "ms")),
    broker=BrokerState(
        product="RabbitMQ", version="3.10.8", memory_bytes=100 << 20, memory_limit_bytes=400 << 20,
        connections=(Connection(name="alice", user="guest", peer="127.0.0.1:4000", state="running", channels=1),),
        consumers=(
            Client(tag="slow-1", queue="work.queue", peer="127.0.0.1:4001", prefetch=5, ack_required=True),
            Client(tag="ear", queue="amq.gen-feedback", peer="127.0.0.1:4002", prefetch=0, ack_required=False),
        ),
    ),
    events=tuple(Event(1_800_000_000_000_000_000 + n, EventKind.APPEARED, f"event {n}") for n in range(30)),
)  # fmt: skip


@pytest.fixture
def snapshot() -> Callable[..., Snapshot]:
    """Return a function that makes the snapshot with the given changes."""

    def changed(**changes: object) -> Snapshot:
        return replace(SNAPSHOT, **changes)

    return changed


@pytest.fixture
def work() -> Callable[..., dict[str, QueueState]]:
    """Return a function that makes the queues with the given changes to the work queue."""

    def changed(**changes: object) -> dict[str, QueueState]:
        return {**SNAPSHOT.queues, "work.queue": replace(SNAPSHOT.queues["work.queue"], **changes)}

    return changed


@pytest.fixture
def strangers(snapshot: Callable[..., Snapshot]) -> Callable[..., Snapshot]:
    """Return a function that makes a snapshot of a queue `orders` that others use, with changes to it."""

    def changed(*clients: Client, absent: dict[str, str] | None = None, **changes: object) -> Snapshot:
        outlook = Outlook(growth_per_s=0.0, wait_s=4.5, statistics_age_s=10.0)
        values = {
            "ready": 400, "unacked": 50, "consumers": 1, "age_s": 0.1, "kind": "classic", "published_per_s": 100.0,
            "acked_per_s": 100.0, "outlook": outlook,
        }  # fmt: skip
        queue = QueueState(name="orders", **(values | changes))  # type: ignore[arg-type]  # the values of a test
        usual = (Client(tag="ctag", queue="orders", peer="10.0.0.9:4", prefetch=50, ack_required=True, unacked=50),)
        return snapshot(
            queues={"orders": queue, **SNAPSHOT.queues}, asked=("orders",), absent=absent or {}, work_queue="orders",
            producers=(), consumers=(), processes=(), totals=Totals(), rates=Rates(), queue_wait=Quantiles(),
            broker=BrokerState(product="RabbitMQ", version="4.0.5", consumers=clients or usual),
        )  # fmt: skip

    return changed
