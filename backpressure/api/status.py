"""The status of producer and consumer: ``GET /status``, and the answers to pause and resume."""

from __future__ import annotations

from math import isfinite
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from backpressure.api.common import public_settings
from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.core.signals import SignalQuality
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.producer import ProducerEngine

_Quality = Literal["reported", "counted", "late", "blind"]
_QUALITIES: dict[SignalQuality, _Quality] = {
    SignalQuality.REPORTED: "reported",
    SignalQuality.COUNTED: "counted",
    SignalQuality.LATE: "late",
    SignalQuality.BLIND: "blind",
}
_PROCESS: dict[str, Any] = {"pid": 4711, "memory_mb": 66.2, "cpu_percent": 12.5, "cpu_s": 3.4}
_WAIT: dict[str, Any] = {"p50": 21.5, "p99": 64.0}
_CONFIG: dict[str, Any] = {"producer": {"rate": 1000.0, "strategy": "pace"}}


def _example(totals: type[BaseModel], **counted: int) -> Any:
    return dict.fromkeys(totals.model_fields, 0) | counted


class State(BaseModel):
    """What it does from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "paused"}]})

    status: Literal["running", "paused"]


class ProcessStatus(BaseModel):
    """What the process costs."""

    pid: int
    memory_mb: float
    cpu_percent: float = Field(description="of one processor, lately")
    cpu_s: float

    @classmethod
    def of(cls, report: ProducerReport | ConsumerReport, cpu_percent: float) -> Self:
        """Return its entry in the report."""
        memory_mb = round(report.rss_bytes / 1e6, 1)
        return cls(pid=report.pid, memory_mb=memory_mb, cpu_percent=cpu_percent, cpu_s=report.cpu_s)


class QueueStatus(BaseModel):
    """The queue as the law sees it; null: not known yet."""

    name: str
    mode: str = Field(description="the law")
    size: int | None = Field(description="messages: ready and, where the broker tells, unacked")
    ready: int | None
    max_size: int | None = Field(description="the bound; null: none, as always on Kafka")
    memory_mb: float | None = Field(description="an estimate: size times the bytes of one message now")


class ProducerRates(BaseModel):
    """Messages per second: asked for, allowed by the law (null: as fast as can be), and the law's view of consumers."""

    offered_per_s: float | None
    allowed_per_s: float | None
    bottleneck_per_s: float | None
    unpaced_per_s: float = Field(description="what arrives from producers that nobody paces; 0: none is seen")


class ProducerTotals(BaseModel):
    """Messages since the start."""

    offered: int
    published: int
    confirmed: int
    nacked: int
    rejected: int
    returned: int
    republished: int


class Lateness(BaseModel):
    """How much later than due the control loop ran, since the start; null: it has not run yet."""

    p50: float | None
    p99: float | None


class ProducerStatus(BaseModel):
    """A producer, its queue, and the settings in force."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "alice",
                    "role": "producer",
                    "state": "running",
                    "queue": {
                        "name": "work.queue",
                        "mode": "pace",
                        "size": 12,
                        "ready": 8,
                        "max_size": 10_000,
                        "memory_mb": 0.003,
                    },
                    "process": _PROCESS,
                    "rates": {
                        "offered_per_s": 1000.0,
                        "allowed_per_s": 101.3,
                        "bottleneck_per_s": 100.2,
                        "unpaced_per_s": 0.0,
                    },
                    "totals": _example(ProducerTotals, offered=4000, published=420, confirmed=418),
                    "in_flight": 2,
                    "tick_lateness_ms": {"p50": 0.2, "p99": 1.5},
                    "strategy": "pace",
                    "reason": "holding 12 messages",
                    "signal_quality": "reported",
                    "api_url": "http://127.0.0.1:5000",
                    "config": _CONFIG,
                }
            ]
        }
    )

    id: str
    role: Literal["producer"] = "producer"
    state: Literal["running", "paused", "blocked"]
    queue: QueueStatus
    process: ProcessStatus
    rates: ProducerRates
    totals: ProducerTotals
    in_flight: int
    tick_lateness_ms: Lateness
    strategy: str
    reason: str = Field(description="why the law decided as it did last, and what it misses to know more")
    signal_quality: _Quality | None = Field(
        description="how well the law knows what is in the system: the consumers report, or the broker counts what "
        "they hold, now or some seconds ago, or nothing tells; null: nobody consumes, as far as is known by now"
    )
    api_url: str
    config: dict[str, dict[str, Any]] = Field(description="every setting by its section")

    @classmethod
    def of(cls, engine: ProducerEngine) -> Self:
        """Return the status now."""
        report, reading, depth = engine.report(), engine.queue_reading, engine.depth
        quality = report.signal_quality
        return cls(
            id=report.id,
            state="blocked" if report.blocked else "paused" if engine.paused else "running",
            queue=QueueStatus(
                name=report.queue,
                mode=report.strategy,
                size=depth,
                ready=None if reading is None else reading.ready,
                max_size=engine.settings.queue.max_length,
                memory_mb=None if depth is None else round(depth * engine.message_bytes / 1e6, 3),
            ),
            process=ProcessStatus.of(report, engine.cpu_percent),
            rates=ProducerRates(
                offered_per_s=_finite(report.target_rate_per_s),
                allowed_per_s=_finite(report.pacing_rate_per_s),
                bottleneck_per_s=engine.decision.bottleneck_per_s,
                unpaced_per_s=report.unpaced_per_s or 0.0,
            ),
            totals=ProducerTotals.model_validate(report, from_attributes=True),
            in_flight=report.in_flight,
            tick_lateness_ms=Lateness(**_percentiles_ms(report.tick_lateness)),
            strategy=report.strategy,
            reason=report.reason,
            signal_quality=None if quality is None else _QUALITIES[SignalQuality(quality)],
            api_url=report.api_url,
            config=public_settings(engine.settings),
        )


class HeldStatus(BaseModel):
    """The queue, and what this consumer holds of it."""

    name: str
    held: int
    prefetch: int


class ConsumerRates(BaseModel):
    """What it can do with a full queue (null: unknown), and how many times slower it was asked to be."""

    capacity_per_s: float | None
    slow_down_factor: float


class ConsumerTotals(BaseModel):
    """Messages since the start."""

    delivered: int
    processed: int
    failed: int
    retried: int
    dead_lettered: int
    redelivered: int
    duplicates: int
    out_of_order: int


class Wait(BaseModel):
    """Time in the queue; null: nothing was processed."""

    p50: float | None
    p99: float | None


class RecentWait(Wait):
    """The same over the last seconds."""

    window_s: float


class ConsumerStatus(BaseModel):
    """A consumer, and the settings in force."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "consumer-4711",
                    "role": "consumer",
                    "state": "running",
                    "queue": {"name": "work.queue", "held": 3, "prefetch": 4},
                    "process": _PROCESS,
                    "rates": {"capacity_per_s": 100.0, "slow_down_factor": 1.0},
                    "totals": _example(ConsumerTotals, delivered=403, processed=400),
                    "queue_wait_ms": _WAIT,
                    "queue_wait_recent_ms": _WAIT | {"window_s": 10.0},
                    "api_url": "http://127.0.0.1:8001",
                    "config": _CONFIG,
                }
            ]
        }
    )

    id: str
    role: Literal["consumer"] = "consumer"
    state: Literal["running", "paused"]
    queue: HeldStatus
    process: ProcessStatus
    rates: ConsumerRates
    totals: ConsumerTotals
    queue_wait_ms: Wait
    queue_wait_recent_ms: RecentWait
    api_url: str
    config: dict[str, dict[str, Any]] = Field(description="every setting by its section")

    @classmethod
    def of(cls, engine: ConsumerEngine) -> Self:
        """Return the status now."""
        report, recent = engine.report(), engine.recent_wait
        return cls(
            id=report.id,
            state="paused" if report.paused else "running",
            queue=HeldStatus(name=report.queue, held=report.held, prefetch=report.prefetch),
            process=ProcessStatus.of(report, engine.cpu_percent),
            rates=ConsumerRates(capacity_per_s=report.capacity_per_s, slow_down_factor=engine.slow_down_factor),
            totals=ConsumerTotals.model_validate(report, from_attributes=True),
            queue_wait_ms=Wait(**_percentiles_ms(report.queue_wait)),
            queue_wait_recent_ms=RecentWait(**_percentiles_ms(recent.of(report.queue_wait)), window_s=recent.window_s),
            api_url=report.api_url,
            config=public_settings(engine.settings),
        )


def _finite(rate_per_s: float) -> float | None:
    return rate_per_s if isfinite(rate_per_s) else None


def _percentiles_ms(durations: Histogram) -> dict[str, Any]:
    quantiles = {"p50": durations.quantile_s(0.5), "p99": durations.quantile_s(0.99)}
    return {name: None if value is None else round(value * 1000, 3) for name, value in quantiles.items()}
