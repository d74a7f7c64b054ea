"""What the monitor serves: metrics for a scraper, JSON for a program, the live page with its controls for a person.

``/metrics`` is always Prometheus text. ``/`` is the page for a browser (one that accepts HTML) and the same text for
all other clients, so that ``curl localhost:8000`` shows numbers. The page and its assets are handed in, not imported.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from backpressure.api.common import create_app, serve_basics
from backpressure.api.monitor_control import serve_control
from backpressure.api.monitor_feed import LiveFeed, plain
from backpressure.api.pages import Page
from backpressure.core.snapshot import Snapshot
from backpressure.telemetry.metrics import CONTENT_TYPE, expose

__all__ = ["monitor_app"]

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
    page = Page(app, assets, styles="'self' 'unsafe-inline'")  # the chart library sets styles of its own

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
        return StreamingResponse(_encoded(feed), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return app


async def _encoded(feed: LiveFeed) -> AsyncIterator[bytes]:
    async for event, data in feed.subscribe():
        yield f"event: {event}\ndata: {data}\n\n".encode()
