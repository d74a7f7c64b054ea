"""The metrics of producer and consumer, and how metrics are declared and exposed: one line each.

Every process has a registry of its own, so several can live in one interpreter. Nothing is counted for the sake of
metrics alone: the engines keep counters and histograms anyway, and a collector reads them at scrape time, so watching
costs the hot path nothing. The one exception is the duration of HTTP requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from backpressure.core.histogram import BUCKETS_PER_OCTAVE, Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

S = TypeVar("S")
Value = float | Histogram | None
Sample = tuple[tuple[str, ...], Value]

# 64 µs … 537 s: the default bound, 10 000 messages, is a wait of 100 s already. Whole octaves, so that cumulative
# counts are exact.
_OCTAVES = range(6, 30)


@dataclass(frozen=True, slots=True)
class Family(Generic[S]):
    """One metric: ``samples`` reads label values and numbers out of a source; a value of None is left out."""

    name: str
    help: str
    samples: Callable[[S], Iterable[Sample]]
    labels: tuple[str, ...] = ()
    durations: bool = False

    @property
    def kind(self) -> str:
        """Prometheus' type: a histogram of ``durations``, a counter named ``…_total``, else a gauge."""
        return "histogram" if self.durations else "counter" if self.name.endswith("_total") else "gauge"

    def empty(self) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
        """Return the metric without samples."""
        match self.kind:
            case "histogram":
                return HistogramMetricFamily(self.name, self.help, labels=self.labels)
            case "counter":
                return CounterMetricFamily(self.name, self.help, labels=self.labels)
            case _:
                return GaugeMetricFamily(self.name, self.help, labels=self.labels)

    def read(self, source: S) -> Metric:
        """Return the metric with the samples of ``source``."""
        metric = self.empty()
        for labels, value in self.samples(source):
            if value is None:
                continue
            if isinstance(metric, HistogramMetricFamily):
                assert isinstance(value, Histogram)
                metric.add_metric(labels, _buckets(value), value.sum_s)
            else:
                assert not isinstance(value, Histogram)
                metric.add_metric(labels, value)
        return metric


def single(name: str, text: str, read: Callable[[S], float | None]) -> Family[S]:
    """Return a counter or gauge without labels."""
    return Family(name, text, lambda source: [((), read(source))])


def durations(name: str, text: str, read: Callable[[S], Histogram | None]) -> Family[S]:
    """Return a histogram in seconds without labels."""
    return Family(name, text, lambda source: [((), read(source))], durations=True)


class FamilyCollector(Collector, Generic[S]):
    """Reads all ``families`` from one view of ``source``, taken at each scrape."""

    def __init__(self, families: Sequence[Family[S]], source: Callable[[], S]) -> None:
        self._families = families
        self._source = source

    def describe(self) -> Iterator[Metric]:
        """Name the metrics, so that a registry can refuse duplicates without reading them."""
        for family in self._families:
            yield family.empty()

    def collect(self) -> Iterator[Metric]:
        """Read them."""
        source = self._source()
        for family in self._families:
            yield family.read(source)


HTTP_REQUEST_DURATION = "http_request_duration_seconds"


class RequestMetrics:
    """Durations of HTTP requests by method, endpoint and status.

    The endpoint is the *route* (``/queues/{name}``, never the requested path), so clients cannot add labels.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        histogram = PrometheusHistogram(
            HTTP_REQUEST_DURATION,
            "Time from receiving an HTTP request to answering it.",
            ("method", "endpoint", "status"),
            registry=registry,
        )
        self._child = lru_cache(maxsize=1000)(histogram.labels)

    def observe(self, method: str, endpoint: str, status: int, duration_s: float) -> None:
        """Count one request."""
        self._child(method, endpoint, str(status)).observe(duration_s)


def expose(registry: CollectorRegistry) -> bytes:
    """Return the registry as Prometheus text, of type `CONTENT_TYPE`."""
    return generate_latest(registry)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    by_octave: dict[int, int] = {}
    for bucket, count in histogram.counts.items():
        octave = bucket // BUCKETS_PER_OCTAVE
        by_octave[octave] = by_octave.get(octave, 0) + count
    below = sum(count for octave, count in by_octave.items() if octave < _OCTAVES[0])
    cumulative = []
    for octave in _OCTAVES:
        cumulative.append((str(round(2**octave * 1e-6, 6)), float(below)))
        below += by_octave.get(octave, 0)
    return [*cumulative, ("+Inf", float(histogram.total))]


PRODUCER_METRICS: Sequence[Family[ProducerReport]] = (
    single("messages_produced_total", "Messages that the broker confirmed.", lambda r: r.confirmed),
    single("pace_messages_offered_total", "Messages that the schedule asked for.", lambda r: r.offered),
    single("pace_messages_published_total", "Messages sent, each counted once.", lambda r: r.published),
    single("pace_messages_republished_total", "Messages sent again, after a nack or a loss.", lambda r: r.republished),
    single("pace_nacks_total", "Refusals by the broker, retried messages included.", lambda r: r.nacked),
    single("pace_messages_rejected_total", "Messages given up after a refusal.", lambda r: r.rejected),
    single("pace_messages_returned_total", "Messages that no queue was bound for.", lambda r: r.returned),
    single("pace_blocked_periods_total", "Times the broker blocked publishing.", lambda r: r.blocked_events),
    single("pace_blocked", "1 while the broker blocks publishing (an alarm), else 0.", lambda r: r.blocked),
    single("pace_application_limited", "1 while less is offered than the law allows.", lambda r: r.application_limited),
    single("pace_in_flight_messages", "Messages sent and not yet confirmed.", lambda r: r.in_flight),
    single("pace_confirm_window_messages", "The most that may be in flight.", lambda r: r.window),
    single("pace_target_rate_per_second", "Offered load, messages per second.", lambda r: r.target_rate_per_s),
    single(
        "pace_allowed_rate_per_second",
        "Pace that the law allows, at most the offered load.",
        lambda r: r.pacing_rate_per_s,
    ),
    single(
        "pace_bottleneck_rate_per_second",
        "What the law takes for the rate of all consumers together; absent: it has no estimate.",
        lambda r: r.bottleneck_per_s,
    ),
    single(
        "pace_signal_age_seconds",
        "Age of what the law knew of the consumers when it last decided; absent: it knows nothing.",
        lambda r: r.signal_age_s,
    ),
    single(
        "pace_signal_quality",
        "How well the law sees what is in the system: 3 by reports, 2 by counts, 1 by late counts, 0 not; absent: "
        "nobody consumes.",
        lambda r: r.signal_quality,
    ),
    single(
        "pace_unpaced_arrivals_per_second",
        "What arrives in the queue from producers that nobody paces; 0: nothing, or too little to be certain of.",
        lambda r: r.unpaced_per_s,
    ),
    durations(
        "pace_rate_limiter_delay_seconds",
        "Time for which the law held a message back: from its arrival on the schedule until it was allowed to go.",
        lambda r: r.limiter_delay,
    ),
    durations(
        "pace_tick_lateness_seconds",
        "How much later than due the control loop ran: what a busy process, or a slow answer to its probe, costs it.",
        lambda r: r.tick_lateness,
    ),
    durations(
        "pace_confirm_latency_seconds",
        "Time from sending a message to its confirm.",
        lambda r: r.confirm_latency,
    ),
    Family("pace_law_info", "The rate-control law in force; always 1.", lambda r: [((r.strategy,), 1)], ("law",)),
    single("pace_process_resident_memory_bytes", "Memory of this process.", lambda r: r.rss_bytes),
    single("pace_process_cpu_seconds_total", "Processor time of this process.", lambda r: r.cpu_s),
)

CONSUMER_METRICS: Sequence[Family[ConsumerReport]] = (
    single("messages_consumed_total", "Messages processed and acknowledged.", lambda r: r.processed),
    durations("message_processing_duration_seconds", "Time a message's work took.", lambda r: r.service),
    single("message_processing_errors_total", "Attempts at processing that failed.", lambda r: r.failed),
    single("pace_messages_delivered_total", "Messages received from the broker.", lambda r: r.delivered),
    single("pace_messages_retried_total", "Messages tried again after a failure.", lambda r: r.retried),
    single(
        "pace_messages_dead_lettered_total", "Messages given up after their last attempt.", lambda r: r.dead_lettered
    ),
    single("pace_messages_redelivered_total", "Messages that the broker delivered again.", lambda r: r.redelivered),
    single("pace_messages_duplicate_total", "Messages seen before, by id.", lambda r: r.duplicates),
    single("pace_messages_out_of_order_total", "Messages older than one already seen.", lambda r: r.out_of_order),
    single("pace_unacked_messages", "Messages delivered to this consumer and not yet settled.", lambda r: r.held),
    single("pace_prefetch_messages", "The most that may be unsettled.", lambda r: r.prefetch),
    single("pace_paused", "1 while the consumer is paused, else 0.", lambda r: r.paused),
    single(
        "pace_capacity_rate_per_second",
        "Rate this consumer would reach with a full queue; absent where unknown.",
        lambda r: r.capacity_per_s,
    ),
    single("pace_busy_seconds_total", "Time spent working.", lambda r: r.busy_s),
    durations(
        "pace_queue_wait_seconds",
        "Age of a message when its work starts: time since it was sent, the prefetch buffer included.",
        lambda r: r.queue_wait,
    ),
    durations(
        "pace_message_age_seconds",
        "Age of a message when its work starts, from the time it was meant to be sent; a foreign message has none.",
        lambda r: r.message_age,
    ),
    single("pace_process_resident_memory_bytes", "Memory of this process.", lambda r: r.rss_bytes),
    single("pace_process_cpu_seconds_total", "Processor time of this process.", lambda r: r.cpu_s),
)


def producer_registry(report: Callable[[], ProducerReport]) -> CollectorRegistry:
    """Return a registry that reads ``report`` at each scrape."""
    registry = CollectorRegistry()
    registry.register(FamilyCollector(PRODUCER_METRICS, report))
    return registry


def consumer_registry(report: Callable[[], ConsumerReport]) -> CollectorRegistry:
    """Return a registry that reads ``report`` at each scrape."""
    registry = CollectorRegistry()
    registry.register(FamilyCollector(CONSUMER_METRICS, report))
    return registry
