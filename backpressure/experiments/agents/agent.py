"""An agent: it waits for a run on the broker and starts what that run needs of its own installation's programs.

It is one more place where a `Supervisor` has children; the run decides about each as if it were its own. When the run
ends, or gives no sign of life any more, all of them end, and the agent waits for the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import httpx
import psutil

from backpressure.config import as_environment, replaced
from backpressure.core.journal import RECORD_BYTES
from backpressure.errors import ConfigError, ExperimentError, PaceError
from backpressure.experiments.agents.conversation import (
    EVERY_AGENT,
    PIECE_BYTES,
    Conversation,
    Liveness,
    Said,
    address,
    exchange_of,
    seal_of,
)
from backpressure.experiments.agents.orders import API_PATHS, SIGNALS, ordered
from backpressure.experiments.recording import CostMeters
from backpressure.experiments.roles import ROLES, RoleName
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.experiments.supervisor import STOP_ORDER, Supervisor
from backpressure.settings import Settings
from backpressure.transports.rabbitmq.mailbox import Mailbox
from backpressure.version import __version__

_log = logging.getLogger("backpressure")
_TICK_S = 0.05
_FEED_S = 0.5
_LOG_BYTES = 1 << 20
_FAREWELL_S = 30.0
_ID = re.compile(r"[a-z]+-\d+")
_FOLDER = "pace-agent"


def remove_left_over() -> None:
    """Remove the folders of agents that were killed; each has the number of its process in its name."""
    for folder in Path(gettempdir()).glob(f"{_FOLDER}-*-*"):
        number = folder.name.removeprefix(f"{_FOLDER}-").partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)  # it may belong to another user


class Agent:
    """Waits for runs, and takes part in one at a time.

    Attributes:
        name: how runs call it.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigError` where the token is missing."""
        self.name = settings.agent.name or socket.gethostname()
        self._settings = settings
        self._seal = seal_of(settings.agent)
        self._id = token_hex(8)
        self._nonce = token_hex(16)
        self._here = address("agent", self._id)
        self._mailbox = Mailbox(
            settings.broker,
            f"agent-{self.name}-{os.getpid()}",
            exchange_of(settings.agent.group),
            (EVERY_AGENT, self._here),
            on_message=self._on_message,
            on_connected=self._on_connected,
        )
        self._part: _Part | None = None
        self._last: Conversation | None = None
        self._wanted = asyncio.Event()
        self._stopping = False
        self._warned: set[str] = set()

    async def start(self) -> None:
        """Return when connected to the broker; raises `TransportError`."""
        await asyncio.to_thread(remove_left_over)
        await self._mailbox.start()

    async def run(self) -> None:
        """Take part in runs until stopped."""
        while not self._stopping:
            await self._wanted.wait()
            self._wanted.clear()
            if self._part is not None:
                _log.info("taking part in the run %s", self._part.run)
                why = await self._part.play()
                self._last, self._part = self._part.conversation, None
                self._nonce = token_hex(16)  # what was recorded of this run is worth nothing now
                _log.info("%s; waiting for the next run", why)

    def stop(self) -> None:
        """End in order: the run is told, the processes stop, and what they have recorded is sent first."""
        self._stopping = True
        self._wanted.set()
        if self._part is not None:
            self._part.leave()

    async def close(self) -> None:
        """Disconnect."""
        await self._mailbox.stop()

    def _on_connected(self) -> None:
        if self._part is not None:
            self._part.conversation.begin_again()

    def _on_message(self, where: str, data: bytes) -> None:
        received_ns = time.monotonic_ns()
        try:
            if where == self._here and self._part is not None and self._part.heard(data, received_ns):
                return
            opened = self._seal.open(where, data)
            if opened is None and self._last is not None and where == self._here:
                with contextlib.suppress(ValueError):  # a last word of the run before, said again
                    self._last.hear(data, time.monotonic())
                    return
            if opened is None:
                self._warn("a message without valid authenticity is ignored: it was sent under another agent.token")
                return
            header, _ = opened
            if header["kind"] == "looking":
                self._answer(header)
            elif header["kind"] == "hire" and where == self._here:
                self._be_hired(header)
        except (KeyError, TypeError, ValueError) as error:
            self._warn(f"a message that makes no sense is ignored ({error!r})")

    def _answer(self, looking: Mapping[str, Any]) -> None:
        header = {
            "kind": "here",
            "agent": self._id,
            "name": self.name,
            "host": socket.gethostname(),
            "version": __version__,
            "nonce": self._nonce,
            "busy": "" if self._part is None else self._part.run,
        }
        there = address("run", looking["run"])
        self._mailbox.send(there, self._seal.close(there, header))

    def _be_hired(self, hire: Mapping[str, Any]) -> None:
        if self._part is not None or self._stopping or hire["nonce"] != self._nonce:
            return
        if hire["version"] != __version__:
            self._warn(f"a run of pace {hire['version']} wanted this agent, which has {__version__}: install the same")
            return
        run, patience_s = str(hire["run"]), float(hire["patience_s"])
        seal = self._seal.for_conversation(self._id, self._nonce, run, hire["run_nonce"])
        conversation = Conversation(seal, self._here, address("run", run))
        self._part = _Part(run, conversation, self._mailbox, self._settings, patience_s)
        self._wanted.set()

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("%s (said once)", text)


class _Part:
    """The part that an agent plays in one run."""

    def __init__(
        self, run: str, conversation: Conversation, mailbox: Mailbox, settings: Settings, patience_s: float
    ) -> None:
        self.run = run
        self.conversation = conversation
        self._mailbox = mailbox
        self._settings = settings
        self._liveness = Liveness(patience_s, time.monotonic())
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._orders: dict[str, tuple[RoleName, dict[str, Any]]] = {}
        self._pids: dict[str, int] = {}
        self._ends: dict[str, asyncio.Future[int | None]] = {}
        self._meters = CostMeters()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._supervisor: Supervisor | None = None

    async def play(self) -> str:
        """Do what the run says until it is over, and return why it is; nothing is left behind."""
        with TemporaryDirectory(prefix=f"{_FOLDER}-{os.getpid()}-") as folder:
            self._directory = create(Path(folder), "run", datetime.now(UTC))
            async with (
                Supervisor(self._directory, self._ready, self._ended, _log.info) as self._supervisor,
                httpx.AsyncClient(timeout=10.0, trust_env=False) as self._client,
            ):
                self.conversation.say("hired")
                pump = asyncio.create_task(self._pump(), name="agent")
                try:
                    why = await self._over
                finally:
                    pump.cancel()
                    self._supervisor.kill()
                    for task in self._tasks:
                        task.cancel()
                    await asyncio.gather(pump, *self._tasks, return_exceptions=True)
        return why

    def leave(self) -> None:
        """Stop what runs, send what it has recorded, and then be over."""
        if not self._leaving:
            self._leaving = True
            self.conversation.say("leaving")
            self._do(self._leave())

    async def _leave(self) -> None:
        if self._supervisor is not None:
            for role in STOP_ORDER:
                await self._supervisor.stop(self._supervisor.of(role))
        for _ in range(round(_FAREWELL_S / _TICK_S)):
            if self.conversation.is_silent and not self._ends:
                break
            await asyncio.sleep(_TICK_S)
        self._end("this agent was stopped")

    def heard(self, data: bytes, received_ns: int) -> bool:
        """Take a message; return whether it belongs to this run."""
        now = time.monotonic()
        try:
            said = self.conversation.hear(data, now)
        except ValueError:
            return False
        if said is None:
            return True
        self._liveness.heard(now)
        if said.kind == "beat":
            costs = self._meters.read(self._pids)
            back = self.conversation.mention(
                "beat", sent=said.fields["sent"], received=received_ns, costs=costs, returned=time.monotonic_ns()
            )
            self._mailbox.send(self.conversation.theirs, back)
        else:
            self._obey(said)  # nothing is ordered before we have said that we are hired, in `play`
        return True

    def _obey(self, said: Said) -> None:
        fields = said.fields
        if said.kind == "start":
            self._do(self._start(fields["role"], fields["id"], fields["settings"], fields["anchor_ns"]))
        elif said.kind == "signal" and fields["name"] in SIGNALS:
            self._signal(fields["id"], fields["name"])
        elif said.kind == "request":
            self._do(self._request(fields["id"], fields["path"], fields["changes"], fields["request"]))
        elif said.kind == "release":
            self.conversation.send_due(self._mailbox, time.monotonic())
            self._end("the run is over")

    def _signal(self, process_id: str, name: str) -> None:
        assert self._supervisor is not None
        for child in self._supervisor.children:
            if child.id == process_id and child.alive:
                child.stopping = child.stopping or name in {"SIGTERM", "SIGKILL"}
                child.process.signal(name)

    async def _start(self, role: RoleName, process_id: str, orders: dict[str, Any], anchor_ns: int) -> None:
        assert self._supervisor is not None
        try:
            if role not in ROLES or not _ID.fullmatch(process_id) or process_id in self._ends:
                raise ExperimentError(f"{role} {process_id} is nothing that an agent starts")
            own = {
                "process.announce_file": str(self._directory.announcement(process_id)),
                "process.journal_file": str(self._directory.journal(process_id)),
                "process.clock_anchor_ns": anchor_ns,
                "api.producer_port": 0,
                "api.consumer_port": 0,
            }
            environment = as_environment(replaced(ordered(self._settings, role, orders), own))
            self._orders[process_id] = role, orders
            self._ends[process_id] = asyncio.get_running_loop().create_future()
            self._do(self._feed(process_id, self._ends[process_id]))
            command = [sys.executable, "-m", "backpressure", role]
            child = await self._supervisor.start(role, process_id, command, environment)
            self.conversation.say("ready", id=process_id, pid=child.pid)
        except PaceError as error:
            self.conversation.say("failed", id=process_id, reason=str(error))

    async def _request(self, process_id: str, path: str, changes: dict[str, Any], number: int) -> None:
        """Ask the control API of a process, and say what it answered."""
        assert self._supervisor is not None
        child = next((child for child in self._supervisor.children if child.id == process_id and child.alive), None)
        status, answer = 0, ""
        if child is not None and child.announced and path in API_PATHS:
            try:
                role, orders = self._orders[process_id]
                ordered(self._settings, role, orders | changes)
                self._orders[process_id] = role, orders | changes
                body = {"settings": changes} if changes else None
                response = await self._client.post(child.api_url + path, json=body)
                status, answer = response.status_code, response.text
            except ConfigError as error:
                status, answer = httpx.codes.UNPROCESSABLE_ENTITY.value, str(error)
            except httpx.HTTPError as error:
                answer = repr(error)
        self.conversation.say("answer", request=number, status=status, text=answer)

    def _ready(self, _role: str, process_id: str, pid: int) -> None:
        self._pids[process_id] = pid

    def _ended(self, process_id: str, code: int | None) -> None:
        self._pids.pop(process_id, None)
        if process_id in self._ends:
            self._ends[process_id].set_result(code)

    async def _feed(self, process_id: str, ended: asyncio.Future[int | None]) -> None:
        """Send the journal of a process while it grows; once the process has ended, the rest, its log, and how."""
        feed = JournalFeed(self._directory, process_id)
        while True:
            over = ended.done()
            while piece := feed.read(to_the_end=over):
                await self._send_piece(process_id, "journal", piece)
            if over:
                break
            await asyncio.wait({ended}, timeout=_FEED_S)
        log = self._directory.log(process_id)
        text = log.read_bytes()[-_LOG_BYTES:] if log.exists() else b""
        for at in range(0, len(text), PIECE_BYTES):
            await self._send_piece(process_id, "log", text[at : at + PIECE_BYTES])
        self.conversation.say("ended", id=process_id, code=ended.result(), size=feed.size, digest=feed.digest)
        del self._ends[process_id]

    async def _send_piece(self, process_id: str, file: str, piece: bytes) -> None:
        while not self.conversation.has_room:  # noqa: ASYNC110 - what makes room is a message, or the end of the run
            await asyncio.sleep(_TICK_S)
        self.conversation.say("piece", piece, id=process_id, file=file)

    async def _pump(self) -> None:
        while not self._over.done():
            now = time.monotonic()
            self.conversation.send_due(self._mailbox, now)
            if self._liveness.is_lost(now, connected=self._mailbox.is_open):
                self._end(f"the run gave no sign of life for {self._liveness.silent_s(now):.0f} s: it is over")
            await asyncio.sleep(_TICK_S)

    def _end(self, why: str) -> None:
        if not self._over.done():
            self._over.set_result(why)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class JournalFeed:
    """Reads a journal while it is written, without what may be half written.

    Attributes:
        size: how much was read.
    """

    def __init__(self, directory: RunDirectory, process_id: str) -> None:
        """The journal is that of one process in ``directory``; it need not exist yet."""
        self._path = directory.journal(process_id)
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """What identifies all that was read."""
        return self._hash.hexdigest()

    def read(self, *, to_the_end: bool) -> bytes:
        """Return the next records, b"" if there are none; the last one only ``to_the_end``: it may be incomplete."""
        if not self._path.exists():
            return b""
        with self._path.open("rb") as file:
            file.seek(self.size)
            data = file.read(PIECE_BYTES + RECORD_BYTES)
        whole = len(data) // RECORD_BYTES
        kinds = data[: whole * RECORD_BYTES : RECORD_BYTES]
        written = kinds.find(0) if 0 in kinds else whole
        if not to_the_end and written < PIECE_BYTES // RECORD_BYTES + 1:
            written -= 1
        piece = data[: max(0, min(written * RECORD_BYTES, PIECE_BYTES))]
        self._hash.update(piece)
        self.size += len(piece)
        return piece
