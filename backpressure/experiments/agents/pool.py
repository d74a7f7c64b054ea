"""The agents of a run: who has joined, what runs there, what came back of it, and how wrong their clocks may be.

To the rest of a run a process on an agent is a child like any other: `RemoteProcess` is what its supervisor sees, and
requests to its control API take the way of `ElsewhereTransport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal, Self

import httpx

from backpressure.engines.clock import Clock
from backpressure.errors import ExperimentError
from backpressure.experiments.agents.clocks import ClockComparison
from backpressure.experiments.agents.conversation import (
    EVERY_AGENT,
    Conversation,
    Liveness,
    Said,
    address,
    exchange_of,
    seal_of,
)
from backpressure.experiments.agents.orders import orders_for
from backpressure.experiments.events import AgentNoted, Event
from backpressure.experiments.roles import RoleName
from backpressure.experiments.rundir import RunDirectory
from backpressure.program import printable
from backpressure.settings import AgentSettings, BrokerSettings, Settings
from backpressure.transports.rabbitmq.mailbox import Mailbox
from backpressure.version import __version__

_log = logging.getLogger("backpressure")
_TICK_S = 0.05
_BEAT_S = 0.5
_LOOK_S = 0.5
_HIRED_WITHIN_S = 5.0
_COMPARED_BY = 20
_START_S = 150.0  # more than an agent waits for its child
_ANSWER_S = 10.0
_FAREWELL_S = 2.0
_DOMAIN = ".agents"


@dataclass(frozen=True, slots=True)
class AgentTerms:
    """How many agents a run needs, and how it finds them; ``wait_s``: how long it waits for them."""

    count: int
    wait_s: float
    settings: AgentSettings


class RemoteProcess:
    """A `ChildProcess` on the machine of an agent. It has ended once everything that it has recorded is here."""

    def __init__(self, process_id: str, agent: _Member) -> None:
        """``agent`` has been asked to start it."""
        self.id = process_id
        self.agent = agent
        self.pid = 0
        self.returncode: int | None = None
        self.complete = True
        self.size = 0
        self.hash = hashlib.sha256()
        self.announced: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()

    async def wait(self) -> int:
        """See `ChildProcess.wait`."""
        await self._ended.wait()
        return self.returncode or 0

    def signal(self, name: str) -> None:
        """See `ChildProcess.signal`."""
        if self.returncode is None:
            self.agent.tell("signal", id=self.id, name=name)

    def terminate(self) -> None:
        """See `ChildProcess.terminate`."""
        self.signal("SIGTERM")

    async def announcement(self) -> Mapping[str, Any]:
        """Return what it announced; raises `ExperimentError` if it does not start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                return await asyncio.shield(self.announced)
        raise ExperimentError(f"{self.id} on the agent {self.agent.name} was not ready after {_START_S:g} s")

    def end(self, code: int) -> None:
        """It has ended; before it was ready, it has failed."""
        if self.returncode is None:
            self.returncode = code
            self.fail(f"it ended with exit code {code}; see logs/{self.id}.log")
            self._ended.set()

    def fail(self, reason: str) -> None:
        """It did not start."""
        if not self.announced.done():
            self.announced.set_exception(ExperimentError(f"{self.id} on the agent {self.agent.name}: {reason}"))
            self.announced.exception()  # retrieved: nobody may wait for it any more


@dataclass
class _Member:
    """An agent that takes part; ``state`` is "hired" until it has said so itself."""

    id: str
    name: str
    host: str
    conversation: Conversation
    liveness: Liveness
    mailbox: Mailbox
    state: Literal["hired", "joined", "lost"] = "hired"
    beat_at: float = 0.0
    clocks: ClockComparison = field(default_factory=ClockComparison)
    processes: dict[str, RemoteProcess] = field(default_factory=dict)
    costs: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """How people read it."""
        return self.name if self.host in {"", self.name} else f"{self.name} ({self.host})"

    @property
    def running(self) -> int:
        """How many processes it has."""
        return sum(process.returncode is None for process in self.processes.values())

    def tell(self, kind: str, **fields: Any) -> None:
        """Have it do something."""
        self.conversation.say(kind, **fields)
        self.conversation.send_due(self.mailbox, time.monotonic())


class AgentPool:
    """An async context manager: connects to the broker, and releases the agents at the end."""

    def __init__(
        self,
        broker: BrokerSettings,
        terms: AgentTerms,
        directory: RunDirectory,
        clock: Clock,
        *,
        record: Callable[[Event], None],
        tell: Callable[[str], None],
        fail: Callable[[str], None],
    ) -> None:
        """Connect to nobody yet.

        Args:
            broker: where the agents are.
            terms: how many are needed.
            directory: where journals and logs go.
            clock: that of the run.
            record: is called with events.
            tell: is called with whatever is worth a line.
            fail: is called when an agent is lost.
        """
        self._terms = terms
        self._directory = directory
        self._clock = clock
        self._record = record
        self._tell = tell
        self._fail = fail
        self._group_seal = seal_of(terms.settings)
        self._id = token_hex(8)
        self._nonce = token_hex(16)
        self._here = address("run", self._id)
        self._members: dict[str, _Member] = {}
        self._refused: dict[str, str] = {}
        self._processes: dict[str, RemoteProcess] = {}
        self._answers: dict[int, asyncio.Future[Said]] = {}
        self._warned = False
        self._pump: asyncio.Task[None] | None = None
        exchange = exchange_of(terms.settings.group)
        self._mailbox = Mailbox(
            broker,
            f"run-{self._id}",
            exchange,
            [self._here],
            on_message=self._on_message,
            on_connected=self._on_connected,
        )
        self._where = broker.address()

    async def __aenter__(self) -> Self:
        await self._mailbox.start()
        self._pump = asyncio.create_task(self._keep_talking(), name="agents")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for member in self._joined:
                member.tell("release")
                self._note(member, "left")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    while not all(member.conversation.is_silent for member in self._joined):  # noqa: ASYNC110 - their last messages end it
                        await asyncio.sleep(_TICK_S)
        finally:
            for process in self._processes.values():
                process.end(0)
            if self._pump is not None:
                self._pump.cancel()
                await asyncio.gather(self._pump, return_exceptions=True)
            await self._mailbox.stop()

    # --- membership --------------------------------------------------------------------------------------------------

    async def recruit(self) -> None:
        """Return when as many agents as needed have joined and their clocks were compared.

        Raises `ExperimentError` if that takes too long.
        """
        terms, loop = self._terms, asyncio.get_running_loop()
        self._tell(f"waiting for {_agents(terms.count)} of the group {terms.settings.group}")
        ends = loop.time() + terms.wait_s
        while len(self._joined) < terms.count:
            if loop.time() > ends:
                raise ExperimentError(self._too_few())
            looking = self._group_seal.close(EVERY_AGENT, {"kind": "looking", "run": self._id})
            self._mailbox.send(EVERY_AGENT, looking)
            await asyncio.sleep(_LOOK_S)
            self._forget_silent()
        while any(member.clocks.samples < _COMPARED_BY for member in self._joined):
            if loop.time() > ends + terms.settings.patience_s:
                raise ExperimentError("the agents have joined, but their clocks cannot be compared: no answers")
            await asyncio.sleep(_TICK_S)
        for member in self._joined:
            member.clocks.anchor()
            self._note(member, "joined")
            error_ms, trip_ms = _ms(member.clocks.uncertainty_ns), _ms(member.clocks.round_trip_ns)
            self._tell(
                f"agent {member.shown} joined: {trip_ms:g} ms round trip, its clock is known to ± {error_ms:g} ms"
            )

    @property
    def _joined(self) -> list[_Member]:
        return [member for member in self._members.values() if member.state == "joined"]

    def _too_few(self) -> str:
        joined = ", ".join(member.shown for member in self._joined) or "none"
        refused = "".join(f"; not {name}: {why}" for name, why in self._refused.items())
        group = self._terms.settings.group
        option = "" if group == AgentSettings().group else f" --group {group}"
        return (
            f"{len(self._joined)} of {_agents(self._terms.count)} joined within {self._terms.wait_s:g} s ({joined}"
            f"{refused}); start more, with the same PACE_AGENT__TOKEN: pace agent --join {self._where}{option}"
        )

    def _found(self, here: Mapping[str, Any]) -> None:
        """An agent has answered."""
        agent, name, host = str(here["agent"]), printable(str(here["name"])), printable(str(here["host"]))
        if here["version"] != __version__:
            self._refuse(name, f"it has pace {here['version']}, this run {__version__}")
            return
        if here["busy"] not in {"", self._id}:
            self._refuse(name, "it takes part in another run")
            return
        self._refused.pop(name, None)
        member = self._members.get(agent)
        if member is None and len(self._members) < self._terms.count:
            seal = self._group_seal.for_conversation(agent, str(here["nonce"]), self._id, self._nonce)
            taken = sum(other.name == name for other in self._members.values())
            member = self._members[agent] = _Member(
                agent,
                f"{name}#{taken + 1}" if taken else name,
                host,
                Conversation(seal, self._here, address("agent", agent)),
                Liveness(self._terms.settings.patience_s, time.monotonic()),
                self._mailbox,
            )
        if member is not None and member.state == "hired":
            hire = {
                "kind": "hire",
                "run": self._id,
                "run_nonce": self._nonce,
                "nonce": here["nonce"],
                "version": __version__,
                "patience_s": self._terms.settings.patience_s,
            }
            there = member.conversation.theirs
            self._mailbox.send(there, self._group_seal.close(there, hire))

    def _forget_silent(self) -> None:
        """Make room for others where an agent was taken and does not say so: it may be gone, or have another run."""
        for member in list(self._members.values()):
            if member.state == "hired" and member.liveness.silent_s(time.monotonic()) > _HIRED_WITHIN_S:
                del self._members[member.id]

    def _refuse(self, name: str, why: str) -> None:
        if self._refused.get(name) != why:
            self._refused[name] = why
            self._tell(f"agent {name} is not taken: {why}")

    def _lose(self, member: _Member, why: str) -> None:
        count = member.running
        member.state = "lost"
        self._note(member, "lost")
        self._fail(f"the agent {member.shown} was lost with {count} processes: {why}")
        for process in member.processes.values():
            if process.returncode is None:
                process.complete = False
                process.end(-9)  # it dies with its agent, if it still runs

    def _note(self, member: _Member, state: Literal["joined", "left", "lost"]) -> None:
        self._record(
            AgentNoted(
                at_ns=self._clock.wall_ns(),
                name=member.name,
                host=member.host,
                state=state,
                clock_uncertainty_ms=_ms(member.clocks.uncertainty_ns),
                round_trip_ms=_ms(member.clocks.round_trip_ns),
            )
        )

    # --- their processes ----------------------------------------------------------------------------------------------

    def start(self, role: RoleName, process_id: str, settings: Settings) -> RemoteProcess:
        """Have the agent with the fewest processes start one more; raises `ExperimentError` when there is none."""
        if not self._joined:
            raise ExperimentError(f"there is no agent to start {process_id}")
        member = min(self._joined, key=lambda member: member.running)
        process = self._processes[process_id] = member.processes[process_id] = RemoteProcess(process_id, member)
        self._directory.journal(process_id).write_bytes(b"")
        orders = orders_for(role, settings)
        member.tell("start", role=role, id=process_id, settings=orders, anchor_ns=member.clocks.anchor())
        return process

    def agent_of(self, process_id: str) -> str:
        """Return the name of the agent that has a process, "" if none has."""
        return self._processes[process_id].agent.name if process_id in self._processes else ""

    def is_complete(self, process_id: str) -> bool:
        """Return whether everything that a process has recorded came back; for one that is not on an agent, yes."""
        return process_id not in self._processes or self._processes[process_id].complete

    def costs(self) -> dict[str, tuple[float, float]]:
        """Return resident memory (MB) and CPU seconds of the processes, as the agents have last said."""
        return {process: cost for member in self._joined for process, cost in member.costs.items()}

    async def request(self, process_id: str, path: str, changes: Mapping[str, Any]) -> tuple[int, str]:
        """Return status and text of what the control API of a process answers; raises `httpx.HTTPError`."""
        process = self._processes[process_id]
        number = len(self._answers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        process.agent.tell("request", id=process_id, path=path, changes=dict(changes), request=number)
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({answer, ended}, timeout=_ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not answer.done():
            raise httpx.ReadTimeout(f"no answer from the agent {process.agent.name}")
        fields = answer.result().fields
        if not fields["status"]:
            raise httpx.ConnectError(str(fields["text"]) or "it is not there")
        return int(fields["status"]), str(fields["text"])

    # --- what is said -------------------------------------------------------------------------------------------------

    def _on_connected(self) -> None:
        for member in self._members.values():
            member.conversation.begin_again()

    def _on_message(self, where: str, data: bytes) -> None:
        got_ns, now = self._clock.wall_ns(), time.monotonic()
        try:
            for member in self._members.values():
                try:
                    said = member.conversation.hear(data, now)
                except ValueError:
                    continue
                if said is not None:
                    member.liveness.heard(now)
                    self._take(member, said, got_ns)
                return
            opened = self._group_seal.open(where, data)
            if opened is not None and opened[0]["kind"] == "here":
                self._found(opened[0])
            elif opened is None and not self._warned:
                self._warned = True
                _log.warning("a message without valid authenticity is ignored (said once)")
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("a message of an agent that makes no sense is ignored: %r", error)
        except OSError as error:
            self._fail(f"what an agent sent cannot be stored: {error.filename}: {error.strerror}")

    def _take(self, member: _Member, said: Said, got_ns: int) -> None:
        fields = said.fields
        if said.kind == "beat":
            member.clocks.add(fields["sent"], fields["received"], fields["returned"], got_ns)
            member.costs = {process: (rss_mb, cpu_s) for process, (rss_mb, cpu_s) in fields["costs"].items()}
        elif said.kind == "hired" and member.state == "hired":
            member.state = "joined"
        elif said.kind == "leaving":
            self._fail(f"the agent {member.shown} was stopped, with its {member.running} processes")
        elif said.kind == "answer":
            answer = self._answers.get(fields["request"])
            if answer is not None and not answer.done():
                answer.set_result(said)
        elif said.kind in {"ready", "failed", "piece", "ended"}:
            self._take_from(member.processes[fields["id"]], said)

    def _take_from(self, process: RemoteProcess, said: Said) -> None:
        fields = said.fields
        if said.kind == "ready":
            process.pid = int(fields["pid"])
            if not process.announced.done():
                process.announced.set_result({"ready": True, "api_url": f"http://{process.id}{_DOMAIN}"})
        elif said.kind == "failed":
            process.fail(str(fields["reason"]))
            if not process.pid and not process.size:
                process.end(1)
        elif said.kind == "piece" and process.returncode is None:
            is_log = fields["file"] == "log"
            path = self._directory.log(process.id) if is_log else self._directory.journal(process.id)
            with path.open("ab") as file:
                file.write(said.payload)
            if not is_log:
                process.size += len(said.payload)
                process.hash.update(said.payload)
        elif said.kind == "ended":
            process.complete = (fields["size"], fields["digest"]) == (process.size, process.hash.hexdigest())
            if not process.complete:
                self._fail(f"the journal of {process.id} did not come back whole from {process.agent.shown}")
            process.end(int(fields["code"]))

    async def _keep_talking(self) -> None:
        while True:
            now, connected = time.monotonic(), self._mailbox.is_open
            for member in list(self._members.values()):
                if member.state != "joined":
                    continue
                member.conversation.send_due(self._mailbox, now)
                if connected and (now - member.beat_at > _BEAT_S or member.clocks.samples < _COMPARED_BY):
                    member.beat_at = now
                    beat = member.conversation.mention("beat", sent=self._clock.wall_ns())
                    self._mailbox.send(member.conversation.theirs, beat)
                if member.liveness.is_lost(now, connected=connected):
                    silent_s = member.liveness.silent_s(now)
                    self._lose(
                        member, f"it gave no sign of life for {silent_s:.0f} s; what came back until then counts"
                    )
            await asyncio.sleep(_TICK_S)


class ElsewhereTransport(httpx.AsyncBaseTransport):
    """Carries requests to control APIs of processes that agents have; `DOMAIN` is where such APIs seem to be."""

    DOMAIN = _DOMAIN

    def __init__(self, pool: AgentPool) -> None:
        """``pool`` has the processes."""
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        body = json.loads(request.content or b"null") or {}
        process_id = request.url.host.removesuffix(_DOMAIN)
        status, text = await self._pool.request(process_id, request.url.path, body.get("settings", {}))
        return httpx.Response(status, text=text)


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)


def _agents(count: int) -> str:
    return "1 agent" if count == 1 else f"{count} agents"
