"""What the monitor serves: metrics for a scraper, JSON for a program, the live page with its controls for a person.

``/metrics`` is always Prometheus text. ``/`` is the page for a browser (one that accepts HTML) and the same text for
all other clients, so that ``curl localhost:8000`` shows numbers. The page and its assets are handed in, not imported.
The live feed keeps a point a second for 15 minutes and streams it to every open page.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
import psutil
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from backpressure.api.common import create_app, serve_basics
from backpressure.api.serving import Page
from backpressure.core.addresses import is_loopback
from backpressure.core.controllers import LAWS
from backpressure.core.reports import ConsumerReport, Report
from backpressure.core.snapshot import BrokerState, ProcessState, QueueState, Snapshot, Threshold
from backpressure.telemetry.metrics import CONTENT_TYPE, expose

_NO_TOKEN = SecretStr("")
_INTERVAL_S = 1.0
_KEPT_S = 900
_EVENTS_SHOWN = 100
_BEHIND = 10  # ticks a page may be behind before it misses some
Item = tuple[str, str]
"""Event name and JSON text."""
_DERIVED = {
    Snapshot: ("overall", "dead_letters"),
    QueueState: ("depth", "worst_partition"),
    Threshold: ("breached",),
    BrokerState: ("memory_percent",),
}
_TIMEOUT_S = 10.0  # changing the queue's bound can take the broker seconds
_LOOK_TIMEOUT_S = 1.0


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


def serve_control(app: FastAPI, snapshot: Callable[[], Snapshot], token: SecretStr) -> None:
    """Add ``/api/control`` for the live processes of ``snapshot``; ``token`` is the one their APIs require, if any.

    A page may only call the server it came from, so the monitor forwards its requests. The address of a process comes
    from its report, and anyone can send a report: the monitor calls plain loopback addresses of this machine only, and
    only the paths that change the pace. It sends the token only to a process of the same user that listens at that
    address. The page says in advance why a process cannot be controlled.
    """
    secret = token.get_secret_value()
    plain = {"content-type": "application/json"}
    headers = httpx.Headers(plain | {"authorization": f"Bearer {secret}"} if secret else plain, encoding="utf-8")
    here = socket.gethostname()

    def kept_from(report: Report) -> str:
        """Return why the process may not be called, before anything is sent to it."""
        obstacle = _out_of_reach(report, here)
        if secret and not obstacle and not _is_ours(report):
            return f"the token is not shown to {report.api_url}: no process {report.pid} of this user listens there"
        return obstacle

    @app.get("/api/control")
    async def controls() -> dict[str, Any]:
        """What there is to choose from, and for each process what keeps it from being controlled ("": nothing).

        For a consumer also how many times longer its work takes than is set; null: it does not tell.
        """
        seen = snapshot()
        live = [("producer", report) for report in seen.producers] + [("consumer", report) for report in seen.consumers]
        async with httpx.AsyncClient(trust_env=False, timeout=_LOOK_TIMEOUT_S, headers=headers) as client:
            looks = await asyncio.gather(*(_look(report, kept_from(report), client) for _, report in live))
        return {
            "laws": list(LAWS),
            "processes": [
                {"role": role, "id": report.id, "pid": report.pid, "host": report.host}
                | {"obstacle": obstacle, "slow_down_factor": factor}
                for (role, report), (obstacle, factor) in zip(live, looks, strict=True)
            ],
        }

    @app.post("/api/control/{role}/{process}/{action}")
    async def control(
        role: Literal["producer", "consumer"],
        process: str,
        action: Literal["config", "pause", "resume", "slow-down"],
        request: Request,
        pid: int | None = None,
    ) -> Response:
        """Hand the request on to the ``/admin/…`` of that process and return its answer.

        ``pid`` tells processes of one name apart.
        """
        seen = snapshot()
        report = _only(seen.producers if role == "producer" else seen.consumers, process, pid)
        if obstacle := kept_from(report):
            raise HTTPException(409, f"{role} {process} is not controlled from here: {obstacle}")
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
            try:
                answer = await client.post(
                    f"{report.api_url}/admin/{quote(action)}",
                    content=await request.body(),
                    headers=headers,
                )
            except httpx.HTTPError as error:
                raise HTTPException(
                    502, f"{role} {process} does not answer: {str(error) or type(error).__name__}"
                ) from None
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def _only(reports: tuple[Report, ...], process: str, pid: int | None) -> Report:
    found = [report for report in reports if report.id == process and pid in {None, report.pid}]
    if not found:
        raise HTTPException(404, f"no live process {process}")
    if len(found) > 1:
        pids = ", ".join(str(report.pid) for report in found)
        raise HTTPException(409, f"there are several of that name: add ?pid= one of {pids}")
    return found[0]


async def _look(report: Report, kept_from: str, client: httpx.AsyncClient) -> tuple[str, float | None]:
    """Return what keeps the process from being controlled (place, silence, token), and how much it is slowed down."""
    if kept_from:
        return kept_from, None
    path = "/status" if isinstance(report, ConsumerReport) else "/health"
    try:
        answer = await client.get(f"{report.api_url}{path}")
    except httpx.HTTPError as error:
        return f"its control API {report.api_url} does not answer ({str(error) or type(error).__name__})", None
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "it wants another token than the monitor's (api.token)", None
    try:
        factor = answer.json()["rates"]["slow_down_factor"]
    except (ValueError, KeyError, TypeError):
        factor = None
    return "", float(factor) if isinstance(factor, (int, float)) and isfinite(factor) else None


def _out_of_reach(report: Report, here: str) -> str:
    """Return why the process may not be called: only ``http://<loopback>:<port>`` on this machine is allowed."""
    if not report.api_url:
        return "it serves no control API"
    if report.host != here:
        return f"it runs on {report.host}, its control API is {report.api_url} there"
    try:
        url = urlsplit(report.api_url)
        plain = url.port is not None and report.api_url == f"http://{url.netloc}" and "@" not in url.netloc
        local = plain and is_loopback(url.hostname or "")
    except ValueError:
        local = False
    return "" if local else f"its control API {report.api_url} is not a plain address on this machine's loopback"


def _is_ours(report: Report) -> bool:
    """Return whether the process belongs to this user, who can read the token anyway, and listens at its address."""
    url = urlsplit(report.api_url)
    hosts = {"127.0.0.1", "::1"} if url.hostname == "localhost" else {url.hostname}
    try:
        process = psutil.Process(report.pid)
        return process.username() == psutil.Process().username() and any(
            line.status == psutil.CONN_LISTEN and line.laddr.port == url.port and line.laddr.ip in hosts
            for line in process.net_connections("tcp")
        )
    except psutil.Error:
        return False
