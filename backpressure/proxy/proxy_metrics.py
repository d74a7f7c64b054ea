"""The metrics of a proxy, read from its counters at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite

from prometheus_client import CollectorRegistry

from backpressure.core.histogram import Histogram
from backpressure.proxy.engine import PacedLoop, ProxyEngine
from backpressure.proxy.watching import QueueTally
from backpressure.telemetry.metrics import Family, FamilyCollector, single

__all__ = ["PROXY_METRICS", "proxy_registry"]

_Value = float | Histogram | None
_Samples = Iterator[tuple[tuple[str, ...], _Value]]


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
