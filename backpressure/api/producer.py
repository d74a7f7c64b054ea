"""The producer's control API: send messages on request, watch it, and change its pace while it runs.

A request to send is answered only after the broker has confirmed; what the broker would not take is an error, never a
silent loss: 429 when the bounded queue is full, 413 and 422 when no broker would take such a message, 503 when this one
is away.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, HTTPException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
from backpressure.core.controllers import law_names
from backpressure.core.journal import Outcome
from backpressure.engines.outbox import Settlement
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import ConfigError
from backpressure.settings import Settings
from backpressure.telemetry.metrics_processes import producer_registry
from backpressure.transports.base import Cause

__all__ = ["producer_app"]

Responses = dict[int | str, dict[str, Any]]
_DEFAULT_BOUND = 10_000
_MOST_AT_ONCE = 10_000  # an answer within a few seconds: clients give up waiting
_FOR_GOOD = {Cause.TOO_LARGE, Cause.FORBIDDEN}  # to try again is no use
_MOST_IDS = 100
_MOST_ID_BYTES = 255  # a short string of AMQP 0-9-1


def _short(text: str) -> str:
    if len(text.encode()) > _MOST_ID_BYTES:
        raise ValueError(f"takes more than {_MOST_ID_BYTES} bytes")
    return text


TraceParent = Annotated[str | None, Header(description="the caller's trace (W3C), which the messages carry on")]
_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
MessageId = Annotated[str, Field(min_length=1, max_length=_MOST_ID_BYTES), AfterValidator(_short)]


class ProduceRequest(RequestBody):
    """One message, or a burst of ``count`` generated ones."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "order-1", "payload": "Hello", "processing_time": 0.05}, {"count": 1000}]
        },
    )

    id: MessageId | None = Field(None, description="message id; ours if absent")
    payload: Any = Field(None, description="text, or any JSON value, which is sent as JSON")
    processing_time: Annotated[float, Field(ge=0, le=3600)] | None = Field(None, description="work asked for, seconds")
    count: Annotated[int, Field(ge=1, le=_MOST_AT_ONCE), WHOLE] | None = Field(
        None, description="send this many at once"
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> ProduceRequest:
        if self.count is None and self.payload is None:
            raise ValueError("needs either payload (one message) or count (a burst)")
        if self.count is not None and (self.payload is not None or self.id is not None):
            raise ValueError("count stands alone: a burst is made of generated messages")
        return self


class Item(BaseModel):
    """One message of a batch."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: MessageId | None = None
    payload: Any
    processing_time: Annotated[float, Field(ge=0, le=3600)] | None = None


class BatchRequest(RequestBody):
    """Several messages."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"id": "a", "payload": "one"}, {"id": "b", "payload": "two"}]}]},
    )

    messages: list[Item] = Field(min_length=1, max_length=_MOST_AT_ONCE)


class ConfigRequest(RequestBody):
    """Any of these; all are applied, or none."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queue_mode": "bounded", "max_queue_size": 100}, {"production_rate": 50}]},
    )

    queue_mode: str | None = Field(
        None, description="unbounded, bounded, rate_limited, or the name of any law; no path"
    )
    max_queue_size: Annotated[int, WHOLE] | None = Field(None, description="bound of the queue, messages")
    rate_limit: float | None = Field(None, description="pace of the mode rate_limited, msg/s")
    production_rate: float | None = Field(None, description="offered load, msg/s")
    target_wait_ms: float | None = Field(None, description="queue wait the law aims for")
    reduction_factor: float | None = Field(None, description="threshold: multiply the rate by this under pressure")
    floor_per_s: float | None = Field(None, description="never slower than this, msg/s")
    ceiling_per_s: float | None = Field(None, description="never faster than this, msg/s")
    depth_threshold: Annotated[int, WHOLE] | None = Field(
        None, description="threshold: a deeper queue counts as pressure"
    )
    parameters: dict[str, dict[str, float]] | None = Field(None, description="per law, its own parameters")
    settings: dict[str, Any] = Field(default_factory=dict, description="further settings by their dotted names")

    def changes(self, current: Settings) -> dict[str, Any]:
        """Return the dotted settings this asks for; raises `ConfigError` for one that cannot change at run time."""
        simple = {
            "queue.max_length": self.max_queue_size,
            "control.rate_limit": self.rate_limit,
            "producer.rate": self.production_rate,
            "control.target_wait_ms": self.target_wait_ms,
            "control.reduction_factor": self.reduction_factor,
            "control.floor_per_s": self.floor_per_s,
            "control.ceiling_per_s": self.ceiling_per_s,
            "control.depth_threshold": self.depth_threshold,
            "control.parameters": self.parameters,
        }
        changes = {key: value for key, value in simple.items() if value is not None}
        if self.queue_mode is not None:
            changes = self._mode(current) | changes
        return changes | checked_live(self.settings, "producer")

    def _mode(self, current: Settings) -> dict[str, Any]:
        mode: dict[str, Any] = {"producer.strategy": self.queue_mode}
        if self.queue_mode == "unbounded":
            mode["queue.max_length"] = None
        elif self.queue_mode == "bounded":
            mode |= {"queue.max_length": current.queue.max_length or _DEFAULT_BOUND, "queue.overflow": "reject-publish"}
        return mode


class Produced(BaseModel):
    """The broker has it."""

    status: Literal["success"] = "success"
    message_id: str
    timestamp: datetime


class BatchProduced(BaseModel):
    """The broker has all of them."""

    status: Literal["success"] = "success"
    messages_produced: int


class NotTaken(BaseModel):
    """What the broker took, and the ids of what it did not, or may not have: a hundred of each at most."""

    message: str
    messages_produced: int
    refused: list[str] = Field(description="not in the queue")
    unconfirmed: list[str] = Field(
        description="perhaps in the queue, or on the way: who sends them again may double them"
    )


def producer_app(engine: ProducerEngine) -> FastAPI:
    """Return the control API of ``engine``."""
    app = create_app("Pace Matching: producer", "Send messages, watch the producer and change its pace while it runs.")
    serve_basics(app, producer_registry(engine.report))
    laws = (*law_names(), engine.settings.producer.strategy)
    one_at_a_time = asyncio.Lock()  # a request changes the settings that the one before it left
    away: Responses = {503: {"description": "the broker is away or blocks publishing"}}
    full: Responses = {429: {"description": "the bounded queue is full; try again after Retry-After seconds"}}
    fixed: Responses = {409: {"description": "the bound of the live queue cannot be changed"}}

    @app.post("/produce", responses={**away, **full})
    async def produce(request: ProduceRequest, traceparent: TraceParent = None) -> Produced | BatchProduced:
        """Send one message (or a burst) and answer when the broker has confirmed."""
        if request.count is not None:
            body = engine.body
            messages = [(None, body, request.processing_time)] * request.count
            settlements = await engine.submit(messages, traceparent=_valid(traceparent))
            _require_confirmed(settlements)
            return BatchProduced(messages_produced=len(settlements))
        message = (request.id, _encoded(request.payload), request.processing_time)
        [settlement] = await engine.submit([message], traceparent=_valid(traceparent))
        _require_confirmed([settlement])
        return Produced(message_id=settlement.message_id, timestamp=datetime.now(UTC))

    @app.post("/batch-produce", responses={**away, **full})
    async def batch_produce(request: BatchRequest, traceparent: TraceParent = None) -> BatchProduced:
        """Send several messages and answer when the broker has confirmed all of them."""
        settlements = await engine.submit(
            [(item.id, _encoded(item.payload), item.processing_time) for item in request.messages],
            traceparent=_valid(traceparent),
        )
        _require_confirmed(settlements)
        return BatchProduced(messages_produced=len(settlements))

    @app.get("/status")
    async def status() -> dict[str, Any]:
        """Everything there is to know about this producer."""
        return _status(engine)

    @app.post("/admin/config", responses={**away, **fixed})
    async def configure(request: ConfigRequest) -> Changed:
        """Change settings of the running producer: all that are named, or none."""
        async with one_at_a_time:
            before = engine.settings
            changes = request.changes(before)
            _refuse_paths(changes, laws)
            await engine.reconfigure(replaced(before, changes))
            return Changed.between(before, engine.settings)

    @app.post("/admin/clear-queue", responses=away)
    async def clear_queue() -> dict[str, Any]:
        """Drop every message that waits in the work queue."""
        return {"status": "success", "purged": await engine.purge()}

    @app.post("/admin/pause")
    async def pause() -> dict[str, str]:
        """Offer no more messages until resumed."""
        engine.pause()
        return {"status": "paused"}

    @app.post("/admin/resume")
    async def resume() -> dict[str, str]:
        """Offer messages again."""
        engine.resume()
        return {"status": "running"}

    return app


def _refuse_paths(changes: dict[str, Any], laws: Sequence[str]) -> None:
    """Refuse a law that is none of ``laws``: a path would import, and so run, any module that is installed."""
    law = changes.get("producer.strategy")
    if law is not None and law not in laws:
        allowed = (
            f"expected one of {', '.join(dict.fromkeys(laws))}; a law by its path is chosen when the producer starts"
        )
        raise ConfigError("producer.strategy", law, allowed, "request")


def _valid(traceparent: str | None) -> str:
    """Return the header, or nothing: one that is not valid is to be ignored, as if the caller were in no trace."""
    return traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else ""


def _encoded(payload: Any) -> bytes:
    return payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()


def _require_confirmed(settlements: list[Settlement]) -> None:
    refused = [settlement for settlement in settlements if settlement.outcome is not Outcome.CONFIRMED]
    if not refused:
        return
    done = len(settlements) - len(refused)
    unsure = [settlement for settlement in refused if settlement.may_have_arrived]
    first = (unsure or refused)[0]
    again = unsure and first.outcome is not Outcome.UNSETTLED
    doubt = ", and an earlier attempt was not answered: it may have arrived" if again else ""
    answer = NotTaken(
        message=f"{first.reason}{doubt}: {done} of {len(settlements)} were taken",
        messages_produced=done,
        refused=[one.message_id for one in refused if not one.may_have_arrived][:_MOST_IDS],
        unconfirmed=[one.message_id for one in unsure][:_MOST_IDS],
    )
    detail, cause = answer.model_dump(), None if unsure else first.cause
    if cause is Cause.INVALID:
        raise HTTPException(422, detail["message"])
    code = {Cause.FULL: 429, Cause.TOO_LARGE: 413}.get(cause, 503) if cause else 503
    raise HTTPException(code, detail, {} if cause in _FOR_GOOD else {"Retry-After": "1"})


def _status(engine: ProducerEngine) -> dict[str, Any]:
    report, reading, decision = engine.report(), engine.queue_reading, engine.decision
    depth = engine.depth
    return {
        "id": report.id,
        "role": "producer",
        "state": "blocked" if report.blocked else "paused" if engine.paused else "running",
        "queue": {
            "name": report.queue,
            "mode": report.strategy,
            "size": depth,
            "ready": None if reading is None else reading.ready,
            "max_size": engine.settings.queue.max_length,
            "memory_mb": None if depth is None else round(depth * engine.message_bytes / 1e6, 3),
        },
        "process": {
            "pid": report.pid,
            "memory_mb": round(report.rss_bytes / 1e6, 1),
            "cpu_percent": engine.cpu_percent,
            "cpu_s": report.cpu_s,
        },
        "rates": {
            "offered_per_s": report.target_rate_per_s,
            "allowed_per_s": report.pacing_rate_per_s,
            "bottleneck_per_s": decision.bottleneck_per_s,
        },
        "totals": {
            name: getattr(report, name)
            for name in ("offered", "published", "confirmed", "nacked", "rejected", "returned", "republished")
        },
        "in_flight": report.in_flight,
        "strategy": report.strategy,
        "reason": report.reason,
        "api_url": report.api_url,
        "config": public_settings(engine.settings),
    }
