"""The metrics: their names, their values at scrape time, and that ``docs/metrics.md`` is right about them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from backpressure.api.proxy import PROXY_METRICS
from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.core.signals import SignalQuality
from backpressure.core.snapshot import (
    BrokerState,
    Event,
    EventKind,
    ProcessState,
    Quantiles,
    QueueState,
    Rates,
    Snapshot,
    Source,
    Threshold,
    Totals,
)
from backpressure.integrations.paced_metrics import METRICS as LIMITER_METRICS
from backpressure.telemetry.metrics import (
    CONSUMER_METRICS,
    HTTP_REQUEST_DURATION,
    PRODUCER_METRICS,
    RequestMetrics,
    consumer_registry,
    expose,
    producer_registry,
)
from backpressure.telemetry.metrics_monitor import MONITOR_COST_METRICS, MONITOR_METRICS, monitor_registry

PRODUCER = ProducerReport(
    id="alice", session=1, pid=11, host="lab", queue="work.queue", at_ns=0, offered=1000, published=130, confirmed=120,
    nacked=7, rejected=3, returned=2, republished=5, in_flight=10, window=100, target_rate_per_s=1000.0,
    pacing_rate_per_s=100.0, weight=1.0, application_limited=False, blocked=True, blocked_events=1, strategy="pace",
    reason="", rss_bytes=1 << 25, cpu_s=0.5,
)  # fmt: skip
CONSUMER = ConsumerReport(
    id="slow", pid=7, host="lab", at_ns=0, queue="work.queue", delivered=0, processed=42, failed=4, retried=3,
    dead_lettered=1, redelivered=0, duplicates=0, out_of_order=0, held=5, prefetch=5, paused=False,
    capacity_per_s=None, busy_s=0.0, service_sum_s=0.0, service_sum_s2=0.0, rss_bytes=1 << 20, cpu_s=0.0,
)  # fmt: skip
PROCESS = ProcessState(
    role="producer", id="alice", host="lab", pid=11, rss_bytes=1000, cpu_share=0.25, age_s=0.1, rate_per_s=100.0
)
SNAPSHOT = Snapshot(
    at_ns=0, address="amqp://lab:5672", sources=(Source("broker", ok=True),), work_queue="work.queue",
    queues={
        "work.queue": QueueState(name="work.queue", ready=40, unacked=5, consumers=1, age_s=0.1, acked_per_s=98.0),
        "foreign": QueueState(name="foreign", ready=7, unacked=None, consumers=None, age_s=0.1),
    },
    producers=(PRODUCER,), consumers=(CONSUMER,), processes=(PROCESS, replace(PROCESS, pid=12)),
    totals=Totals(confirmed=120, processed=42), rates=Rates(offered_per_s=1000.0, confirmed_per_s=100.0),
    queue_wait=Quantiles(), service=Quantiles(), confirm_latency=Quantiles(), queue_wait_ever=Histogram(),
    service_ever=Histogram(), confirm_latency_ever=Histogram(), target_rate_per_s=1000.0, pacing_rate_per_s=100.0,
    bottleneck_per_s=None,
    thresholds=(Threshold("queue wait p99", 1200.0, 1000.0, "ms"),), broker=BrokerState(memory_alarm=True),
    events=(Event(0, EventKind.NACKED, ""),), event_counts={EventKind.NACKED: 3},
)  # fmt: skip
EVERYTHING = [*PRODUCER_METRICS, *CONSUMER_METRICS, *MONITOR_METRICS, *MONITOR_COST_METRICS, *PROXY_METRICS]


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Return what a scraper reads, by "name{label=value}"."""
    found = {}
    for family in text_string_to_metric_families(expose(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in found, "the same series twice"
            found[name] = sample.value
    return found


def durations_of(*values_s: float) -> Histogram:
    histogram = Histogram()
    for value_s in values_s:
        histogram.record(value_s)
    return histogram


def test_the_names_that_users_know_are_exactly_these() -> None:
    names = {family.name for family in EVERYTHING} | {HTTP_REQUEST_DURATION}
    assert {name for name in names if not name.startswith("pace_")} == {
        "messages_produced_total",
        "http_request_duration_seconds",
        "messages_consumed_total",
        "message_processing_duration_seconds",
        "message_processing_errors_total",
    }


def test_a_producer_shows_its_counters_and_the_pace_it_is_allowed() -> None:
    found = samples(producer_registry(lambda: PRODUCER))
    assert found["messages_produced_total"] == 120
    assert found["pace_nacks_total"] == 7
    assert found["pace_blocked"] == 1
    assert found["pace_allowed_rate_per_second"] == 100
    assert "pace_bottleneck_rate_per_second" not in found
    assert found["pace_law_info{law=pace}"] == 1


def test_a_producer_shows_what_its_law_estimates_and_for_how_long_it_held_messages_back() -> None:
    delays = durations_of(0.001, 0.009)
    found = samples(producer_registry(lambda: replace(PRODUCER, bottleneck_per_s=98.0, limiter_delay=delays)))
    assert found["pace_bottleneck_rate_per_second"] == 98
    assert found["pace_rate_limiter_delay_seconds_count"] == 2
    assert found["pace_rate_limiter_delay_seconds_sum"] == pytest.approx(0.010)


def test_a_producer_shows_how_old_its_laws_signals_were() -> None:
    assert "pace_signal_age_seconds" not in samples(producer_registry(lambda: PRODUCER))
    found = samples(producer_registry(lambda: replace(PRODUCER, signal_age_s=0.055)))
    assert found["pace_signal_age_seconds"] == 0.055


def test_a_producer_shows_how_well_its_law_sees() -> None:
    found = samples(producer_registry(lambda: replace(PRODUCER, signal_quality=SignalQuality.LATE)))
    assert found["pace_signal_quality"] == 1


def test_a_producer_shows_how_late_its_control_loop_ran() -> None:
    found = samples(producer_registry(lambda: replace(PRODUCER, tick_lateness=durations_of(0.002, 0.3))))
    assert found["pace_tick_lateness_seconds_count"] == 2
    assert found["pace_tick_lateness_seconds_sum"] == pytest.approx(0.302)


def test_a_consumer_shows_the_age_of_messages_beside_their_queue_wait() -> None:
    report = replace(CONSUMER, queue_wait=durations_of(0.5), message_age=durations_of(2.0))
    found = samples(consumer_registry(lambda: report))
    assert found["pace_queue_wait_seconds_sum"] == 0.5
    assert found["pace_message_age_seconds_sum"] == 2.0


def test_a_consumer_shows_its_counters_and_leaves_out_what_is_unknown() -> None:
    found = samples(consumer_registry(lambda: CONSUMER))
    assert found["messages_consumed_total"] == 42
    assert found["message_processing_errors_total"] == 4
    assert "pace_capacity_rate_per_second" not in found


def test_a_registry_reads_its_report_at_every_scrape() -> None:
    current = [PRODUCER]
    registry = producer_registry(lambda: current[-1])
    assert samples(registry)["messages_produced_total"] == 120
    current.append(replace(PRODUCER, confirmed=121))
    assert samples(registry)["messages_produced_total"] == 121


def test_histogram_buckets_count_exactly_what_is_not_longer() -> None:
    waits = durations_of(0.000_010, 0.001, 0.0015, 0.5, 100.0, 1000.0)
    found = samples(consumer_registry(lambda: replace(CONSUMER, queue_wait=waits)))
    name = "pace_queue_wait_seconds_bucket{{le={}}}"
    assert found[name.format("6.4e-05")] == 1
    assert found[name.format("0.001024")] == 2
    assert found[name.format("0.002048")] == 3
    assert found[name.format("0.524288")] == 4
    assert found[name.format("67.108864")] == 4
    assert found[name.format("134.217728")] == 5
    assert found[name.format("536.870912")] == 5
    assert found[name.format("+Inf")] == 6
    assert found["pace_queue_wait_seconds_count"] == 6
    assert found["pace_queue_wait_seconds_sum"] == pytest.approx(1100.50251)


def test_the_monitor_shows_queues_totals_events_and_thresholds() -> None:
    found = samples(monitor_registry(lambda: SNAPSHOT))
    assert found["pace_queue_messages{queue=work.queue}"] == 45
    assert found["pace_queue_ready_messages{queue=work.queue}"] == 40
    assert found["pace_queue_ack_rate_per_second{queue=work.queue}"] == 98
    assert found["pace_observed_messages_total{stage=confirmed}"] == 120
    assert found["pace_observed_rate_per_second{stage=confirmed}"] == 100
    assert found["pace_events_total{kind=nacked}"] == 3
    assert found["pace_events_total{kind=blocked}"] == 0
    assert found["pace_threshold_breached{threshold=queue_wait_p99}"] == 1
    assert found["pace_broker_alarm{alarm=memory}"] == 1
    assert found["pace_source_up{source=broker}"] == 1


def test_the_monitor_reports_its_own_cost() -> None:
    found = samples(monitor_registry(lambda: SNAPSHOT))
    assert found["pace_process_resident_memory_bytes"] > 1 << 20
    assert found["pace_process_cpu_seconds_total"] > 0


def test_the_work_queue_is_marked_so_that_rules_can_ask_for_it_alone() -> None:
    found = samples(monitor_registry(lambda: SNAPSHOT))
    assert {name for name in found if name.startswith("pace_work_queue_info")} == {
        "pace_work_queue_info{queue=work.queue}"
    }


def test_what_no_process_counted_is_absent_so_that_the_first_report_is_not_a_jump() -> None:
    found = samples(monitor_registry(lambda: replace(SNAPSHOT, queue_wait_ever=None)))
    assert found["pace_observed_messages_total{stage=rejected}"] == 0
    assert "pace_observed_messages_total{stage=processed}" not in found
    assert "pace_observed_messages_total{stage=dead_lettered}" not in found
    assert not [name for name in found if name.startswith("pace_observed_queue_wait_seconds")]

    rates = replace(SNAPSHOT.rates, delivered_per_s=0.0)
    found = samples(monitor_registry(lambda: replace(SNAPSHOT, rates=rates)))
    assert found["pace_observed_messages_total{stage=processed}"] == 42


def test_the_lag_of_partitions_shows_and_of_very_many_only_the_worst() -> None:
    lags = {"few": (3, 0), "many": (*range(65),), "none": ()}
    queues = {
        name: QueueState(name=name, ready=0, unacked=0, consumers=0, age_s=0.1, lag_by_partition=each)
        for name, each in lags.items()
    }
    found = samples(monitor_registry(lambda: replace(SNAPSHOT, queues=queues)))
    assert {name: value for name, value in found.items() if "_lag_" in name} == {
        "pace_queue_partition_lag_messages{partition=0,queue=few}": 3,
        "pace_queue_partition_lag_messages{partition=1,queue=few}": 0,
        "pace_queue_worst_partition_lag_messages{queue=few}": 3,
        "pace_queue_worst_partition_lag_messages{queue=many}": 64,
    }


def test_the_monitor_leaves_out_what_it_does_not_know() -> None:
    found = samples(monitor_registry(lambda: replace(SNAPSHOT, broker=None)))
    assert "pace_queue_unacked_messages{queue=foreign}" not in found
    unknown = (Threshold("queue wait p99", None, 1000.0, "ms"),)
    assert not [
        name
        for name in samples(monitor_registry(lambda: replace(SNAPSHOT, thresholds=unknown)))
        if name.startswith("pace_threshold_breached")
    ]
    assert "pace_observed_rate_per_second{stage=processed}" not in found
    assert "pace_observed_bottleneck_rate_per_second" not in found
    assert not [name for name in found if name.startswith("pace_broker_")]


def test_processes_of_one_name_are_added_up() -> None:
    found = samples(monitor_registry(lambda: SNAPSHOT))
    assert found["pace_observed_process_resident_memory_bytes{id=alice,role=producer}"] == 2000
    assert found["pace_observed_process_cpu_ratio{id=alice,role=producer}"] == 0.5


def test_a_process_that_does_not_report_its_memory_has_no_series_of_it() -> None:
    silent = [replace(process, rss_bytes=None, cpu_share=None) for process in SNAPSHOT.processes]
    found = samples(monitor_registry(lambda: replace(SNAPSHOT, processes=tuple(silent))))
    assert not [name for name in found if name.startswith("pace_observed_process_")]


def test_strangers_under_ever_new_names_add_no_series() -> None:
    for count, shown in ((64, 64), (65, 0)):
        crowd = tuple(replace(PROCESS, id=f"stranger-{number}") for number in range(count))
        found = samples(monitor_registry(lambda crowd=crowd: replace(SNAPSHOT, processes=crowd)))
        assert len([name for name in found if name.startswith("pace_observed_process_")]) == 2 * shown


def test_requests_are_measured_by_method_endpoint_and_status() -> None:
    registry = CollectorRegistry()
    requests = RequestMetrics(registry)
    for _ in range(2):
        requests.observe("POST", "/produce", 200, 0.010)
    requests.observe("POST", "/produce", 429, 0.001)
    found = samples(registry)
    assert found["http_request_duration_seconds_count{endpoint=/produce,method=POST,status=200}"] == 2
    assert found["http_request_duration_seconds_count{endpoint=/produce,method=POST,status=429}"] == 1


@pytest.mark.parametrize("family", EVERYTHING, ids=lambda family: family.name)
def test_names_keep_to_prometheus_conventions(family: object) -> None:
    assert re.fullmatch(r"(pace_)?[a-z]+(_[a-z]+)*", family.name)
    assert family.help.endswith(".")
    assert not re.search(r"_(ms|millis\w*|mb|kb|count|sum|bucket|info_total)$", family.name)
    if family.durations:
        assert family.name.endswith("_seconds")


def test_the_documentation_lists_every_metric_as_it_is() -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    requests = (HTTP_REQUEST_DURATION, "histogram", "`method` `endpoint` `status`")
    expected = [
        (family.name, family.kind, " ".join(f"`{label}`" for label in family.labels), family.help)
        for family in EVERYTHING
    ]
    expected += [
        (name, "counter" if name.endswith("_total") else "gauge", "`queue`", text)
        for name, (_, text) in LIMITER_METRICS.items()
    ]
    assert [row for row in documented if row[0] != HTTP_REQUEST_DURATION] == expected
    assert [row[:3] for row in documented if row[0] == HTTP_REQUEST_DURATION] == [requests]
