"""The producers, consumers and the monitor of a run: as many as the phase asks for, with the current settings."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, Self, cast

import httpx

from backpressure.config import as_environment, replaced
from backpressure.core.addresses import BrokerAddress
from backpressure.engines.payloads import profile_of
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.agents.pool import AgentPool, ElsewhereTransport
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.roles import ROLES, RoleName, environment_of, filled_in, placeholders
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.scenario import Phase, Scenario, load_of, process_seed
from backpressure.experiments.supervisor import Child, Supervisor
from backpressure.settings import Settings

_SECTIONS: dict[RoleName, tuple[str, ...]] = {
    "producer": ("producer", "control", "queue"),
    "consumer": ("consumer", "retry"),
}
_COUNTS = {"producer.count", "consumer.count"}
_MOVABLE_CLOCK = Path(__file__).with_name("movable_clock.py")
_CLOCK = Struct("=q")


class Fleet:
    """Starts, changes and stops the processes under test."""

    def __init__(
        self,
        supervisor: Supervisor,
        control: ProcessControl,
        directory: RunDirectory,
        *,
        common: Mapping[str, Any],
        scenario: Scenario,
        consumers: Callable[[], Awaitable[int | None]] | None = None,
        tell: Callable[[str], None] = lambda _: None,
        agents: AgentPool | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            supervisor: starts and stops processes.
            control: changes those that are ours.
            directory: where they write.
            common: settings, by dotted key, of every process: broker, queue names, clock.
            scenario: what is to run.
            consumers: returns how many consumers the work queue has now (None: unknown); for commands only.
            tell: is called with what is worth a line.
            agents: has the processes that are to run on other machines.
        """
        self._supervisor = supervisor
        self._agents = agents
        self._on_agents = scenario.on_agents
        self._control = control
        self._directory = directory
        self._common = common
        self._seed = scenario.seed
        self._settings = scenario.settings
        self._overrides: dict[str, Any] = {}
        self._adjusted: dict[str, Any] = {}
        self._limits: dict[str, int] = {}
        self._roles = scenario.roles
        self._ledger = scenario.ledger
        self._capacity_known = scenario.capacity_known
        self._consumers = consumers
        self._tell = tell
        self._profile = profile_of(self._settings)
        self._went_ns = 0
        self._restarts: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._clocks_move = any(fault.moves_clocks for fault in scenario.faults)
        if self._clocks_move:
            for role in _SECTIONS:
                directory.clock(role).write_bytes(_CLOCK.pack(0))

    async def launch_proxy(self, url: str) -> None:
        """Start `pace proxy` before the broker at ``url``; what is launched from now on connects through it."""
        process_id = self._supervisor.next_id("proxy")
        own = {"broker.url": url, "process.announce_file": str(self._directory.announcement(process_id))}
        environment = as_environment(replaced(self._settings, {**self._common, **own}))
        command = [sys.executable, "-m", "backpressure", "proxy", "--listen", "127.0.0.1:0", "--no-api"]
        options = ["--queue", self._common.get("queue.work", self._settings.queue.work)]
        child = await self._supervisor.start("proxy", process_id, [*command, *options], environment)
        through = BrokerAddress.parse(str(child.announced["url"]))
        self._common = {**self._common, "broker.url": BrokerAddress.parse(url).at(through.servers)}

    async def launch(self) -> None:
        """Start everything that the first phase needs, producers paused; returns when all are ready."""
        starts = [self._start("monitor")]
        starts += [self._start("consumer") for _ in range(self._wanted("consumer"))]
        if not self._roles["producer"].is_stranger:
            starts += [self._start("producer", paused=True) for _ in range(self._wanted("producer"))]
        await asyncio.gather(*starts)

    async def go(self, at_ns: int = 0) -> None:
        """Let all producers begin; a command that produces cannot wait, and is started now."""
        self._went_ns = at_ns
        if self._roles["producer"].command:
            await asyncio.gather(*(self._start("producer") for _ in range(self._wanted("producer"))))
        else:
            await self._control.resume(self._supervisor.of("producer"))

    def _wanted(self, role: str) -> int:
        """Return how many the settings ask for that the run has to start."""
        count: int = getattr(self._settings, role).count
        return 0 if role in self._roles and self._roles[cast("RoleName", role)].external else count

    async def configure(self, phase: Phase, at_ns: int = 0) -> Settings:
        """Apply the settings of ``phase`` to the running processes and return the previous settings.

        Raises `ConfigError` when a process refuses them.
        """
        for role, sections in _SECTIONS.items():
            if self._roles[role].is_stranger:
                continue
            wanted = {k: v for k, v in phase.changes.items() if k.split(".")[0] in sections and k not in _COUNTS}
            await self._control.configure(self._supervisor.of(role), wanted)
        self._adjusted = {key: value for key, value in self._adjusted.items() if key not in phase.changes}
        before, self._settings = self._settings, replaced(phase.settings, self._adjusted)
        if "producer.profile" in phase.changes:
            self._profile, self._went_ns = profile_of(phase.settings), at_ns
        return before

    async def adjust(self, changes: Mapping[str, Any]) -> None:
        """Change settings, by dotted key, from outside, until a phase changes them; a count starts or stops processes.

        Raises `ConfigError` when one is not allowed or a process refuses it.
        """
        wanted = replaced(self._settings, changes)  # is refused as a whole before anything is changed
        for role, sections in _SECTIONS.items():
            own = {key: value for key, value in changes.items() if key.split(".")[0] in sections and key not in _COUNTS}
            if own and self._roles[role].is_stranger:
                raise ExperimentError(f"the {role} is a program of yours: its settings cannot be changed from here")
            await self._control.configure(self._supervisor.of(role), own)
        self._adjusted |= changes
        before, self._settings = self._settings, wanted
        await self.scale(before)

    async def scale(self, before: Settings) -> None:
        """Start or stop processes, by the difference between the settings and those ``before``; the newest stop first.

        The number of live processes does not matter: a producer that has reached its limit is not replaced.
        """
        await asyncio.gather(*(self._scale(role, before) for role in _SECTIONS))

    async def replace(self, killed: Iterable[Child]) -> list[Child]:
        """Start a new process for each killed one and return the new ones.

        A producer with a limit continues with what its predecessor had not settled; if nothing is left, none is
        started.
        """
        starts = []
        for child in killed:
            limit = self._limits.get(child.id, 0)
            self._is_done(child)
            left = limit - self._limits.get(child.id, 0)
            if left > 0 or not limit:
                starts.append(self._start(child.role, limit=left))
        return await asyncio.gather(*starts)

    @asynccontextmanager
    async def overriding(self, changes: Mapping[str, Any]) -> AsyncIterator[None]:
        """Override settings of consumers, by dotted key, also for consumers that start in the meantime."""
        self._overrides |= changes
        try:
            await self._control.configure(self._supervisor.of("consumer"), changes)
            yield
        finally:
            for key in changes:
                del self._overrides[key]
            own = {key: getattr(self._settings.consumer, key.removeprefix("consumer.")) for key in changes}
            await self._control.configure(self._supervisor.of("consumer"), own)

    def move_clock(self, role: str, by_s: float) -> None:
        """Set the wall clock of every process of ``role``, running or started later, wrong by ``by_s`` seconds."""
        with self._directory.clock(role).open("r+b") as file:  # in place: the processes have mapped the file
            file.write(_CLOCK.pack(round(by_s * 1e9)))

    async def stop(self, *, between: Callable[[], Awaitable[None]] | None = None) -> None:
        """Stop producers, which flush their confirms, then consumers, which finish what they hold, then the monitor.

        ``between`` is awaited when the producers have ended and the consumers still run.
        """
        self._stopped = True
        for task in self._restarts:
            task.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await self._supervisor.stop(self._supervisor.of("producer"))
        if between is not None:
            await between()
        for role in ("consumer", "monitor"):
            await self._supervisor.stop(self._supervisor.of(role))

    @property
    def varies(self) -> bool:
        """Whether the offered load varies within a phase."""
        return self._settings.producer.profile != "steady"

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._settings

    @property
    def due(self) -> int:
        """How many messages all producers have to settle: their limits, or what they had settled when they stopped.

        Only with ``producer.limit``: without one, a producer never finishes.
        """
        return sum(self._limits.values())

    def load(self, at_ns: int) -> LoadChanged:
        """Return the capacity of the ready consumers and the offered load of the running producers."""
        consumers = self._working("consumer") if self._capacity_known else None
        share = self._profile.share((at_ns - self._went_ns) / 1e9) if self._went_ns else 1.0
        return load_of(self._settings, at_ns, consumers, round(self._working("producer")), share=share)

    def _working(self, role: str) -> float:
        """Return how many are ready, without those that hang or are about to stop; a slowed one counts in part."""
        wanted: int = getattr(self._settings, role).count
        if self._roles[cast("RoleName", role)].external:
            return wanted
        ready = [child for child in self._supervisor.of(role) if child.announced and not child.suspended]
        return min(sum(child.slowed_to for child in ready), wanted)

    async def _scale(self, role: str, before: Settings) -> None:
        more: int = getattr(self._settings, role).count - getattr(before, role).count
        if more < 0:
            leaving = self._supervisor.of(role)[more:]
            await self._supervisor.stop(leaving)
            for child in leaving:
                self._is_done(child)
        else:
            await asyncio.gather(*(self._start(role) for _ in range(more)))

    def _is_done(self, child: Child) -> None:
        """Expect no more of a producer with a limit than it has settled so far."""
        if self._limits.get(child.id):
            self._limits[child.id] = self._directory.outcomes(child.id).total()

    async def _start(self, role: str, *, paused: bool = False, limit: int = 0) -> Child:
        """Start one; ``limit`` replaces ``producer.limit`` unless it is 0."""
        if role in ROLES and self._roles[role].command:
            return await self._start_command(role)
        process_id = self._supervisor.next_id(role)
        own: dict[str, Any] = {
            "process.announce_file": str(self._directory.announcement(process_id)),
            "process.seed": process_seed(self._seed, process_id),
            "process.folder": str(Path.cwd()),
            "api.enabled": True,
            "api.producer_port": 0,
            "api.consumer_port": 0,
            "monitor.port": 0,
        }
        if role == "producer":
            self._limits[process_id] = limit or self._settings.producer.limit
            own |= {
                "producer.producer_id": process_id,
                "producer.start_paused": paused,
                "producer.limit": self._limits[process_id],
            }
            if self._ledger is not None and not self._ledger.id_is_ours:
                own |= {
                    "process.ids_file": str(self._directory.ids(process_id)),
                    "process.id_field": self._ledger.id,
                }
        if role == "consumer":
            own |= {"consumer.name": process_id}
        if role != "monitor":
            own |= {"process.journal_file": str(self._directory.journal(process_id))}
        settings = replaced(self._settings, {**self._common, **self._overrides, **own})
        if self._agents is not None and role in self._on_agents:
            remote = self._agents.start(role, process_id, settings)
            return await self._supervisor.start_elsewhere(role, process_id, remote, remote.announcement())
        environment = as_environment(settings)
        program = ["-m", "backpressure"]
        if self._clocks_move and role in _SECTIONS:
            program = ["-P", str(_MOVABLE_CLOCK), str(self._directory.clock(role))]
        command = [sys.executable, *program, role]
        return await self._supervisor.start(role, process_id, command, environment)

    async def _start_command(self, role: RoleName) -> Child:
        """Start a program of the user's and return it once it is ready."""
        process_id = self._supervisor.next_id(role)
        settings = replaced(self._settings, dict(self._common))
        index = int(process_id.rpartition("-")[2])
        url, run = settings.broker.full_url(), str(self._directory.path)
        values = placeholders(url, settings.queue, name=process_id, index=index, run=run)
        player = self._roles[role]
        child = await self._supervisor.start_command(
            role,
            process_id,
            [filled_in(word, values) for word in player.words()],
            environment_of(player, values),
            stop_s=player.stop_s,
            on_end=self._command_ended,
        )
        if role == "consumer" and player.ready_s:
            await self._until_it_consumes(child, player.ready_s)
        if child.alive:
            self._supervisor.ready(child)
        return child

    async def _until_it_consumes(self, child: Child, patience_s: float) -> None:
        """Wait until the queue has as many consumers as there are commands; raises `ExperimentError` when it has not.

        A broker that cannot tell leaves a second for a command that fails at once.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while child.alive and loop.time() - began < patience_s:
            count = None if self._consumers is None else await self._consumers()
            if count is None and loop.time() - began > _UNTOLD_S:
                return
            if count is not None and count >= len(self._supervisor.of(child.role)):
                return
            await asyncio.sleep(_POLL_S)
        if child.alive and not child.stopping:
            raise ExperimentError(
                f"{child.id} runs, but does not consume the queue after {patience_s:g} s (consumer.ready_s); its last "
                f"output:\n{child.tail()}"
            )

    def _command_ended(self, child: Child, how: str) -> None:
        """A command ended although nobody stopped it."""
        role = cast("RoleName", child.role)
        if self._stopped or (role == "producer" and child.process.returncode == 0):
            return
        if self._roles[role].on_exit == "restart":
            self._tell(f"{child.id} {how} and is started again")
            task = asyncio.create_task(self._again(role))
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)
            return
        hint = "" if child.announced else " before it was ready; a command gets no terminal and no input"
        self._supervisor.fail(f"{child.id} {how}{hint}; its last output:\n{child.tail()}")

    async def _again(self, role: RoleName) -> None:
        """Start one in place of a command that has ended, as an init system does."""
        await asyncio.sleep(_RESTART_S)
        try:
            await self._start_command(role)
        except ExperimentError as error:
            self._supervisor.fail(str(error))


_POLL_S = 0.1
_UNTOLD_S = 1.0
_RESTART_S = 1.0
_ENDING_S = 1.0
_RECONNECTING_S = 30.0


class ProcessControl:
    """The parts of the processes' control APIs that a run uses: pause, resume, change settings.

    An async context manager that sends requests to child processes.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None, agents: AgentPool | None = None) -> None:
        """``transport`` carries the requests; None: TCP. Those to processes of ``agents`` take another way."""
        elsewhere = {} if agents is None else {f"all://*{ElsewhereTransport.DOMAIN}": ElsewhereTransport(agents)}
        self._client = httpx.AsyncClient(timeout=10.0, trust_env=False, transport=transport, mounts=elsewhere)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def resume(self, children: Iterable[Child]) -> None:
        """Resume paused producers, all at once."""
        await asyncio.gather(*(self._post(child, "/admin/resume", None) for child in children))

    async def configure(self, children: Iterable[Child], changes: Mapping[str, Any]) -> None:
        """Change settings, by dotted key; raises `ConfigError` with the reason when a child refuses."""
        if changes:
            await asyncio.gather(
                *(self._post(child, "/admin/config", {"settings": dict(changes)}) for child in children)
            )

    async def _post(self, child: Child, path: str, body: Mapping[str, Any] | None) -> None:
        try:
            response = await self._answer(child, path, body)
        except httpx.HTTPError as error:
            if await _ends(child):
                return  # it has reached its limit and ends: there is nothing left to change
            raise ExperimentError(f"{child.id} does not answer at {child.api_url}{path}: {error!r}") from None
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise ConfigError("scenario", body, f"{child.id} refused: {_detail(response)}")
        if response.is_error:
            raise ExperimentError(f"{child.id} answered {response.status_code} to {path}: {_detail(response)}")

    async def _answer(self, child: Child, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Retry while the child has no broker: after an outage it needs a while to reconnect."""
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + _RECONNECTING_S
        while True:
            response = await self._client.post(child.api_url + path, json=body)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or loop.time() > patience_ends:
                return response
            await asyncio.sleep(_POLL_S)


def _detail(response: httpx.Response) -> str:
    """Return the sentence of a refusal, or all of it where there is none."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return response.text
    return detail if isinstance(detail, str) else response.text


async def _ends(child: Child) -> bool:
    """Say whether ``child`` has ended or is about to: it stops listening a moment before it is gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_S):
            await child.process.wait()
    return not child.alive
