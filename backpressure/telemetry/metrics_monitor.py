"""The monitor's metrics: queues, and the loop as a whole, read from one snapshot a scrape.

What is summed over all processes is named ``pace_observed_…``: producers and consumers expose the same facts about
themselves under other names, so that a sum over jobs never counts a message twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

from prometheus_client import CollectorRegistry

from backpressure.core.reports import ProducerReport
from backpressure.core.snapshot import (
    BrokerState,
    EventKind,
    Outlook,
    ProcessState,
    QueueState,
    Rates,
    Snapshot,
    Totals,
)
from backpressure.telemetry.metrics import Family, FamilyCollector, Sample, durations, single
from backpressure.telemetry.own_process import ProcessCost

_STAGES = tuple(spec.name for spec in fields(Totals) if spec.name != "blocked_events")
_PRODUCED = {spec.name for spec in fields(ProducerReport)}
_MOST_PROCESSES = 64  # reports with ever new names must not add labels without limit
_MOST_TERMS = 256  # likewise for consumers with ever other limits
_MOST_PARTITIONS = 64  # a topic may have ten thousand partitions: too many time series


def _by_queue(name: str, text: str, read: Callable[[QueueState], float | None]) -> Family[Snapshot]:
    return Family(name, text, lambda s: [((q.name,), read(q)) for q in s.queues.values()], ("queue",))


def _by_outlook(name: str, text: str, read: Callable[[Outlook], float | None]) -> Family[Snapshot]:
    return _by_queue(name, text, lambda q: None if q.outlook is None else read(q.outlook))


def _terms(seen: Snapshot) -> Iterable[Sample]:
    counts = Counter(
        (client.queue, "manual" if client.ack_required else "automatic", str(client.prefetch or "unlimited"))
        for queue in seen.observed
        for client in seen.clients_of(queue.name)
    )
    return counts.items() if len(counts) <= _MOST_TERMS else ()


def _of_broker(name: str, text: str, read: Callable[[BrokerState], float | None]) -> Family[Snapshot]:
    return single(name, text, lambda s: None if s.broker is None else read(s.broker))


def _lags(seen: Snapshot) -> Iterable[Sample]:
    return [
        ((queue.name, str(partition)), lag)
        for queue in seen.queues.values()
        if len(queue.lag_by_partition) <= _MOST_PARTITIONS
        for partition, lag in enumerate(queue.lag_by_partition)
    ]


def _totals(seen: Snapshot) -> Iterable[Sample]:
    # A 0 before the first report would make everything counted until then look new, each time a monitor starts again.
    produced, consumed = seen.rates.offered_per_s is not None, seen.rates.delivered_per_s is not None
    return [((name,), getattr(seen.totals, name)) for name in _STAGES if (produced if name in _PRODUCED else consumed)]


def _rates(seen: Snapshot) -> Iterable[Sample]:
    return [((spec.name.removesuffix("_per_s"),), getattr(seen.rates, spec.name)) for spec in fields(Rates)]


def _by_process(seen: Snapshot, read: Callable[[ProcessState], float | None]) -> Iterable[Sample]:
    # Two producers of one user have the same id: their sum is one series.
    sums: dict[tuple[str, str], float] = {}
    for process in seen.processes:
        if (value := read(process)) is not None:
            key = (process.role, process.id)
            sums[key] = sums.get(key, 0.0) + value
    return sums.items() if len(sums) <= _MOST_PROCESSES else ()


def _breached(seen: Snapshot) -> Iterable[Sample]:
    return [((t.name.replace(" ", "_"),), None if t.value is None else t.breached) for t in seen.thresholds]


def _alarms(seen: Snapshot) -> Iterable[Sample]:
    broker = seen.broker
    return [] if broker is None else [(("memory",), broker.memory_alarm), (("disk",), broker.disk_alarm)]


MONITOR_METRICS: Sequence[Family[Snapshot]] = (
    _by_queue("pace_queue_messages", "Depth: ready plus unacked, as far as known.", lambda q: q.depth),
    _by_queue("pace_queue_ready_messages", "Messages waiting in the broker.", lambda q: q.ready),
    _by_queue(
        "pace_queue_unacked_messages", "Messages delivered and not settled; absent: unknown.", lambda q: q.unacked
    ),
    Family(
        "pace_queue_partition_lag_messages",
        f"Kafka: messages not settled in each partition; absent for topics of more than {_MOST_PARTITIONS}.",
        _lags,
        ("queue", "partition"),
    ),
    _by_queue(
        "pace_queue_worst_partition_lag_messages",
        "Kafka: the same in the partition that is furthest behind.",
        lambda q: max(q.lag_by_partition, default=None),
    ),
    _by_queue("pace_queue_consumers", "Consumers of the queue.", lambda q: q.consumers),
    _by_queue("pace_queue_publish_rate_per_second", "Messages entering the queue.", lambda q: q.published_per_s),
    _by_queue("pace_queue_deliver_rate_per_second", "Messages handed to consumers.", lambda q: q.delivered_per_s),
    _by_queue("pace_queue_ack_rate_per_second", "Messages settled by consumers.", lambda q: q.acked_per_s),
    _by_queue("pace_queue_memory_bytes", "Memory of the queue; needs the management API.", lambda q: q.memory_bytes),
    _by_queue("pace_queue_reading_age_seconds", "Age of the counts.", lambda q: q.age_s),
    _by_queue(
        "pace_queue_max_length_messages", "Bound of the queue; absent: none, or not known.", lambda q: q.max_length
    ),
    _by_outlook(
        "pace_queue_growth_per_second",
        "Growth of ready and unacked messages together, 0 if it may be noise; of watched queues.",
        lambda o: o.growth_per_s,
    ),
    _by_outlook(
        "pace_queue_expected_wait_seconds",
        "Wait of a message sent now: backlog ÷ departure rate, +Inf while none leaves; of watched queues.",
        lambda o: o.wait_s,
    ),
    _by_outlook(
        "pace_queue_full_in_seconds", "Time until the bound at this growth; absent: not growing.", lambda o: o.full_in_s
    ),
    _by_outlook(
        "pace_queue_empty_in_seconds", "Time until it is empty; absent: not shrinking.", lambda o: o.empty_in_s
    ),
    _by_outlook(
        "pace_queue_statistics_age_seconds",
        "How old rates and unacked messages may be; absent: fresh.",
        lambda o: o.statistics_age_s,
    ),
    Family(
        "pace_queue_consumer_terms",
        f"Consumers of watched queues by terms; absent for more than {_MOST_TERMS} combinations.",
        _terms,
        ("queue", "ack", "prefetch"),
    ),
    Family(
        "pace_work_queue_info",
        "The queue the work goes through, the deepest of several; always 1.",
        lambda s: [((s.work_queue,), 1)],
        ("queue",),
    ),
    Family(
        "pace_observed_messages_total",
        "Messages counted by all processes ever seen, by what happened to them; absent while none of the role was.",
        _totals,
        ("stage",),
    ),
    Family(
        "pace_observed_rate_per_second",
        "The same over about the last second; absent while no process of the role was seen.",
        _rates,
        ("stage",),
    ),
    durations("pace_observed_queue_wait_seconds", "Queue wait over all consumers.", lambda s: s.queue_wait_ever),
    durations("pace_observed_service_seconds", "Time the work took, over all consumers.", lambda s: s.service_ever),
    durations(
        "pace_observed_confirm_latency_seconds",
        "Time from sending to confirm, over all producers.",
        lambda s: s.confirm_latency_ever,
    ),
    single("pace_observed_target_rate_per_second", "Offered load of all producers.", lambda s: s.target_rate_per_s),
    single("pace_observed_allowed_rate_per_second", "What all laws together allow.", lambda s: s.pacing_rate_per_s),
    single(
        "pace_observed_bottleneck_rate_per_second",
        "What the consumers can do: reported, else the departure rate while messages wait; absent: unknown.",
        lambda s: s.bottleneck_per_s,
    ),
    single(
        "pace_observed_blocked_producers",
        "Producers that the broker blocks.",
        lambda s: sum(producer.blocked for producer in s.producers),
    ),
    Family(
        "pace_observed_processes",
        "Live processes.",
        lambda s: [(("producer",), len(s.producers)), (("consumer",), len(s.consumers))],
        ("role",),
    ),
    Family(
        "pace_observed_process_resident_memory_bytes",
        f"Memory of each live process; absent for more than {_MOST_PROCESSES}.",
        lambda s: _by_process(s, lambda process: process.rss_bytes),
        ("role", "id"),
    ),
    Family(
        "pace_observed_process_cpu_ratio",
        f"Share of one core that each live process used lately; absent for more than {_MOST_PROCESSES}.",
        lambda s: _by_process(s, lambda process: process.cpu_share),
        ("role", "id"),
    ),
    Family(
        "pace_events_total",
        "Back-pressure events since the monitor started.",
        lambda s: [((kind.value,), s.event_counts.get(kind, 0)) for kind in EventKind],
        ("kind",),
    ),
    Family(
        "pace_threshold_breached",
        "1 while the value is above its limit in the settings, else 0; absent while it is unknown.",
        _breached,
        ("threshold",),
    ),
    Family(
        "pace_source_up",
        "1 while broker and management API answer the monitor, else 0.",
        lambda s: [((source.name,), source.ok) for source in s.sources],
        ("source",),
    ),
    single("pace_unreadable_reports_total", "Feedback ignored as unreadable.", lambda s: s.unreadable_reports),
    _of_broker("pace_broker_memory_bytes", "Memory the broker uses.", lambda b: b.memory_bytes),
    _of_broker(
        "pace_broker_memory_limit_bytes", "Memory at which it blocks publishers.", lambda b: b.memory_limit_bytes
    ),
    _of_broker("pace_broker_connections", "Client connections.", lambda b: len(b.connections)),
    Family("pace_broker_alarm", "1 while the broker's alarm is on, else 0.", _alarms, ("alarm",)),
)


MONITOR_COST_METRICS: Sequence[Family[ProcessCost]] = (
    single("pace_process_resident_memory_bytes", "Memory of this process.", lambda cost: cost.rss_bytes),
    single("pace_process_cpu_seconds_total", "Processor time of this process.", lambda cost: cost.cpu_s),
)


def monitor_registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """Return a registry that takes one ``snapshot`` a scrape, and what that costs."""
    cost = ProcessCost()

    def refreshed() -> ProcessCost:
        cost.refresh(time.monotonic())
        return cost

    registry = CollectorRegistry()
    registry.register(FamilyCollector(MONITOR_METRICS, snapshot))
    registry.register(FamilyCollector(MONITOR_COST_METRICS, refreshed))
    return registry
