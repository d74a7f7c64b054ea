"""The consumer's control API: watch it, slow it down, pause it, change its work while it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from backpressure.api.common import (
    WHOLE,
    Change,
    Changed,
    RequestBody,
    checked_live,
    create_app,
    named_as_sent,
    serve_basics,
)
from backpressure.api.status import ConsumerStatus, State
from backpressure.config import replaced
from backpressure.engines.consumer import ConsumerEngine
from backpressure.errors import ConfigError
from backpressure.settings import Settings
from backpressure.telemetry.metrics import consumer_registry

_SETTINGS = {
    "processing_time_ms": "consumer.rate",
    "rate": "consumer.rate",
    "processing_min_ms": "consumer.processing_min_ms",
    "processing_max_ms": "consumer.processing_max_ms",
    "prefetch": "consumer.prefetch",
}


class ConsumerConfigRequest(RequestBody):
    """Any of these; all are applied, or none."""

    __qualname__ = "ConfigRequest"  # its name in the OpenAPI document
    model_config = ConfigDict(
        title="ConfigRequest",
        json_schema_extra={
            "examples": [
                {"processing_time_ms": 100},
                {"variable_processing": True, "processing_min_ms": 50, "processing_max_ms": 500},
            ]
        },
    )

    processing_time_ms: Annotated[float, Field(ge=0.001)] | None = Field(
        None, description="work a message, milliseconds"
    )
    variable_processing: bool | None = Field(None, description="draw it between processing_min_ms and _max_ms")
    processing_min_ms: float | None = None
    processing_max_ms: float | None = None
    rate: float | Literal["max"] | None = Field(
        None, description="messages per second one consumer can do; 0 or max: as fast as can be"
    )
    prefetch: Annotated[int, WHOLE] | str | None = Field(None, description="unsettled messages at most, or auto")
    settings: dict[str, Any] = Field(default_factory=dict, description="further settings by their dotted names")

    def sent(self) -> dict[str, str]:
        """Return the fields that are given, by the dotted names of the settings they stand for."""
        return {key: name for name, key in _SETTINGS.items() if getattr(self, name) is not None}

    def changes(self, current: Settings) -> dict[str, Any]:
        """Return the dotted settings this asks for; raises `ConfigError` for one that cannot change at run time."""
        if self.processing_time_ms is not None and self.rate is not None:
            raise ConfigError("rate", self.rate, "give rate or processing_time_ms, not both", "request")
        changes = {key: getattr(self, name) for key, name in self.sent().items()}
        if self.processing_time_ms is not None:
            changes["consumer.rate"] = 1000 / self.processing_time_ms
        if self.variable_processing is not None:
            changes["consumer.distribution"] = "uniform" if self.variable_processing else "fixed"
        elif self.processing_time_ms is not None or (
            self.rate is not None and current.consumer.distribution == "uniform"  # a rate would not change its mean
        ):
            changes["consumer.distribution"] = "fixed"
        return changes | checked_live(self.settings, "consumer")


class SlowDownRequest(RequestBody):
    """How many times longer every message takes; 1 is back to normal."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"factor": 5}]})

    factor: float = Field(gt=0, le=10_000)


class SlowedDown(BaseModel):
    """The factor in force, and what the consumer can do with it (null: unknown)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "success", "factor": 5.0, "capacity_per_s": 20.0}]}
    )

    status: Literal["success"] = "success"
    factor: float
    capacity_per_s: float | None


def consumer_app(engine: ConsumerEngine) -> FastAPI:
    """Return the control API of ``engine``."""
    app = create_app("Pace Matching: consumer", "Watch the consumer, slow it down, pause it, change its work.")

    async def obstacle() -> str:
        return engine.obstacle

    serve_basics(app, consumer_registry(engine.report), obstacle)

    @app.get("/status")
    async def status() -> ConsumerStatus:
        """Everything there is to know about this consumer."""
        return ConsumerStatus.of(engine)

    @app.post("/admin/config")
    async def configure(request: ConsumerConfigRequest) -> Changed:
        """Change settings of the running consumer: all that are named, or none."""
        before, factor = engine.settings, engine.slow_down_factor
        with named_as_sent(request, request.sent()):
            engine.reconfigure(replaced(before, request.changes(before)))
        if request.processing_time_ms is not None or request.rate is not None:
            engine.slow_down(1.0)  # an explicit speed ends a slow-down, as in the lab's "back to normal"
        answer = Changed.between(before, engine.settings)
        if engine.slow_down_factor != factor:
            answer.changed["slow_down_factor"] = Change(old=factor, new=engine.slow_down_factor)
        return answer

    @app.post("/admin/slow-down")
    async def slow_down(request: SlowDownRequest) -> SlowedDown:
        """Make every message take ``factor`` times as long as configured."""
        engine.slow_down(request.factor)
        return SlowedDown(factor=request.factor, capacity_per_s=engine.report().capacity_per_s)

    @app.post("/admin/pause")
    async def pause() -> State:
        """Take no more messages until resumed."""
        await engine.pause()
        return State(status="paused")

    @app.post("/admin/resume")
    async def resume() -> State:
        """Take messages again."""
        await engine.resume()
        return State(status="running")

    return app
