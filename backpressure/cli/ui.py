"""``pace ui``: runs driven from a page."""

from __future__ import annotations

import asyncio
import contextlib
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backpressure import program
from backpressure.cli import options
from backpressure.cli.process import run_engine, settings_from
from backpressure.dashboards.advice import advise
from backpressure.experiments.brokers import parse_choice
from backpressure.settings import Settings
from backpressure.ui import assets
from backpressure.ui.driver import Driver

if TYPE_CHECKING:
    from backpressure.api.monitor import LiveFeed

_TELL_S = 1.0


@click.command()
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any free one")
@options.broker_choice
@options.runs_folder
@click.option("--open", "opened", is_flag=True, help="Open the page in a browser")
@options.logs
@click.pass_context
def ui(context: click.Context, /, *, port: int, broker: str, runs: Path, opened: bool, **_: object) -> None:
    """Drive runs from a page: choose a scenario, start, watch, disturb, stop, compare.

    The page is for this machine; with a token (PACE_API__TOKEN) and PACE_API__HOST for others as well. One run at a
    time; Ctrl-C ends it cleanly, and nothing of it is left.
    """
    program.require_posix("pace ui", "POSIX signals and process groups")
    program.run(_serve(settings_from(context), port, Driver(runs, parse_choice(broker)), opened=opened))


async def _serve(settings: Settings, port: int, driver: Driver, *, opened: bool) -> None:
    from backpressure.api.monitor import LiveFeed  # FastAPI is imported only where something is served
    from backpressure.api.serving import ApiServer
    from backpressure.ui.served import ui_app

    feed = LiveFeed(lambda: driver.latest, advise)
    api = settings.api
    app = ui_app(driver, feed, assets())
    async with ApiServer(app, host=api.host, port=port, token=api.token, key="api.host", flag="--port") as server:

        def on_started() -> None:
            click.echo(f"ui: {server.url}/ (broker {driver.choice.label}, runs in {driver.runs}; Ctrl-C ends it)")
            if opened:
                webbrowser.open(f"{server.url}/")

        await run_engine(_Serving(driver, feed), on_started=on_started)


class _Serving:
    """The driver and what the pages are told of it, in the form that `run_engine` runs."""

    def __init__(self, driver: Driver, feed: LiveFeed) -> None:
        self._driver = driver
        self._feed = feed
        self._stopping = asyncio.Event()
        driver.changed = self._tell

    async def start(self) -> None:
        """Nothing is connected before a run."""

    async def run(self) -> None:
        """Tell the pages how it is, once a second, until it is stopped."""
        while not self._stopping.is_set():
            self._feed.take()
            if self._driver.busy:
                self._tell()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TELL_S)

    def stop(self) -> None:
        """End it, and a run with it."""
        if self._driver.busy:
            click.echo("stopping the run: producers, then consumers (Ctrl-C once more: at once)")
        self._stopping.set()

    async def close(self) -> None:
        """End the run that is under way."""
        await self._driver.close()
        self._feed.close()

    def _tell(self) -> None:
        self._feed.tell("run", self._driver.state.model_dump())
