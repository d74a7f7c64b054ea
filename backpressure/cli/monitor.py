"""``pace monitor``, also ``monitor.py``: watch a broker and the programs on it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import click

from backpressure import program
from backpressure.cli import options
from backpressure.cli.local_brokers import discovered
from backpressure.cli.options import setting, switch
from backpressure.cli.process import run_engine, settings_from
from backpressure.config import replaced
from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.advice import advise
from backpressure.dashboards.lines import log_events
from backpressure.dashboards.screen import print_frame, show
from backpressure.dashboards.web import assets
from backpressure.engines.clock import Clock
from backpressure.engines.observer import Observer
from backpressure.errors import TransportError, UnknownNameError
from backpressure.program import check_output, printable
from backpressure.settings import Settings
from backpressure.telemetry.metrics_monitor import monitor_registry
from backpressure.telemetry.own_process import announce
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient

Look = Callable[[Callable[[], Snapshot], asyncio.Event], Awaitable[object]]
"""Shows snapshots until the event is set."""

_LOOK_S = 0.1
_RATES_KNOWN_S = 1.2  # a rate is the difference of two reports about a second apart


@click.command()
@setting(
    "--queue",
    key="monitor.queues",
    assign=lambda names: {"monitor.queues": ",".join(names)} if names else {},
    multiple=True,
    metavar="NAME",
    help="Watch this queue, whoever uses it, and create nothing; may be repeated, and be a pattern such as 'orders.*'",
)
@setting("--watch", key="monitor.watch_s", help="Seconds between two frames; 0: print one, then end")
@switch(
    "--once",
    {"monitor.watch_s": 0},
    "Print one frame and end (exit 3 without a broker, or without a queue of --queue); nothing is served",
)
@setting(
    "--host",
    "--management-url",
    key="broker.management_url",
    help="Management API, e.g. http://localhost:15672; empty: derived from the broker's host",
)
@options.url
@options.login
@setting("--port", key="monitor.port", help="Port of /metrics and the live page; 0: any free one")
@click.option("--no-ui", is_flag=True, help="Only serve: no cards and no lines; events are logged")
@options.no_wait
@options.logs
@click.pass_context
def monitor(context: click.Context, /, no_ui: bool, **_: object) -> None:
    """Watch queues, rates, waits and back-pressure, from outside.

    Shows cards on this terminal, and serves Prometheus metrics and a live page on http://localhost:8000. The management
    API adds other queues, connections and the memory of the broker; without it there are depth readings and feedback.
    """
    settings = settings_from(context, discovered)
    program.run(watch(settings, ui=not no_ui))


async def watch(settings: Settings, *, ui: bool) -> None:
    """Run the monitor until it is stopped, or for one frame; raises `PaceError`."""
    once = settings.monitor.watch_s == 0
    if once:
        settings = replaced(settings, {"broker.wait": False})  # one frame is wanted now or not at all
    async with contextlib.AsyncExitStack() as stack:
        management = ManagementClient.of(settings.broker)
        if management is not None:
            stack.push_async_callback(management.close)
        clock = Clock(settings.process.clock_anchor_ns)
        transport = connect(settings)
        observer = Observer(transport, settings, clock, management)
        if once:
            await run_engine(_Watch(observer, _look_once), broker=transport)
            return
        url = await stack.enter_async_context(_serving(observer, settings))

        def on_started() -> None:
            facts = {"role": "monitor", "id": f"monitor-{os.getpid()}", "metrics_url": f"{url}/metrics"}
            announce(settings.process.announce_file, **facts)
            click.echo(f"monitor: watches {settings.broker.address()}, live page and metrics at {url}/")

        async def look(snapshot: Callable[[], Snapshot], stopping: asyncio.Event) -> None:
            await (show(snapshot, settings.monitor.watch_s, stopping) if ui else log_events(observer, stopping))

        await run_engine(_Watch(observer, look), on_started=on_started, broker=transport)


class _Watch:
    """An observer and its display, in the form that `run_engine` runs."""

    def __init__(self, observer: Observer, look: Look) -> None:
        self._observer = observer
        self._look = look
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        await self._observer.start()

    async def run(self) -> None:
        await self._look(self._observer.snapshot, self._stopping)

    def stop(self) -> None:
        self._stopping.set()

    async def close(self) -> None:
        await self._observer.stop()


async def _look_once(snapshot: Callable[[], Snapshot], stopping: asyncio.Event) -> None:
    """Print one frame once the broker has answered and rates are known.

    Raises `TransportError` when it does not, and `UnknownNameError`, after the frame, when a queue cannot be shown.
    """
    rates_known = False
    while not rates_known and not stopping.is_set():
        sources = {source.name: source for source in snapshot().sources}
        broker = sources["broker"]
        if broker.error not in {"", "connecting"}:
            raise TransportError(broker.error)
        rates_known = all(source.error != "connecting" for source in sources.values())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _RATES_KNOWN_S if rates_known else _LOOK_S)
    if not stopping.is_set():
        seen = snapshot()
        print_frame(seen)
        check_output()
        if seen.absent:
            raise UnknownNameError(f"not shown: {', '.join(map(printable, seen.absent))}")


@contextlib.asynccontextmanager
async def _serving(observer: Observer, settings: Settings) -> AsyncIterator[str]:
    """Serve metrics and the live page, and yield the URL."""
    from backpressure.api.monitor import (
        LiveFeed,
        monitor_app,  # FastAPI is imported only where an API is served
    )
    from backpressure.api.serving import ApiServer

    feed = LiveFeed(observer.snapshot, advise)
    host, port, token = settings.monitor.host, settings.monitor.port, settings.api.token
    registry = monitor_registry(lambda: observer.snapshot(distributions=True))
    app = monitor_app(observer.snapshot, registry, feed, assets(), token=token)
    async with ApiServer(app, host=host, port=port, token=token, key="monitor.host", flag="--port") as server:
        feeding = asyncio.create_task(feed.run(), name="live feed")
        try:
            yield server.url
        finally:
            feeding.cancel()
            feed.close()
            await asyncio.gather(feeding, return_exceptions=True)
