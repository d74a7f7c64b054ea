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
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException

from backpressure.api.common import Changed, create_app, named_as_sent, serve_basics
from backpressure.api.producer_models import (
    BatchProduced,
    BatchRequest,
    NotTaken,
    Produced,
    ProducerConfigRequest,
    ProduceRequest,
    Purged,
    Unsent,
)
from backpressure.api.status import ProducerStatus, State
from backpressure.config import replaced
from backpressure.core.controllers import traits
from backpressure.core.journal import Outcome
from backpressure.derived import bound_of_strategy
from backpressure.engines.composer import Settlement
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import ConfigError, UnsupportedError
from backpressure.laws import law_names
from backpressure.settings import QueueSettings
from backpressure.telemetry.metrics import producer_registry
from backpressure.transports.base import Cause

__all__ = ["producer_app"]

Responses = dict[int | str, dict[str, Any]]
_FOR_GOOD = {Cause.TOO_LARGE, Cause.FORBIDDEN}  # sending it again cannot succeed
_MOST_IDS = 100


TraceParent = Annotated[str | None, Header(description="the caller's trace (W3C), which the messages carry on")]
_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


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
