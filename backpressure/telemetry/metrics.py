"""How metrics are declared and exposed: one line each, read from a report at scrape time.

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

__all__ = [
    "CONTENT_TYPE",
    "HTTP_REQUEST_DURATION",
    "Family",
    "FamilyCollector",
    "RequestMetrics",
    "durations",
    "expose",
    "single",
]

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
