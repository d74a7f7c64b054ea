"""What the monitor serves: metrics for a scraper, JSON for a program, the live page with its controls for a person.

``/metrics`` is always Prometheus text. ``/`` is the page for a browser (one that accepts HTML) and the same text for
all other clients, so that ``curl localhost:8000`` shows numbers. The page and its assets are handed in, not imported.
The live feed keeps a point a second for 15 minutes and streams it to every open page.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from backpressure.api.common import create_app, serve_basics
from backpressure.api.monitor_control import serve_control
from backpressure.api.serving import Page
from backpressure.core.snapshot import BrokerState, ProcessState, QueueState, Snapshot, Threshold
from backpressure.telemetry.metrics import CONTENT_TYPE, expose

_NO_TOKEN = SecretStr("")


def monitor_app(
    snapshot: Callable[[], Snapshot],
    registry: CollectorRegistry,
    feed: LiveFeed,
    assets: Mapping[str, Path],
    *,
    token: SecretStr = _NO_TOKEN,
) -> FastAPI:
    """Return the monitor's app.

    Args:
        snapshot: what is known now.
        registry: what ``/metrics`` tells.
        feed: what the page streams.
        assets: the page's files by name; ``index.html`` is the page itself.
        token: the token that the control APIs of producers and consumers require, if any.
    """
    app = create_app("Pace Matching: monitor", "Queues, rates, waits and events of the loop, as text, JSON and a page.")

    async def obstacle() -> str:
        return next(source.error for source in snapshot().sources if source.name == "broker")

    serve_basics(app, registry, obstacle)
    serve_control(app, snapshot, token)
    page = Page(app, assets)

    @app.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return page.answer(Vary="Accept")
        return Response(expose(registry), media_type=CONTENT_TYPE, headers={"Vary": "Accept"})

    @app.get("/api/snapshot")
    async def current() -> dict[str, Any]:
        """Everything the monitor knows now; null is unknown."""
        return plain(snapshot())

    @app.get("/api/stream", response_class=StreamingResponse)
    async def stream() -> StreamingResponse:
        """Server-sent events: ``history`` (the last 15 minutes) once, then ``tick`` every second."""
        return streaming(feed)

    return app


def streaming(feed: LiveFeed) -> StreamingResponse:
    """Return an answer that lasts: what ``feed`` tells, as server-sent events."""
    return StreamingResponse(_encoded(feed), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _encoded(feed: LiveFeed) -> AsyncIterator[bytes]:
    async for event, data in feed.subscribe():
        yield f"event: {event}\ndata: {data}\n\n".encode()


_INTERVAL_S = 1.0
_KEPT_S = 900
_EVENTS_SHOWN = 100
_BEHIND = 10  # ticks a page may be behind before it misses some

Item = tuple[str, str]
"""Event name and JSON text."""


class LiveFeed:
    """Takes a point of the loop each second, keeps the last 15 minutes and hands all of them to new subscribers."""

    def __init__(self, snapshot: Callable[[], Snapshot | None], advise: Callable[[Snapshot], list[str]]) -> None:
        """Show each ``snapshot``, if there is one, and what ``advise`` says about it."""
        self._snapshot = snapshot
        self._advise = advise
        # As text: half the memory of dictionaries, and it does not scatter what lives for 15 minutes over the heap.
        self._points: deque[str] = deque(maxlen=round(_KEPT_S / _INTERVAL_S))
        self._subscribers: set[asyncio.Queue[Item | None]] = set()
        self._closed = False

    async def run(self) -> None:
        """Take points until cancelled."""
        while True:
            self.take()
            await asyncio.sleep(_INTERVAL_S)

    def take(self) -> None:
        """Take one point and send it to every subscriber."""
        seen = self._snapshot()
        if seen is None:
            return
        latest = point(seen)
        self._points.append(_json(latest))
        if not self._subscribers:
            return
        now = plain(seen)
        now["events"] = now["events"][-_EVENTS_SHOWN:]
        self.tell("tick", {"point": latest, "now": now, "advice": self._advise(seen)})

    def forget(self) -> None:
        """Begin again without a past, also on the pages that are open."""
        self._points.clear()
        self.tell("history", [])

    def tell(self, event: str, content: Any) -> None:
        """Send something else to every subscriber."""
        item = (event, _json(content))
        for subscriber in self._subscribers:
            if subscriber.full():
                subscriber.get_nowait()
            subscriber.put_nowait(item)

    def close(self) -> None:
        """End every subscription, so that a server can stop at once."""
        self._closed = True
        for subscriber in self._subscribers:
            if subscriber.full():
                subscriber.get_nowait()
            subscriber.put_nowait(None)

    async def subscribe(self) -> AsyncIterator[Item]:
        """Yield what was kept as ``history``, then each new point as ``tick``, until `close`."""
        subscriber: asyncio.Queue[Item | None] = asyncio.Queue(maxsize=_BEHIND)
        self._subscribers.add(subscriber)
        try:
            yield ("history", f"[{','.join(self._points)}]")
            while not self._closed and (item := await subscriber.get()) is not None:
                yield item
        finally:
            self._subscribers.discard(subscriber)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


_DERIVED = {
    Snapshot: ("overall", "dead_letters"),
    QueueState: ("depth", "worst_partition"),
    Threshold: ("breached",),
    BrokerState: ("memory_percent",),
}


def plain(snapshot: Snapshot) -> dict[str, Any]:
    """Return ``snapshot`` as objects, arrays, numbers and strings; null is unknown.

    Histograms are left out: distributions are in the metrics.
    """
    content: dict[str, Any] = _plain(snapshot)
    return content


def point(snapshot: Snapshot) -> dict[str, Any]:
    """Return what the page's charts show of one moment."""
    queue = snapshot.work
    content: dict[str, Any] = {
        "at_ms": snapshot.at_ns // 1_000_000,
        "ready": None if queue is None else queue.ready,
        "unacked": None if queue is None else queue.unacked,
        "offered_per_s": snapshot.rates.offered_per_s,
        "published_per_s": snapshot.rates.published_per_s,
        "processed_per_s": snapshot.rates.processed_per_s,
        "allowed_per_s": snapshot.pacing_rate_per_s,
        "bottleneck_per_s": snapshot.bottleneck_per_s,
        "in_per_s": None if queue is None else queue.published_per_s,
        "out_per_s": None if queue is None else queue.acked_per_s,
        "expected_wait_s": None if queue is None or queue.outlook is None else queue.outlook.wait_s,
        "wait_p50_s": snapshot.queue_wait.p50_s,
        "wait_p95_s": snapshot.queue_wait.p95_s,
        "wait_p99_s": snapshot.queue_wait.p99_s,
        "memory_bytes": _memory(snapshot.processes),
    }
    return {name: _plain(value) for name, value in content.items()}


def _memory(processes: Iterable[ProcessState]) -> dict[str, int]:
    named = [(f"{process.role} {process.id} ({process.pid})", process) for process in processes]
    times = Counter(
        name for name, _ in named
    )  # every process of a container has pid 1, and scaled services share a name
    return {
        name if times[name] == 1 else f"{name} on {p.host}": p.rss_bytes for name, p in named if p.rss_bytes is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        kind: Any = type(value)
        return {name: _plain(getattr(value, name)) for name in _told(kind)}
    return value


@cache
def _told(kind: Any) -> tuple[str, ...]:
    told = (spec.name for spec in fields(kind) if not str(spec.type).startswith("Histogram"))
    return (*told, *_DERIVED.get(kind, ()))
