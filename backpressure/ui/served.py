"""What `pace ui` serves: a page that drives runs, and the same as an HTTP API.

Who may ask is decided where all our apps are served (`serving`): this machine alone unless there is a token, and no
pages of other sites. Runs are those of shipped scenarios on the broker that the command line names; reports are shown
without access to this API (a sandbox).
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from backpressure.api.common import RequestBody, create_app
from backpressure.api.monitor import LiveFeed, streaming
from backpressure.api.serving import Page
from backpressure.core.controllers import LAWS
from backpressure.errors import ConfigError
from backpressure.experiments import library
from backpressure.experiments.faults import FAULTS
from backpressure.experiments.past_runs import past_runs
from backpressure.experiments.report.comparison_page import write_comparison
from backpressure.experiments.rundir import RunDirectory
from backpressure.ui.driver import ADJUSTABLE, Driver, RunState

_RUNS_SHOWN = 50
_REPORT_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Start(RequestBody):
    """A run: a shipped scenario, perhaps under another law and with other settings (``key=value``)."""

    scenario: str = Field(max_length=100)
    strategy: str = Field("", max_length=200)
    settings: list[str] = Field([], max_length=50)
    ready: bool = Field(
        default=False, description="for faults of the network and restarts of the broker; it costs throughput"
    )


class Changes(RequestBody):
    """Settings by dotted key, for all processes of their role."""

    changes: dict[str, int | float | str] = Field(min_length=1, max_length=len(ADJUSTABLE))


class FaultWanted(RequestBody):
    """A fault as scenarios write it, and how many seconds it lasts."""

    fault: str = Field(max_length=200)
    for_s: float = Field(10.0, gt=0, allow_inf_nan=False)


class Pair(RequestBody):
    """Two runs by the names of their folders."""

    run: str = Field(max_length=300)
    other: str = Field(max_length=300)


class ScenarioChoice(BaseModel):
    """A scenario that ships."""

    name: str
    summary: str
    strategy: str
    duration_s: float
    phases: list[str]


class FaultChoice(BaseModel):
    """A fault, what it does, and what keeps it from being injected now; empty: nothing."""

    name: str
    summary: str
    obstacle: str


class Choices(BaseModel):
    """What there is to choose from."""

    scenarios: list[ScenarioChoice]
    laws: list[str]
    faults: list[FaultChoice]
    broker: str
    runs: str


class EarlierRun(BaseModel):
    """A run of the folder."""

    name: str
    scenario: str
    strategy: str
    broker: str
    started_at: str
    verdict: str
    sentence: str
    utilisation: float | None
    wait_p99_ms: float | None


class Compared(BaseModel):
    """Where the comparison of A and B is, and what it says."""

    url: str
    sentence: str


def ui_app(driver: Driver, feed: LiveFeed, assets: Mapping[str, Path]) -> FastAPI:
    """Return the app: ``driver`` conducts the runs, ``feed`` tells every open page, ``assets`` are the page's files."""
    app = create_app("Pace Matching: runs", "Start, watch, disturb, stop and compare runs; one at a time.")
    page = Page(app, assets)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return page.answer()

    @app.get("/api/choices")
    async def choices() -> Choices:
        """Scenarios, laws and faults."""
        faults = [
            FaultChoice(name=name, summary=(kind.__doc__ or "").split("\n")[0], obstacle=driver.kept_from(kind))
            for name, kind in FAULTS.items()
        ]
        scenarios = await asyncio.to_thread(_scenarios)
        runs = str(driver.runs)
        return Choices(scenarios=scenarios, laws=list(LAWS), faults=faults, broker=driver.choice.label, runs=runs)

    @app.get("/api/stream", response_class=StreamingResponse)
    async def stream() -> StreamingResponse:
        """Server-sent events: ``history``, then ``tick`` each second of a run, and ``run`` when its state changes."""
        return streaming(feed)

    _serve_run(app, driver, feed)
    _serve_earlier(app, driver.runs)
    return app


def _serve_run(app: FastAPI, driver: Driver, feed: LiveFeed) -> None:
    """Add what concerns the present run."""

    @app.get("/api/run")
    async def present() -> RunState:
        """The run that is under way, or how the last one ended."""
        return driver.state

    @app.post("/api/run", status_code=202)
    async def start(wanted: Start) -> RunState:
        """Begin a run; 409 while another is under way."""
        driver.start(wanted.scenario, strategy=wanted.strategy, assignments=wanted.settings, ready=wanted.ready)
        feed.forget()
        return driver.state

    @app.post("/api/run/stop", status_code=202)
    async def stop() -> RunState:
        """Stop producers, then consumers, and judge what was measured; asked once more: at once."""
        driver.stop()
        return driver.state

    @app.post("/api/run/settings")
    async def adjust(wanted: Changes) -> RunState:
        """Change settings of all processes of a role, until a phase changes them."""
        await driver.adjust(wanted.changes)
        return driver.state

    @app.post("/api/run/fault", status_code=202)
    async def fault(wanted: FaultWanted) -> RunState:
        """Inject a fault; 409 when the run is not ready for it, or another is not over."""
        driver.inject(wanted.fault, wanted.for_s)
        return driver.state


def _serve_earlier(app: FastAPI, runs: Path) -> None:
    """Add what concerns the runs in the folder."""

    @app.get("/api/runs")
    async def earlier() -> list[EarlierRun]:
        """The latest runs of the folder, the newest first."""
        return await asyncio.to_thread(_earlier, runs)

    @app.post("/api/compare")
    async def compare(wanted: Pair) -> Compared:
        """Put two runs side by side on a page."""
        if wanted.run == wanted.other:
            raise HTTPException(422, "these are the same run: choose two")
        one, other = (_folder(runs, name) for name in (wanted.run, wanted.other))
        command = shlex.join(["pace", "report", str(runs / wanted.run), str(runs / wanted.other)])
        found = await asyncio.to_thread(write_comparison, RunDirectory(one), RunDirectory(other), command)
        return Compared(url=f"/runs/{wanted.run}/compare.html", sentence=found.sentence)

    @app.get("/runs/{name}/{file}", response_class=FileResponse)
    async def report(name: str, file: Literal["report.html", "compare.html"]) -> FileResponse:
        """The report of a run, or its last comparison."""
        path = _folder(runs, name) / file
        if not path.is_file():
            raise HTTPException(404, f"{name} has no {file}")
        return FileResponse(path, headers=_REPORT_HEADERS | {"Cache-Control": "no-store"})


def _scenarios() -> list[ScenarioChoice]:
    found: list[ScenarioChoice] = []
    for name in library.shipped():
        plan = library.load(name)
        if plan.strangers.count:
            continue  # for simulations alone
        duration_s = sum(phase.duration_s for phase in plan.phases)
        phases = [f"{phase.name} {phase.duration_s:g} s" for phase in plan.phases]
        strategy = plan.settings.producer.strategy
        found.append(
            ScenarioChoice(name=name, summary=plan.summary, strategy=strategy, duration_s=duration_s, phases=phases)
        )
    return found


def _earlier(runs: Path) -> list[EarlierRun]:
    try:
        found = past_runs(runs)
    except ConfigError:
        return []  # there is none yet
    shown = [run for run in found if (run.folder / "report.html").is_file()][-_RUNS_SHOWN:]
    return [
        EarlierRun(
            name=run.folder.name,
            scenario=run.summary.scenario,
            strategy=run.summary.strategy,
            broker=run.summary.broker,
            started_at=run.summary.started_at,
            verdict=run.summary.verdict,
            sentence=run.summary.sentence,
            utilisation=run.summary.utilisation,
            wait_p99_ms=run.summary.wait_ms.p99,
        )
        for run in reversed(shown)
    ]


def _folder(runs: Path, name: str) -> Path:
    """Return the folder of a run right below ``runs``; no other place is read."""
    path = runs / name
    if Path(name).name != name or name in {"", ".", ".."} or not (path / "run.json").is_file():
        raise HTTPException(404, f"there is no run {name}")
    return path
