"""The life of a long-running command: settings in, signals handled, a clean end, a clear error.

A first SIGINT, SIGTERM or SIGHUP ends the process in order (what is in flight is settled), a second one at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol, TypeVar

import click

from backpressure.cli.options import overrides
from backpressure.config import load
from backpressure.environment import without_injected
from backpressure.errors import PortTakenError
from backpressure.program import INTERRUPTED, on_stop_signals
from backpressure.settings import ApiSettings, LogSettings, Settings
from backpressure.telemetry import logs

__all__ = ["Engine", "run_engine", "serving", "settings_from"]

log = logging.getLogger(__name__)

_YOUNG_OBJECTS = 10_000  # messages under way are that many objects, and no garbage

Command = TypeVar("Command", bound=Callable[..., Any])


class Engine(Protocol):
    """What this module needs of producer, consumer and monitor."""

    async def start(self) -> None:
        """Connect."""

    async def run(self) -> None:
        """Do the work until `stop`."""

    def stop(self) -> None:
        """Ask `run` to end."""

    async def close(self) -> None:
        """Disconnect."""


def settings_from(
    context: click.Context, discover: Callable[[Settings, bool], Mapping[str, Any]] | None = None
) -> Settings:
    """Return the settings in force for a command and set up its logging; raises `ConfigError`.

    A command that connects to a broker passes the function that finds one, in case no source names it.
    """

    def after_logging(settings: Settings, named: bool) -> Mapping[str, Any]:
        logs.configure(settings.log)  # what is found is said in one line
        return discover(settings, named) if discover else {}

    given = overrides(context)
    if given.get("log.format") == "json":
        logs.configure(LogSettings(format="json"))  # what is wrong with the settings is told in that form as well
    settings = load(given, config_file=context.params.get("config_file"), discover=after_logging)
    _, services = without_injected(os.environ)
    if services:
        names = ", ".join(f"{service}_…" for service in services)
        log.info("ignored, for Kubernetes or Docker sets them to announce services: %s", names)
    return settings


async def run_engine(engine: Engine, *, on_started: Callable[[], None] = lambda: None) -> bool:
    """Start, run and close ``engine`` under signals; return False when it was stopped before it had started."""
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(engine.start())
    signals_seen = 0

    def on_signal() -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            os._exit(INTERRUPTED)  # asked twice: nothing is worth waiting for
        starting.cancel()
        engine.stop()

    on_stop_signals(loop, on_signal)
    try:
        await starting
        _set_aside_what_stays()
        on_started()
        await engine.run()
    except asyncio.CancelledError:
        if not starting.cancelled():
            raise
        return False
    finally:
        await engine.close()
    return True


@contextlib.asynccontextmanager
async def serving(app: Any, api: ApiSettings, port: int, default_port: int) -> AsyncIterator[str]:
    """Serve a control API and yield its URL ("" when it is switched off).

    A taken default port is no reason to fail a second producer or consumer: it moves to a free one and says so.
    """
    if not api.enabled:
        yield ""
        return
    from backpressure.api.serving import ApiServer  # costs 48 MB: only where it serves

    try:
        server = ApiServer(app(), host=api.host, port=port, token=api.token, key="api.host", flag="--api-port")
    except PortTakenError as error:
        if port != default_port:
            raise
        server = ApiServer(app(), host=api.host, port=0, token=api.token, key="api.host", flag="--api-port")
        log.warning("%s; this one listens on %d", error, server.port)
    async with server:
        yield server.url


def _set_aside_what_stays() -> None:
    """Let the garbage collector look no more at what was loaded to start with, and less often at the rest.

    A full collection looks at everything there is: with some hundred thousand objects of imported libraries it stops a
    process for tens of milliseconds, in which nothing is sent, settled or reported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
