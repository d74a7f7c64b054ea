"""Runs that are started, steered and stopped from outside while a program serves somebody: one at a time.

The driver conducts a run in the caller's event loop, keeps what can be told of it, and lets settings be changed and
faults be injected while the phases last. What is done by hand is noted in the run, so its report shows it.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from backpressure.core.controllers import LAWS
from backpressure.core.snapshot import Snapshot
from backpressure.errors import ConfigError, ExperimentError, PaceError
from backpressure.experiments import library
from backpressure.experiments.brokers import BrokerChoice, check_broker
from backpressure.experiments.document import to_toml
from backpressure.experiments.fault_effects import Injection, Stage
from backpressure.experiments.faults import FAULTS, Fault
from backpressure.experiments.faults import check as check_faults
from backpressure.experiments.faults import parse as parse_fault
from backpressure.experiments.report import conclude
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.experiments.runner import Runner, ShareDone
from backpressure.experiments.scenario import Scenario
from backpressure.settings import Settings

ADJUSTABLE = frozenset(
    {"producer.rate", "producer.strategy", "producer.count", "consumer.rate", "consumer.count", "consumer.prefetch"}
)
"""The settings that may be changed while a run lasts."""

_NOTES = 200
_LONGEST_FAULT_S = 600.0


class PhasePlan(BaseModel):
    """A phase by its name, and how long it lasts at the most."""

    name: str
    duration_s: float


class RunState(BaseModel):
    """What the present run does, or what the last one did.

    *idle*: none is under way. ``phase`` is the index of the present one, ``elapsed_s`` how long it has lasted, and
    ``share`` how much of it is done. ``reason`` says why there is no verdict, or that a fault could not be undone.
    """

    state: Literal["idle", "starting", "running", "stopping", "judging"] = "idle"
    scenario: str = ""
    strategy: str = ""
    title: str = ""
    broker: str = ""
    folder: str = ""
    phases: list[PhasePlan] = []
    phase: int | None = None
    elapsed_s: float = 0.0
    share: float | None = None
    fault: str = ""
    notes: list[tuple[float, str]] = []
    settings: dict[str, float | int | str] = {}
    verdict: str = ""
    sentence: str = ""
    reason: str = ""


class Driver:
    """Conducts one run after the other; it watches each (`Watcher`).

    Attributes:
        latest: the newest view of the loop of the present run; None: there is none.
        changed: called whenever the state is another.
    """

    def __init__(self, runs: Path, choice: BrokerChoice) -> None:
        """Put folders of runs into ``runs``, and run on the broker that is the ``choice``."""
        self.changed: Callable[[], None] = lambda: None
        self.runs = runs
        self.choice = choice
        self.latest: Snapshot | None = None
        self._state = RunState()
        self._notes: deque[tuple[float, str]] = deque(maxlen=_NOTES)
        self._phase_began = 0.0
        self._share_done: ShareDone = lambda _: None
        self._runner: Runner | None = None
        self._task: asyncio.Task[None] | None = None
        self._prepared: frozenset[type[Fault]] = frozenset()
        self._injected: tuple[Fault, Injection] | None = None
        self._undoing: asyncio.Task[None] | None = None

    # --- what is asked of it ------------------------------------------------------------------------------------------

    def start(self, scenario: str, *, strategy: str = "", assignments: Sequence[str] = (), ready: bool = False) -> None:
        """Begin a run of a shipped ``scenario``; raises `ConfigError`, or `ExperimentError` while one is under way.

        ``ready``: also for faults of the network and restarts of the broker, which costs some throughput.
        """
        if self._task is not None:
            raise ExperimentError(f"{self._state.scenario} is under way: stop it first, or wait for its end")
        if scenario not in library.shipped():
            raise ConfigError("scenario", scenario, f"expected one of {', '.join(library.shipped())}")
        _refuse_files(assignments)
        plan = library.load(scenario, assignments, strategy, defaults=self.choice.defaults)
        _refuse_code(plan)
        check_broker(plan, self.choice)
        kinds = set(map(type, plan.faults))
        if ready:
            kinds |= {kind for kind in FAULTS.values() if not self._impossible(kind)}
        self._prepared = frozenset(kinds)
        directory = create(self.runs, plan.name, datetime.now().astimezone())
        directory.write_scenario(to_toml(plan.document))
        given = [f"--set={text}" for text in assignments] + ([f"--strategy={strategy}"] if strategy else [])
        command = shlex.join(["pace", "run", scenario, "--broker", self.choice.label, *given])
        self._runner = Runner(plan, directory, self.choice, self, command, ready_for=kinds)
        self.latest = None
        self._notes.clear()
        settings = plan.settings
        self._state = RunState(
            state="starting",
            scenario=plan.name,
            strategy=settings.producer.strategy,
            title=plan.summary,
            folder=directory.path.name,
            phases=[PhasePlan(name=phase.name, duration_s=phase.duration_s) for phase in plan.phases],
            settings=_adjustable(settings),
        )
        self._task = asyncio.create_task(self._conduct(self._runner, directory), name="run")
        self.changed()

    def stop(self) -> None:
        """End the run: cleanly, and when asked once more at once; raises `ExperimentError` when there is none."""
        if self._runner is None or self._state.state not in {"starting", "running", "stopping"}:
            raise ExperimentError("no run is under way")
        self._set(state="stopping")
        self._runner.interrupt()

    async def adjust(self, changes: Mapping[str, Any]) -> None:
        """Change settings of the processes, by dotted key; raises `ConfigError`, `ExperimentError` without a phase."""
        for key in changes:
            if key not in ADJUSTABLE:
                raise ConfigError("changes", key, f"expected one of {', '.join(sorted(ADJUSTABLE))}")
        law = changes.get("producer.strategy", LAWS[0])
        if law not in LAWS:
            raise ConfigError("producer.strategy", law, f"expected one of {', '.join(LAWS)}")
        stage = self._stage()
        await stage.fleet.adjust(changes)
        stage.happened("by hand: " + ", ".join(f"{key} = {value}" for key, value in changes.items()))
        self._set(settings=_adjustable(stage.fleet.settings), strategy=stage.fleet.settings.producer.strategy)

    def inject(self, text: str, for_s: float) -> None:
        """Begin the fault ``text`` (as a scenario writes it) for so many seconds, one at a time.

        Raises `ConfigError`, or `ExperimentError` when it is not possible now.
        """
        self._stage()
        assert self._runner is not None
        fault = parse_fault(text, "fault", "the page").model_copy(update={"for_s": for_s})
        if not 0 < for_s <= _LONGEST_FAULT_S:
            raise ConfigError("for_s", for_s, f"expected more than 0, at most {_LONGEST_FAULT_S:g} seconds")
        if obstacle := self.kept_from(type(fault)):
            raise ExperimentError(f"{fault.name}: {obstacle}")
        if self._injected is not None:
            raise ExperimentError(f"{self._injected[0].name} is not over: one fault at a time")
        self._injected = (fault, self._runner.inject(fault))
        self._undoing = asyncio.create_task(self._end_of_fault(), name="fault")
        self._set(fault=fault.name)

    def kept_from(self, kind: type[Fault]) -> str:
        """Return why a fault of that kind cannot be injected into the present run; empty if it can."""
        if impossible := self._impossible(kind):
            return impossible
        special = kind.through_proxy or kind.restarts_broker or kind.moves_clocks
        if special and kind not in self._prepared:
            return "the run was not made ready for it at its start"
        return ""

    async def close(self) -> None:
        """End a run that is under way, cleanly, and return when nothing of it is left."""
        if self._task is None:
            return
        if self._runner is not None and self._state.state in {"starting", "running"}:
            self.stop()
        await asyncio.wait({self._task})

    @property
    def busy(self) -> bool:
        """Whether a run is under way or being judged."""
        return self._task is not None

    @property
    def state(self) -> RunState:
        """What can be told now."""
        elapsed_s = time.monotonic() - self._phase_began if self._state.phase is not None else 0.0
        share = self._share_done(self.latest) if self.latest and self._state.state == "running" else None
        known: dict[str, Any] = {"elapsed_s": elapsed_s, "share": share, "notes": list(self._notes)}
        if self._runner and self._runner.stage:  # what holds now: phases change settings too
            settings = self._runner.stage.fleet.settings
            known |= {"settings": _adjustable(settings), "strategy": settings.producer.strategy}
        return self._state.model_copy(update=known)

    # --- what the run tells (`Watcher`) -------------------------------------------------------------------------------

    def began(self, title: str, broker: str, queue: str, phases: Sequence[tuple[str, float]]) -> None:  # noqa: ARG002 - known
        """Everything is ready."""
        self._set(broker=broker)

    def phase_began(self, index: int, share_done: ShareDone) -> None:
        """The phase with this index begins."""
        self._phase_began, self._share_done = time.monotonic(), share_done
        state = "running" if self._state.state == "starting" else self._state.state
        self._set(state=state, phase=index)

    def sampled(self, snapshot: Snapshot) -> None:
        """Keep the newest view."""
        self.latest = snapshot

    def noted(self, text: str) -> None:
        """Keep what is worth a line, with the time of day."""
        self._notes.append((time.time(), text))
        self.changed()

    # --- its own ------------------------------------------------------------------------------------------------------

    async def _conduct(self, runner: Runner, directory: RunDirectory) -> None:
        reason = ""
        try:
            await runner.run()
        except PaceError as error:
            reason = str(error)
        task = asyncio.current_task()
        while (
            task is not None and task.cancelling()
        ):  # it was stopped at once: what was measured is judged all the same
            task.uncancel()
        self._set(state="judging", phase=None, fault="", reason=reason)
        self.latest = None
        try:
            if directory.has_begun:
                summary = await asyncio.to_thread(conclude, directory)
                self._set(verdict=summary.verdict, sentence=summary.sentence)
        except PaceError as error:
            self._set(reason="; ".join(filter(None, (reason, str(error)))))
        finally:
            self._runner = self._task = None
            self._set(state="idle")

    async def _end_of_fault(self) -> None:
        """Wait until the fault is over, by its time or with the phases."""
        assert self._injected is not None
        fault, injection = self._injected
        await injection.until_over()
        try:
            await injection.undo()
        except PaceError as error:
            self.noted(f"{fault.name}: {error}")
        self._injected = None
        self._set(fault="")

    def _stage(self) -> Stage:
        stage = self._runner.stage if self._runner is not None else None
        if stage is None or self._state.state != "running":
            raise ExperimentError("no phase of a run is under way")
        return stage

    def _impossible(self, kind: type[Fault]) -> str:
        """Return why the broker cannot have a fault of that kind; empty if it can."""
        try:
            check_faults([kind()], self.choice.kind, self.choice.url, self.choice.nodes)
        except ConfigError as error:
            return error.allowed
        return ""

    def _set(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)
        self.changed()


def _refuse_code(plan: Scenario) -> None:
    """Raise `ConfigError` if ``plan`` runs code of the user's: those who drive runs may not name programs."""
    ours = "programs, handlers and laws of your own are named on the command line only: pace run"
    if plan.strange:
        raise ConfigError("settings", " and ".join(sorted(plan.strange)), ours)
    for phase in plan.phases:
        producer = phase.settings.producer
        for named in (phase.settings.consumer.handler, producer.handler, producer.strategy):
            if named and named not in LAWS:
                raise ConfigError("settings", named, ours)


def _refuse_files(assignments: Sequence[str]) -> None:
    """Raise `ConfigError` for a setting that names a file or folder: the runner would read or write it."""
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        name = key.strip().rpartition(".")[2]
        if name.endswith("_file") or name in {"folder", "samples"} or "file=" in value or "file:" in value:
            raise ConfigError("settings", assignment, "files are named on the command line only: pace run")


def _adjustable(settings: Settings) -> dict[str, float | int | str]:
    found: dict[str, float | int | str] = {}
    for key in sorted(ADJUSTABLE):
        section, name = key.split(".")
        found[key] = getattr(getattr(settings, section), name)
    return found
