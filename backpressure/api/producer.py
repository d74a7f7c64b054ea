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

from backpressure.api.common import WHOLE, Changed, RequestBody, checked_live, create_app, named_as_sent, serve_basics
from backpressure.api.status import ProducerStatus, State
from backpressure.config import replaced
from backpressure.core.controllers import traits
from backpressure.core.journal import Outcome
from backpressure.derived import bound_of_strategy
from backpressure.engines.outbox import Settlement
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import ConfigError, UnsupportedError
from backpressure.laws import law_names
from backpressure.settings import QueueSettings
from backpressure.telemetry.metrics import producer_registry
from backpressure.transports.base import Cause

_MOST_AT_ONCE = 10_000  # so that the answer takes a few seconds at most
_MOST_ID_BYTES = 255  # a short string of AMQP 0-9-1
_SETTINGS = {
    "queue_mode": "producer.strategy",
    "max_queue_size": "queue.max_length",
    "rate_limit": "control.rate_limit",
    "production_rate": "producer.rate",
    "target_wait_ms": "control.target_wait_ms",
    "reduction_factor": "control.reduction_factor",
    "floor_per_s": "control.floor_per_s",
    "ceiling_per_s": "control.ceiling_per_s",
    "depth_threshold": "control.depth_threshold",
    "parameters": "control.parameters",
}
Responses = dict[int | str, dict[str, Any]]
_FOR_GOOD = {Cause.TOO_LARGE, Cause.FORBIDDEN}  # sending it again cannot succeed
_MOST_IDS = 100
TraceParent = Annotated[str | None, Header(description="the caller's trace (W3C), which the messages carry on")]
_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _short(text: str) -> str:
    if len(text.encode()) > _MOST_ID_BYTES:
        raise ValueError(f"takes more than {_MOST_ID_BYTES} bytes")
    return text


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


class ProducerConfigRequest(RequestBody):
    """Any of these; all are applied, or none."""

    __qualname__ = "ConfigRequest"  # its name in the OpenAPI document
    model_config = ConfigDict(
        title="ConfigRequest",
        json_schema_extra={"examples": [{"queue_mode": "bounded", "max_queue_size": 100}, {"production_rate": 50}]},
    )

    queue_mode: str | None = Field(
        None, description="unbounded, bounded, rate_limited, or the name of any law, with the bound that goes with it"
    )
    max_queue_size: Annotated[int, WHOLE] | None = Field(None, description="bound of the queue, messages")
    rate_limit: float | None = Field(None, description="pace of the mode rate_limited, msg/s")
    production_rate: float | Literal["max"] | None = Field(
        None, description="offered load, msg/s; 0 or max: as fast as can be"
    )
    target_wait_ms: float | None = Field(None, description="queue wait the law aims for")
    reduction_factor: float | None = Field(None, description="threshold: multiply the rate by this under pressure")
    floor_per_s: float | None = Field(None, description="never slower than this, msg/s")
    ceiling_per_s: float | None = Field(None, description="never faster than this, msg/s")
    depth_threshold: Annotated[int, WHOLE] | None = Field(
        None, description="threshold: a deeper queue counts as pressure"
    )
    parameters: dict[str, dict[str, float]] | None = Field(None, description="per law, its own parameters")
    settings: dict[str, Any] = Field(default_factory=dict, description="further settings by their dotted names")

    def sent(self) -> dict[str, str]:
        """Return the fields that are given, by the dotted names of the settings they stand for."""
        return {key: name for name, key in _SETTINGS.items() if getattr(self, name) is not None}

    def changes(self) -> dict[str, Any]:
        """Return the dotted settings that are named; raises `ConfigError` for one that cannot change at run time."""
        named = {key: getattr(self, name) for key, name in self.sent().items()}
        return named | checked_live(self.settings, "producer")


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
    """The number of accepted messages, and ids of those refused or unconfirmed: a hundred of each at most."""

    message: str
    messages_produced: int
    refused: list[str] = Field(description="not in the queue")
    unconfirmed: list[str] = Field(
        description="perhaps in the queue, or on the way: sending them again may duplicate them"
    )


class Unsent(BaseModel):
    """Why not all was confirmed: in one sentence when nothing was sent, else with the ids."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"detail": "the broker is away"},
                {
                    "detail": {
                        "message": "the queue is full: 1 of 2 were taken",
                        "messages_produced": 1,
                        "refused": ["order-2"],
                        "unconfirmed": [],
                    }
                },
            ]
        }
    )

    detail: NotTaken | str


class Purged(BaseModel):
    """How many messages were dropped."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "success", "purged": 42}]})

    status: Literal["success"] = "success"
    purged: int


def producer_app(engine: ProducerEngine) -> FastAPI:
    """Return the control API of ``engine``."""
    app = create_app("Pace Matching: producer", "Send messages, watch the producer and change its pace while it runs.")

    async def obstacle() -> str:
        return engine.obstacle

    serve_basics(app, producer_registry(engine.report), obstacle)
    laws = (*law_names(), engine.settings.producer.strategy)
    strategy = _Strategy(engine)
    one_at_a_time = asyncio.Lock()  # a request changes the settings that the one before it left
    away: Responses = {503: {"description": "the broker is away or blocks publishing"}}
    unsent: Responses = {
        413: {"model": Unsent, "description": "too large, for us or for the broker"},
        429: {"model": Unsent, "description": "the queue is full, or too many requests wait; see Retry-After"},
        503: {"model": Unsent, "description": "the broker is away, blocks publishing or did not confirm in time"},
    }
    fixed: Responses = {409: {"description": "the bound of the live queue cannot be changed"}}

    @app.post("/produce", responses=unsent)
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

    @app.post("/batch-produce", responses=unsent)
    async def batch_produce(request: BatchRequest, traceparent: TraceParent = None) -> BatchProduced:
        """Send several messages and answer when the broker has confirmed all of them."""
        settlements = await engine.submit(
            [(item.id, _encoded(item.payload), item.processing_time) for item in request.messages],
            traceparent=_valid(traceparent),
        )
        _require_confirmed(settlements)
        return BatchProduced(messages_produced=len(settlements))

    @app.get("/status")
    async def status() -> ProducerStatus:
        """Everything there is to know about this producer."""
        return ProducerStatus.of(engine)

    @app.post("/admin/config", responses={**away, **fixed})
    async def configure(request: ProducerConfigRequest) -> Changed:
        """Change settings of the running producer: all that are named, or none."""
        async with one_at_a_time:
            before = engine.settings
            with named_as_sent(request, request.sent()):
                changes = request.changes()
                _refuse_paths(changes, laws)
                await strategy.change(request.queue_mode, changes)
            return Changed.between(before, engine.settings)

    @app.post("/admin/clear-queue", responses=away)
    async def clear_queue() -> Purged:
        """Drop every message that waits in the work queue."""
        return Purged(purged=await engine.purge())

    @app.post("/admin/pause")
    async def pause() -> State:
        """Offer no more messages until resumed."""
        engine.pause()
        return State(status="paused")

    @app.post("/admin/resume")
    async def resume() -> State:
        """Offer messages again."""
        engine.resume()
        return State(status="running")

    return app


class _Strategy:
    """Changes the strategy of a running producer, so that it is as if started with it: the law, and the queue's bound.

    It remembers the bound that was stated: a strategy with a bound of its own hides it, and the next one may need it.
    """

    def __init__(self, engine: ProducerEngine) -> None:
        self._engine = engine
        queue = engine.settings.queue
        lifted = traits(engine.settings.producer.strategy).queue_bound == "none" and queue.type != "lazy"
        if lifted and queue.max_length is None and engine.bounds_queues:
            queue = queue.model_copy(update={"max_length": QueueSettings().max_length})
        self._stated = queue

    async def change(self, mode: str | None, changes: dict[str, Any]) -> None:
        """Make the ``changes``, by dotted names, and those that go with ``mode`` and are not among them."""
        before = self._engine.settings
        stated = {key.removeprefix("queue."): value for key, value in changes.items() if key.startswith("queue.")}
        queue = self._stated.model_copy(update=stated)
        bound = {} if mode is None else bound_of_strategy(mode, queue)
        try:
            await self._engine.reconfigure(replaced(before, bound | changes))
        except UnsupportedError:
            if stated or mode is None or traits(mode).queue_bound != "as set":
                raise
            await self._engine.reconfigure(replaced(before, changes))  # the bound of a live queue is fixed here
        self._stated = queue


def _refuse_paths(changes: dict[str, Any], laws: Sequence[str]) -> None:
    """Refuse a law that is not in ``laws``: a path would import, and so run, any installed module."""
    law = changes.get("producer.strategy")
    if law is not None and law not in laws:
        allowed = (
            f"expected one of {', '.join(dict.fromkeys(laws))}; a law by its path is chosen when the producer starts"
        )
        raise ConfigError("producer.strategy", law, allowed, "request")


def _valid(traceparent: str | None) -> str:
    """Return the header, or "" when it is not valid, as if the caller were in no trace."""
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
