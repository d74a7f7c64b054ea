"""Prometheus metrics of limiters: read when they are asked for, so they cost nothing otherwise.

What the producer of this project shows too has the same name (`docs/metrics.md`). A label names the queue.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Protocol
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backpressure.integrations.limiter import PaceStatus

__all__ = ["METRICS", "register_metrics"]

METRICS = {
    "pace_messages_published_total": ("sent", "Messages that were allowed to go, each attempt counted."),
    "messages_produced_total": ("confirmed", "Messages that the broker confirmed."),
    "pace_nacks_total": ("refused", "Refusals by the broker, retried messages included."),
    "pace_messages_shed_total": ("shed", "Messages not sent, because nothing was allowed to go in time."),
    "pace_waited_seconds_total": ("waited_s", "Time that callers have waited to send, added up."),
    "pace_allowed_rate_per_second": ("rate_per_s", "Pace that the law allows."),
    "pace_bottleneck_rate_per_second": (
        "bottleneck_per_s",
        "What the law takes for the rate of all consumers together; absent: it has no estimate.",
    ),
    "pace_unpaced_arrivals_per_second": (
        "unpaced_per_s",
        "What arrives in the queue from producers that nobody paces; 0: nothing, or too little to be certain of.",
    ),
    "pace_in_flight_messages": ("in_flight", "Messages sent and not yet confirmed."),
    "pace_waiting_callers": ("waiting", "Callers who wait to send."),
    "pace_queue_ready_messages": ("ready", "Messages waiting in the queue, by the last reading."),
    "pace_blocked": ("blocked", "1 while the broker blocks publishing (an alarm), else 0."),
}
"""Metric → the attribute of `PaceStatus`, and what it says."""


class HasStatus(Protocol):
    """A `Limiter`, `Paced` or `SyncPaced`."""

    def status(self) -> PaceStatus:
        """Return how the queue is paced at this moment."""


class _LimiterCollector(Collector):
    """Shows every limiter of one registry, as long as it exists."""

    def __init__(self) -> None:
        self.limiters: WeakKeyDictionary[HasStatus, None] = WeakKeyDictionary()

    def describe(self) -> Iterable[Metric]:
        """Return the names, so that the registry refuses a second metric of the same name."""
        return self._families([])

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        return self._families([limiter.status() for limiter in list(self.limiters)])

    @staticmethod
    def _families(statuses: Iterable[PaceStatus]) -> Iterator[Metric]:
        for name, (attribute, text) in METRICS.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, text, labels=["queue"])
            for status in statuses:
                if (value := getattr(status, attribute)) is not None:
                    family.add_metric([status.queue], float(value))
            yield family


_collectors: WeakKeyDictionary[CollectorRegistry, _LimiterCollector] = WeakKeyDictionary()
_guard = threading.Lock()


def register_metrics(limiter: HasStatus, registry: CollectorRegistry = REGISTRY) -> None:
    """Show ``limiter`` (a `Limiter`, `Paced` or `SyncPaced`) in ``registry`` until nobody uses it any more."""
    with _guard:
        collector = _collectors.get(registry)
        if collector is None:
            collector = _LimiterCollector()
            registry.register(collector)
            _collectors[registry] = collector
        collector.limiters[limiter] = None
