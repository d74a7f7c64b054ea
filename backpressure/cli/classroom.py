"""``pace classroom``: the loop simulated in the browser, for lessons without a broker."""

from __future__ import annotations

import asyncio
import webbrowser
from pathlib import Path

import click
from pydantic import SecretStr

from backpressure import program
from backpressure.cli.process import run_engine
from backpressure.dashboards.classroom import LESSONS, assets, standalone
from backpressure.errors import ConfigError


@click.command()
@click.argument("lesson", type=click.IntRange(0, LESSONS), default=0)
@click.option("--port", default=8090, show_default=True, type=click.IntRange(0, 65535), help="0: any free one")
@click.option("--open", "opened", is_flag=True, help="Open the page in a browser")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the page as one file instead, to hand out or to put on a web server",
)
def classroom(lesson: int, *, port: int, opened: bool, save: Path | None) -> None:
    """Serve the classroom: a page that simulates producer, queue and consumers in the browser.

    Sliders change rates, work, prefetch, the queue's bound and the law; nothing is installed, sent or loaded from
    elsewhere. LESSON is the number of a lab (docs/labs); without it everything may be tried.
    """
    if save is not None:
        try:
            save.write_text(standalone(), encoding="utf-8")
        except OSError as error:
            raise ConfigError("--save", str(save), f"cannot be written: {error.strerror}") from None
        click.echo(f"classroom: {save}")
        return
    program.run(_serve(f"#lesson={lesson}" if lesson else "", port, opened=opened))


async def _serve(place: str, port: int, *, opened: bool) -> None:
    from fastapi import Response

    from backpressure.api.common import create_app  # FastAPI is imported only where something is served
    from backpressure.api.serving import ApiServer, Page

    app = create_app("Pace Matching: classroom", "A simulation of the loop; it runs in the browser.")
    page = Page(app, assets())

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return page.answer()

    server = ApiServer(app, host="127.0.0.1", port=port, token=SecretStr(""), key="--port", flag="--port")
    async with server:

        def on_started() -> None:
            click.echo(f"classroom: {server.url}/{place} (Ctrl-C ends it)")
            if opened:
                webbrowser.open(f"{server.url}/{place}")

        await run_engine(_Idler(), on_started=on_started)


class _Idler:
    """Nothing to do but to be there until it is stopped, in the form that `run_engine` runs."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Nothing is connected."""

    async def run(self) -> None:
        """Wait for the end."""
        await self._stopping.wait()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()

    async def close(self) -> None:
        """Nothing is open."""
