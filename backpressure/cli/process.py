"""What long-running commands share: reading the settings, handling signals, serving a control API.

A first SIGINT, SIGTERM or SIGHUP ends the process cleanly: what is in flight is settled. A second one ends it at once.
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
from backpressure.cli.status_lines import telling
from backpressure.config import load, without_injected
from backpressure.errors import MissingExtraError, PortTakenError
from backpressure.extras import lacks
from backpressure.program import INTERRUPTED, on_stop_signals
from backpressure.settings import ApiSettings, LogSettings, Settings
from backpressure.telemetry import logs

log = logging.getLogger(__name__)

_YOUNG_OBJECTS = 10_000  # messages in flight can be that many objects, none of them garbage
_SAY_AFTER_S = 1.0

Command = TypeVar("Command", bound=Callable[..., Any])


class Engine(Protocol):
    """What `run_engine` runs: a producer, a consumer, a monitor, a lab or one of its workers."""

    async def start(self) -> None:
        """Connect."""

    async def run(self) -> None:
        """Do the work until `stop`."""

    def stop(self) -> None:
        """Ask `run` to end."""

    async def close(self) -> None:
        """Disconnect."""


class Broker(Protocol):
    """Where an engine connects to."""

    @property
    def address(self) -> str:
        """Its address, without a password."""

    @property
    def obstacle(self) -> str:
        """Why it cannot be reached now; "": it can, as far as is known."""


def settings_from(
    context: click.Context, discover: Callable[[Settings, bool], Mapping[str, Any]] | None = None
) -> Settings:
    """Return the settings in force for a command and set up its logging; raises `ConfigError`.

    ``discover`` finds a broker if no source of settings names one.
    """

    def after_logging(settings: Settings, named: bool) -> Mapping[str, Any]:
        logs.configure(settings.log)  # `discover` logs which broker it found
        return discover(settings, named) if discover else {}

    given = overrides(context)
    if given.get("log.format") == "json":
        logs.configure(LogSettings(format="json"))  # an error in the settings is then reported as JSON, too
    settings = load(given, config_file=context.params.get("config_file"), discover=after_logging)
    _, services = without_injected(os.environ)
    if services:
        names = ", ".join(f"{service}_…" for service in services)
        log.info("ignored environment variables that Kubernetes or Docker sets for its services: %s", names)
    return settings


async def run_engine(
    engine: Engine,
    *,
    on_started: Callable[[], None] = lambda: None,
    status: Callable[[], str] | None = None,
    broker: Broker | None = None,
) -> bool:
    """Start, run and close ``engine``; signals stop it. Return False if it was stopped before it had started.

    ``status`` is a line that a terminal shows now and then while it runs. ``broker`` is what its start waits for.
    """
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(engine.start())
    signals_seen = 0

    def on_signal() -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            os._exit(INTERRUPTED)  # a second signal: do not wait for anything
        starting.cancel()
        engine.stop()

    on_stop_signals(loop, on_signal)
    try:
        await asyncio.wait({starting}, timeout=_SAY_AFTER_S)
        if not starting.done():
            _tell_what_is_awaited(broker)
        await starting
        _freeze_loaded_objects()
        on_started()
        async with telling(status):
            await engine.run()
    except asyncio.CancelledError:
        if not starting.cancelled():
            raise
        return False
    finally:
        await engine.close()
    return True


def _tell_what_is_awaited(broker: Broker | None) -> None:
    """Say why this has not started yet: the broker is away, or its answers take long. Only the first can be refused."""
    refusal = "; with --no-wait this ends at once instead" if _has_flag("--no-wait") else ""
    if broker is None:
        if refusal:
            log.info("not started yet%s", refusal)
    elif broker.obstacle:
        log.info("not started yet: %s%s", broker.obstacle, refusal)
    else:
        log.info("not started yet: waiting for answers of the broker at %s", broker.address)


def _has_flag(flag: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and any(flag in parameter.opts for parameter in context.command.params)


@contextlib.asynccontextmanager
async def serving(app: Any, api: ApiSettings, port: int, default_port: int) -> AsyncIterator[str]:
    """Serve a control API and yield its URL ("" when it is switched off).

    Nobody asked for the default port in particular. If it is taken, as by another producer or consumer, a free one is
    used and logged; if the extra for the API is missing, that is logged and nothing is served.
    """
    if not api.enabled:
        yield ""
        return
    if port == default_port and lacks("bench"):
        log.warning("%s (--no-api: no notice)", MissingExtraError("bench", "the control API is not served: it"))
        yield ""
        return
    from backpressure.api.serving import ApiServer  # costs 48 MB: only where an API is served

    try:
        server = ApiServer(app(), host=api.host, port=port, token=api.token, key="api.host", flag="--api-port")
    except PortTakenError as error:
        if port != default_port:
            raise
        server = ApiServer(app(), host=api.host, port=0, token=api.token, key="api.host", flag="--api-port")
        log.warning("%s; this one listens on %d", error, server.port)
    async with server:
        yield server.url


def _freeze_loaded_objects() -> None:
    """Exclude all objects created so far from garbage collection, and collect the others less often.

    A full collection visits every object. With the hundred thousand objects of imported libraries it would stop the
    process for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
