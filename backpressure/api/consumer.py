"""The consumer's control API: watch it, slow it down, pause it, change its work while it runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import ConfigDict, Field

from backpressure.api.common import (
    WHOLE,
    Changed,
    RequestBody,
    checked_live,
    create_app,
    public_settings,
    serve_basics,
)
from backpressure.config import replaced
from backpressure.core.histogram import Histogram
from backpressure.engines.consumer import ConsumerEngine
from backpressure.errors import ConfigError
from backpressure.settings import Settings
from backpressure.telemetry.metrics_processes import consumer_registry

__all__ = ["consumer_app"]


class ConfigRequest(RequestBody):
    """Any of these; all are applied, or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"processing_time_ms": 100},
                {"variable_processing": True, "processing_min_ms": 50, "processing_max_ms": 500},
            ]
        },
    )

    processing_time_ms: Annotated[float, Field(gt=0)] | None = Field(None, description="work a message, milliseconds")
    variable_processing: bool | None = Field(None, description="draw it between processing_min_ms and _max_ms")
    processing_min_ms: float | None = None
    processing_max_ms: float | None = None
    rate: float | None = Field(None, description="messages per second one consumer can do")
    prefetch: Annotated[int, WHOLE] | str | None = Field(None, description="unsettled messages at most, or auto")
    settings: dict[str, Any] = Field(default_factory=dict, description="further settings by their dotted names")

    def changes(self, current: Settings) -> dict[str, Any]:
        """Return the dotted settings this asks for; raises `ConfigError` for one that cannot change at run time."""
        if self.processing_time_ms is not None and self.rate is not None:
            raise ConfigError("rate", self.rate, "give rate or processing_time_ms, not both", "request")
        simple = {
            "consumer.rate": 1000 / self.processing_time_ms if self.processing_time_ms is not None else self.rate,
            "consumer.processing_min_ms": self.processing_min_ms,
            "consumer.processing_max_ms": self.processing_max_ms,
            "consumer.prefetch": self.prefetch,
        }
        changes = {key: value for key, value in simple.items() if value is not None}
        if self.variable_processing is not None:
            changes["consumer.distribution"] = "uniform" if self.variable_processing else "fixed"
        elif self.processing_time_ms is not None or (
            self.rate is not None and current.consumer.distribution == "uniform"  # whose mean no rate would change
        ):
            changes["consumer.distribution"] = "fixed"
        return changes | checked_live(self.settings, "consumer")


class SlowDownRequest(RequestBody):
    """How many times longer every message takes; 1 is back to normal."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"factor": 5}]})

    factor: float = Field(gt=0, le=10_000)


def consumer_app(engine: ConsumerEngine) -> FastAPI:
    """Return the control API of ``engine``."""
    app = create_app("Pace Matching: consumer", "Watch the consumer, slow it down, pause it, change its work.")
    serve_basics(app, consumer_registry(engine.report))

    @app.get("/status")
    async def status() -> dict[str, Any]:
        """Everything there is to know about this consumer."""
        return _status(engine)

    @app.post("/admin/config")
    async def configure(request: ConfigRequest) -> Changed:
        """Change settings of the running consumer: all that are named, or none."""
        before = engine.settings
        engine.reconfigure(replaced(before, request.changes(before)))
        if request.processing_time_ms is not None or request.rate is not None:
            engine.slow_down(1.0)  # an explicit speed ends a slow-down, as in the lab's "back to normal"
        return Changed.between(before, engine.settings)

    @app.post("/admin/slow-down")
    async def slow_down(request: SlowDownRequest) -> dict[str, Any]:
        """Make every message take ``factor`` times as long as configured."""
        engine.slow_down(request.factor)
        return {"status": "success", "factor": request.factor, "capacity_per_s": engine.report().capacity_per_s}

    @app.post("/admin/pause")
    async def pause() -> dict[str, str]:
        """Take no more messages until resumed."""
        await engine.pause()
        return {"status": "paused"}

    @app.post("/admin/resume")
    async def resume() -> dict[str, str]:
        """Take messages again."""
        await engine.resume()
        return {"status": "running"}

    return app


def _status(engine: ConsumerEngine) -> dict[str, Any]:
    report = engine.report()
    recent = engine.recent_wait
    return {
        "id": report.id,
        "role": "consumer",
        "state": "paused" if report.paused else "running",
        "queue": {"name": report.queue, "held": report.held, "prefetch": report.prefetch},
        "process": {
            "pid": report.pid,
            "memory_mb": round(report.rss_bytes / 1e6, 1),
            "cpu_percent": engine.cpu_percent,
            "cpu_s": report.cpu_s,
        },
        "rates": {"capacity_per_s": report.capacity_per_s, "slow_down_factor": engine.slow_down_factor},
        "totals": {
            name: getattr(report, name)
            for name in ("delivered", "processed", "failed", "retried", "dead_lettered", "redelivered")
        }
        | {"duplicates": report.duplicates, "out_of_order": report.out_of_order},
        "queue_wait_ms": _percentiles_ms(report.queue_wait),
        "queue_wait_recent_ms": _percentiles_ms(recent.of(report.queue_wait)) | {"window_s": recent.window_s},
        "api_url": report.api_url,
        "config": public_settings(engine.settings),
    }


def _percentiles_ms(durations: Histogram) -> dict[str, float | None]:
    quantiles = {"p50": durations.quantile_s(0.5), "p99": durations.quantile_s(0.99)}
    return {name: None if value is None else round(value * 1000, 3) for name, value in quantiles.items()}
