"""The proxy's control API: what it holds and why, and what to change while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, Field

from backpressure.api.common import RequestBody, create_app, named_as_sent, serve_basics
from backpressure.core.histogram import Histogram
from backpressure.errors import ConfigError
from backpressure.laws import law_names
from backpressure.proxy.engine import PacedLoop, ProxyEngine
from backpressure.proxy.watching import QueueTally, WatchedConsumer
from backpressure.telemetry.metrics import Family, FamilyCollector, single

_FIELDS = {"strategy": "producer.strategy", "target_wait_ms": "control.target_wait_ms"}
_MOST_CONSUMERS = 100
_Value = float | Histogram | None
_Samples = Iterator[tuple[tuple[str, ...], _Value]]


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
    unpaced_per_s: float = Field(description="what arrives from producers that nobody paces; 0: none is seen")
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
            unpaced_per_s=loop.pacing.signals.unpaced_per_s,
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


def _paced(
    name: str, text: str, read: Callable[[PacedLoop], _Value], *, durations: bool = False
) -> Family[ProxyEngine]:
    def samples(engine: ProxyEngine) -> _Samples:
        for queue, loop in engine.loops.items():
            yield (queue,), read(loop)

    return Family(name, text, samples, ("queue",), durations=durations)


def _watched(
    name: str, text: str, read: Callable[[QueueTally], _Value], *, durations: bool = False
) -> Family[ProxyEngine]:
    def samples(engine: ProxyEngine) -> _Samples:
        for queue, tally in engine.view.tallies.items():
            yield (queue,), read(tally)

    return Family(name, text, samples, ("queue",), durations=durations)


def _consumers(engine: ProxyEngine) -> _Samples:
    counts: dict[str, int] = dict.fromkeys(engine.view.tallies, 0)
    for consumer in engine.view.consumers.values():
        counts[consumer.queue] = counts.get(consumer.queue, 0) + 1
    for queue, count in counts.items():
        yield (queue,), count


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


PROXY_METRICS: Sequence[Family[ProxyEngine]] = (
    single("pace_proxy_connections", "Clients connected.", lambda e: len(e.listener.relays)),
    single("pace_proxy_connections_total", "Clients that have connected.", lambda e: e.listener.accepted),
    single("pace_proxy_refused_connections_total", "Clients that were too many.", lambda e: e.listener.refused),
    single("pace_proxy_held_messages", "Messages that wait in the proxy.", lambda e: e.held_messages),
    single("pace_proxy_held_bytes", "Their bytes.", lambda e: e.held_octets),
    single(
        "pace_proxy_unread_connections",
        "Clients whose socket is not read now, because enough of them waits.",
        lambda e: e.unread_connections,
    ),
    single(
        "pace_proxy_blocked_notices_total",
        "Times a client was told that it is held (connection.blocked).",
        lambda e: e.listener.blocked_tellings,
    ),
    _paced("pace_proxy_messages_arrived_total", "Messages that clients published to it.", lambda p: p.queue.arrived),
    _paced("pace_proxy_messages_published_total", "Messages that were let through.", lambda p: p.queue.published),
    _paced("pace_proxy_messages_confirmed_total", "Messages that the broker took.", lambda p: p.queue.outbox.confirmed),
    _paced("pace_proxy_nacks_total", "Refusals by the broker.", lambda p: p.queue.outbox.nacked),
    _paced("pace_proxy_returned_total", "Messages that no queue was bound for.", lambda p: p.queue.outbox.returned),
    _paced(
        "pace_proxy_in_flight_messages", "Messages sent and not confirmed.", lambda p: len(p.queue.outbox.in_flight)
    ),
    _paced("pace_proxy_waiting_channels", "Channels that wait for it.", lambda p: p.queue.waiting),
    _paced(
        "pace_proxy_allowed_rate_per_second",
        "Pace that the law allows; absent: no limit.",
        lambda p: _finite(p.queue.decision.rate_per_s),
    ),
    _paced(
        "pace_proxy_bottleneck_rate_per_second",
        "What the law takes for the rate of all consumers together; absent: it has no estimate.",
        lambda p: p.queue.decision.bottleneck_per_s,
    ),
    _paced(
        "pace_proxy_signal_quality",
        "How well the law sees what is in the system: 3 by reports, 2 by counts, 1 by late counts, 0 not; absent: "
        "nobody consumes.",
        lambda p: p.pacing.signals.told_quality,
    ),
    _paced(
        "pace_proxy_unpaced_arrivals_per_second",
        "What arrives in the queue from producers that nobody paces; 0: nothing, or too little to be certain of.",
        lambda p: p.pacing.signals.unpaced_per_s,
    ),
    _paced(
        "pace_proxy_would_have_waited_total",
        "Messages that passed at once and that the law would have held: in a dry run, or before the first consumer.",
        lambda p: p.queue.would_have_waited,
    ),
    _paced("pace_proxy_held", "1 while messages are held by the law, else 0.", lambda p: p.queue.holds),
    _paced("pace_proxy_paused", "1 while everything is held on request, else 0.", lambda p: p.queue.paused),
    _paced("pace_proxy_hold_seconds", "Time for which each message was held.", lambda p: p.queue.hold, durations=True),
    _paced(
        "pace_proxy_confirm_latency_seconds",
        "Time from forwarding a message to its confirm.",
        lambda p: p.queue.outbox.confirm_latency,
        durations=True,
    ),
    Family("pace_proxy_consumers", "Consumers that consume through the proxy.", _consumers, ("queue",)),
    _watched("pace_proxy_delivered_total", "Messages delivered through the proxy.", lambda t: t.delivered),
    _watched("pace_proxy_acknowledged_total", "Messages that consumers acknowledged.", lambda t: t.acked),
    _watched("pace_proxy_rejected_total", "Messages that consumers rejected for good.", lambda t: t.rejected),
    _watched("pace_proxy_requeued_total", "Messages that consumers gave back.", lambda t: t.requeued),
    _watched("pace_proxy_redelivered_total", "Messages delivered again.", lambda t: t.redelivered),
    _watched("pace_proxy_lost_deliveries_total", "Unsettled when their channel ended; they go back.", lambda t: t.lost),
    _watched("pace_proxy_unseen_total", "Messages delivered without acknowledgements.", lambda t: t.unseen),
    _watched("pace_proxy_unacked_messages", "Messages delivered and not settled.", lambda t: t.held),
    _watched(
        "pace_proxy_service_seconds",
        "Time that the work on a message took, by when it was delivered and settled.",
        lambda t: t.service,
        durations=True,
    ),
    _watched(
        "pace_proxy_wait_seconds",
        "Time from leaving the proxy to the start of work, of messages that passed here in both directions.",
        lambda t: t.wait,
        durations=True,
    ),
    single("pace_process_resident_memory_bytes", "Memory of this process.", lambda e: e.cost.rss_bytes),
    single("pace_process_cpu_seconds_total", "Processor time of this process.", lambda e: e.cost.cpu_s),
)


def proxy_registry(engine: ProxyEngine) -> CollectorRegistry:
    """Return a registry that reads ``engine`` at each scrape."""

    def refreshed() -> ProxyEngine:
        engine.refresh_cost()
        return engine

    registry = CollectorRegistry()
    registry.register(FamilyCollector(PROXY_METRICS, refreshed))
    return registry
