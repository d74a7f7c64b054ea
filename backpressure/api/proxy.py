"""The proxy's control API: what it holds and why, and what to change while it runs."""

from __future__ import annotations

import os
from math import isfinite
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from backpressure.api.common import RequestBody, create_app, named_as_sent, serve_basics
from backpressure.core.histogram import Histogram
from backpressure.errors import ConfigError
from backpressure.laws import law_names
from backpressure.proxy.engine import PacedLoop, ProxyEngine
from backpressure.proxy.proxy_metrics import proxy_registry
from backpressure.proxy.watching import QueueTally, WatchedConsumer

__all__ = ["proxy_app"]

_FIELDS = {"strategy": "producer.strategy", "target_wait_ms": "control.target_wait_ms"}


class HoldTimes(BaseModel):
    """Durations in milliseconds; null: none was seen."""

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> HoldTimes:
        """Read it."""
        p50, p99 = histogram.quantile_s(0.5), histogram.quantile_s(0.99)
        return cls(p50=None if p50 is None else round(p50 * 1000, 3), p99=None if p99 is None else round(p99 * 1000, 3))


class PacedQueueStatus(BaseModel):
    """One paced queue; null: not known, or no limit."""

    name: str
    state: Literal["pacing", "passing until a consumer comes", "dry run", "paused"]
    strategy: str
    target_wait_ms: float
    reason: str
    allowed_per_s: float | None
    bottleneck_per_s: float | None
    ready: int | None
    consumers: int | None
    arrived: int
    published: int
    confirmed: int
    nacked: int
    returned: int
    in_flight: int
    waiting_channels: int
    would_have_waited: int
    hold_ms: HoldTimes

    @classmethod
    def of(cls, loop: PacedLoop) -> PacedQueueStatus:
        """Read it."""
        queue, box, reading = loop.queue, loop.queue.outbox, loop.pacing.reading
        decision = queue.decision
        return cls(
            name=queue.name,
            state="paused"
            if queue.paused
            else "dry run"
            if queue.dry_run
            else "pacing"
            if queue.engaged
            else "passing until a consumer comes",
            strategy=loop.settings.producer.strategy,
            target_wait_ms=loop.settings.control.target_wait_ms,
            reason=decision.reason,
            allowed_per_s=decision.rate_per_s if isfinite(decision.rate_per_s) else None,
            bottleneck_per_s=decision.bottleneck_per_s,
            ready=None if reading is None else reading.ready,
            consumers=None if reading is None else reading.consumers,
            arrived=queue.arrived,
            published=queue.published,
            confirmed=box.confirmed,
            nacked=box.nacked,
            returned=box.returned,
            in_flight=len(box.in_flight),
            waiting_channels=queue.waiting,
            would_have_waited=queue.would_have_waited,
            hold_ms=HoldTimes.of(queue.hold),
        )


class WatchedQueueStatus(BaseModel):
    """What was delivered of a queue through this proxy, and what became of it; totals, and ``unacked`` now."""

    name: str
    delivered: int
    fetched: int = Field(description="by basic.get")
    without_acks: int
    redelivered: int
    acknowledged: int
    rejected: int
    requeued: int
    lost: int = Field(description="unsettled when the channel ended: back in the queue")
    unacked: int
    service_ms: HoldTimes
    wait_ms: HoldTimes = Field(
        description="from leaving this proxy to the start of work, of messages seen on both sides"
    )

    @classmethod
    def of(cls, name: str, tally: QueueTally) -> WatchedQueueStatus:
        """Read it."""
        return cls(
            name=name,
            delivered=tally.delivered,
            fetched=tally.got,
            without_acks=tally.unseen,
            redelivered=tally.redelivered,
            acknowledged=tally.acked,
            rejected=tally.rejected,
            requeued=tally.requeued,
            lost=tally.lost,
            unacked=tally.held,
            service_ms=HoldTimes.of(tally.service),
            wait_ms=HoldTimes.of(tally.wait),
        )


class WatchedConsumerStatus(BaseModel):
    """One subscription that passes; ``workers``: on how many messages it seems to work at a time."""

    queue: str
    prefetch: int
    acks: bool
    delivered: int
    settled: int
    unacked: int
    workers: int

    @classmethod
    def of(cls, consumer: WatchedConsumer) -> WatchedConsumerStatus:
        """Read it."""
        return cls(
            queue=consumer.queue,
            prefetch=consumer.prefetch,
            acks=not consumer.no_ack,
            delivered=consumer.delivered,
            settled=consumer.acked + consumer.rejected,
            unacked=consumer.held,
            workers=consumer.workers,
        )


class ProxyStatus(BaseModel):
    """Everything there is to know about this proxy."""

    id: str
    pid: int
    upstream: str
    port: int
    virtual_host: str
    obstacle: str = Field(description="what keeps it from pacing now; empty while nothing does")
    memory_mb: float
    cpu_percent: float
    connections: int
    unread_connections: int
    held_messages: int
    held_bytes: int
    queues: list[PacedQueueStatus]
    watched: list[WatchedQueueStatus]
    consumers: list[WatchedConsumerStatus] = Field(description="at most a hundred of them")

    @classmethod
    def of(cls, engine: ProxyEngine) -> ProxyStatus:
        """Read it."""
        engine.refresh_cost()
        consumers = list(engine.view.consumers.values())[:_MOST_CONSUMERS]
        return cls(
            id=engine.id,
            pid=os.getpid(),
            upstream=engine.listener.upstream,
            port=engine.port,
            virtual_host=engine.view.virtual_host,
            obstacle=engine.obstacle,
            memory_mb=round(engine.cost.rss_bytes / 1e6, 1),
            cpu_percent=engine.cost.cpu_percent,
            connections=len(engine.listener.relays),
            unread_connections=engine.unread_connections,
            held_messages=engine.held_messages,
            held_bytes=engine.held_octets,
            queues=[PacedQueueStatus.of(loop) for loop in engine.loops.values()],
            watched=[WatchedQueueStatus.of(name, tally) for name, tally in engine.view.tallies.items()],
            consumers=[WatchedConsumerStatus.of(consumer) for consumer in consumers],
        )


_MOST_CONSUMERS = 100


class ProxyConfigRequest(RequestBody):
    """Any of these, for one queue or (without ``queue``) for all paced ones; all are applied, or none."""

    __qualname__ = "ConfigRequest"  # its name in the OpenAPI document
    model_config = ConfigDict(
        title="ConfigRequest",
        json_schema_extra={"examples": [{"dry_run": False}, {"queue": "orders", "target_wait_ms": 50}]},
    )

    queue: str | None = Field(None, description="a paced queue; null: all of them")
    strategy: str | None = Field(None, description="the law, one of `pace laws`")
    target_wait_ms: Annotated[float, Field(gt=0)] | None = Field(None, description="queue wait to aim for")
    paused: bool | None = Field(None, description="hold everything")
    dry_run: bool | None = Field(None, description="hold nothing, and count what would be held")

    def sent(self) -> dict[str, str]:
        """Return the fields that stand for settings and are given, by the dotted names of those."""
        return {key: name for name, key in _FIELDS.items() if getattr(self, name) is not None}


def proxy_app(engine: ProxyEngine) -> FastAPI:
    """Return the control API of ``engine``."""
    app = create_app("Pace Matching: proxy", "Watch what a proxy holds, and change how it paces.")

    async def obstacle() -> str:
        return engine.obstacle

    serve_basics(app, proxy_registry(engine), obstacle)

    @app.get("/status")
    async def status() -> ProxyStatus:
        """Everything there is to know about this proxy."""
        return ProxyStatus.of(engine)

    @app.post("/admin/config")
    async def configure(request: ProxyConfigRequest) -> ProxyStatus:
        """Change how queues are paced: law, target, paused, dry run; answers with the new status."""
        if request.queue is not None and request.queue not in engine.loops:
            known = ", ".join(engine.loops) or "none so far"
            raise ConfigError("queue", request.queue, f"expected a paced queue: {known}", "request")
        names = list(engine.loops) if request.queue is None else [request.queue]
        changes: dict[str, Any] = {key: getattr(request, name) for key, name in request.sent().items()}
        if request.strategy is not None and request.strategy not in law_names():
            allowed = f"expected one of {', '.join(law_names())}: a path is set when the proxy starts"
            raise ConfigError("strategy", request.strategy, allowed, "request")
        with named_as_sent(request, request.sent()):
            engine.configure(names, changes=changes, paused=request.paused, dry_run=request.dry_run)
        return ProxyStatus.of(engine)

    return app
