"""Starts, watches and stops the processes of a run; none is left behind.

Every child leads its own session, so Ctrl-C on the terminal reaches only us, and we stop the children in order:
producers first, then consumers, then the rest. On Linux a child also dies when we are killed (`parent_death`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from typing import IO, Any, Protocol, Self

import psutil

from backpressure.errors import ExperimentError, UndeliveredError
from backpressure.experiments.rundir import RunDirectory
from backpressure.program import printable

STOP_ORDER = ("producer", "consumer", "monitor", "proxy", "broker")
_DIES_WITH_US = Path(__file__).with_name("parent_death.py")
_POLL_S = 0.02
_ENDED = (0, UndeliveredError.exit_code)  # what became of the messages is in the accounts
_READY_S = 120.0  # a start takes a second of a processor, which many processes share
_TAIL_LINES = 12
_TAIL_COLUMNS = 400
_LITTLE_BYTES = 1 << 20  # journals grow in such steps; a process without space for one is killed (SIGBUS)


class ChildProcess(Protocol):
    """A process as the supervisor needs it, wherever it runs."""

    @property
    def pid(self) -> int:
        """Its id on its machine."""

    @property
    def returncode(self) -> int | None:
        """How it ended, negative: by which signal; None while it runs."""

    async def wait(self) -> int:
        """Return how it ended, once it has, and once everything it has left behind is here."""

    def signal(self, name: str) -> None:
        """Send a signal to it, and to what it has started in its session."""

    def terminate(self) -> None:
        """Send SIGTERM to it alone."""


class LocalProcess:
    """A `ChildProcess` on this machine; it leads its own session and process group."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """See `ChildProcess.pid`; also the id of its session and process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """See `ChildProcess.returncode`."""
        return self._process.returncode

    async def wait(self) -> int:
        """See `ChildProcess.wait`."""
        return await self._process.wait()

    def signal(self, name: str) -> None:
        """See `ChildProcess.signal`."""
        if sys.platform != "win32":  # where no run begins
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.Signals[name])

    def terminate(self) -> None:
        """See `ChildProcess.terminate`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()


@dataclass(eq=False)
class Child:
    """A child process.

    Attributes:
        announced: what it announced when it was ready; of a command nothing but that it is ready.
        suspended: it hangs, by a fault.
        slowed_to: the share of the time in which a fault lets it run.
        output: where the output of a command is collected.
        stop_s: how long it may take to end.
        on_end: what to do when it ends although nobody stopped it; None: the run fails unless it came to its end.
    """

    role: str
    id: str
    process: ChildProcess
    log: Path
    announced: Mapping[str, Any] = field(default_factory=dict)
    stopping: bool = False
    suspended: bool = False
    slowed_to: float = 1.0
    output: BoundedLog | None = None
    stop_s: float = 15.0
    on_end: Callable[[Child, str], None] | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    @property
    def api_url(self) -> str:
        """Where its control API listens."""
        return str(self.announced["api_url"])

    def tail(self) -> str:
        """Return its last lines of output."""
        output = self.output
        if output is not None:
            text = output.tail()
        else:
            text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        lines = [line[:_TAIL_COLUMNS] for line in text.splitlines()[-_TAIL_LINES:]]
        return "\n".join(f"  {printable(line)}" for line in lines) or "  (it wrote nothing)"


class Supervisor:
    """The processes of one run; leaving the context stops those that still run."""

    def __init__(
        self,
        directory: RunDirectory,
        on_ready: Callable[[str, str, int], None],
        on_exit: Callable[[str, int | None], None],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_ready`` is called for every child that is ready (role, id, pid), ``on_exit`` when it ends (id, code).

        ``tell`` is called with whatever else is worth a line.
        """
        self._directory = directory
        self.on_ready = on_ready
        self.on_exit = on_exit
        self.tell = tell
        self._started: dict[str, int] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self.children: list[Child] = []
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises `ExperimentError` as soon as a process has died that was not stopped."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for role in STOP_ORDER:
                await self.stop(self.of(role))
        finally:
            self.kill()
        await asyncio.gather(*self._watches)
        if self.failure.done():
            self.failure.exception()  # retrieved, so that asyncio does not warn about it
        self.failure.cancel()

    def kill(self) -> None:
        """End every child at once."""
        for child in self.children:
            child.stopping = True
            if child.alive:
                child.process.signal("SIGKILL")

    def of(self, role: str) -> list[Child]:
        """Return the living children of ``role``, oldest first."""
        return [child for child in self.children if child.role == role and child.alive and not child.stopping]

    def next_id(self, role: str) -> str:
        """Return the id of one more child of ``role``: numbered, except for the first monitor and broker."""
        self._started[role] = number = self._started.get(role, 0) + 1
        return f"{role}-{number}" if number > 1 or role in {"producer", "consumer"} else role

    async def start(
        self,
        role: str,
        process_id: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        timeout_s: float = _READY_S,
    ) -> Child:
        """Start a child and return it once it has announced itself; raises `ExperimentError` when it does not."""
        log = self._directory.log(process_id)
        with log.open("wb") as output:
            # In the run directory the user's .env and config.py are not read.
            process = await _started(command, output, _environment(variables), self._directory.path)
        child = Child(role, process_id, process, log)
        self._keep(child)
        child.announced = await self._announcement(child, timeout_s)
        self.on_ready(child.role, child.id, child.pid)
        return child

    async def start_elsewhere(
        self, role: str, process_id: str, process: ChildProcess, announced: Awaitable[Mapping[str, Any]]
    ) -> Child:
        """Take a process on another machine as a child, and return it once it is ready.

        ``announced`` returns what it announced; it raises `ExperimentError` when it does not start.
        """
        child = Child(role, process_id, process, self._directory.log(process_id))
        self._keep(child)
        try:
            child.announced = await announced
        except ExperimentError:
            child.stopping = True  # its end is no further failure
            raise
        self.on_ready(child.role, child.id, child.pid)
        return child

    async def start_command(
        self,
        role: str,
        process_id: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        stop_s: float,
        on_end: Callable[[Child, str], None],
    ) -> Child:
        """Start a program of the user's in the folder of the user; raises `ExperimentError` when that is impossible.

        ``on_end`` is called with the reason when it ends although nobody stopped it. `ready` is to be called once it is
        ready.
        """
        reader, writer = os.pipe()
        try:
            process = await _started(command, writer, variables, Path.cwd())
        except OSError as error:
            os.close(reader)
            raise ExperimentError(f"{process_id} cannot be started: {command[0]}: {error.strerror}") from None
        finally:
            os.close(writer)
        log = self._directory.log(process_id)
        child = Child(role, process_id, process, log, output=BoundedLog(reader, log), stop_s=stop_s, on_end=on_end)
        self._keep(child)
        return child

    def ready(self, child: Child) -> None:
        """Take a command for ready."""
        child.announced = {"ready": True}
        self.on_ready(child.role, child.id, child.pid)

    def _keep(self, child: Child) -> None:
        self.children.append(child)
        watch = asyncio.create_task(self._watch(child))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    async def stop(self, children: Iterable[Child], *, grace_s: float | None = None) -> None:
        """Ask ``children`` to end and wait; those that have not ended after ``grace_s`` are killed (None: its own)."""
        await asyncio.gather(*(self._stop(child, grace_s or child.stop_s) for child in list(children) if child.alive))

    async def _stop(self, child: Child, grace_s: float) -> None:
        child.stopping = True
        own = _descendants(child)
        if child.output is None:
            child.process.signal("SIGTERM")
        else:  # as a container runtime does: what it has started is its own to stop
            child.process.terminate()
        end = asyncio.create_task(child.process.wait())
        try:
            await asyncio.wait({end}, timeout=grace_s)
            if not end.done() and child.output is not None:
                self.tell(f"{child.id} did not end within {grace_s:g} s of SIGTERM: killed")
        finally:
            child.process.signal("SIGKILL")  # also what it may have started in its session
            _kill(own)
        await end

    async def kill_now(self, children: Iterable[Child]) -> None:
        """Kill ``children`` as a crash would, and wait for their end, which does not fail the run."""
        for child in children:
            child.stopping = True
            own = _descendants(child)
            child.process.signal("SIGKILL")
            _kill(own)
            await child.process.wait()

    def suspend(self, child: Child) -> None:
        """Let ``child`` hang (SIGSTOP)."""
        child.suspended = True
        child.process.signal("SIGSTOP")

    def hold(self, child: Child) -> None:
        """Stop ``child`` for a moment: it gets less of the time, but does not count as hanging."""
        child.process.signal("SIGSTOP")

    def go_on(self, child: Child) -> None:
        """Let a child that hangs continue (SIGCONT)."""
        child.suspended = False
        child.process.signal("SIGCONT")

    def fail(self, reason: str) -> None:
        """End the run with an error. The first reason counts: later ones are its consequences."""
        if not self.failure.done():
            self.failure.set_exception(ExperimentError(reason))

    async def _watch(self, child: Child) -> None:
        code = await child.process.wait()
        if child.output is not None:
            child.process.signal("SIGKILL")  # what it has started is not to outlive it
            await asyncio.to_thread(child.output.close)
        self.on_exit(child.id, code)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if child.on_end is not None and not child.stopping:
            child.on_end(child, how)
        elif code not in _ENDED and not child.stopping:
            if disk_usage(self._directory.path).free < _LITTLE_BYTES:
                how += f" on a full disk ({self._directory.path})"
            self.fail(f"{child.id} {how}; its last output:\n{child.tail()}")

    async def _announcement(self, child: Child, timeout_s: float) -> Mapping[str, Any]:
        path = self._directory.announcement(child.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not path.exists():
                    if not child.alive:
                        code = child.process.returncode
                        raise ExperimentError(f"{child.id} did not start (exit code {code}):\n{child.tail()}")
                    await asyncio.sleep(_POLL_S)
                announced: Mapping[str, Any] = json.loads(path.read_bytes())
                return announced
        raise ExperimentError(f"{child.id} was not ready after {timeout_s:g} s; its last output:\n{child.tail()}")


async def _started(
    command: Sequence[str], output: IO[bytes] | int, variables: Mapping[str, str], folder: Path
) -> LocalProcess:
    """Start ``command`` in a session of its own, without input or terminal; on Linux it dies with us."""
    if sys.platform == "linux":
        command = [sys.executable, "-IS", str(_DIES_WITH_US), str(os.getpid()), *command]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(variables),
        cwd=folder,
        start_new_session=True,
    )
    return LocalProcess(process)


def _descendants(child: Child) -> list[psutil.Process]:
    """Return what a command has started, also outside its session; of our own processes nothing."""
    if child.output is None:
        return []
    try:
        return psutil.Process(child.pid).children(recursive=True)
    except psutil.Error:
        return []


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without the user's settings, plus ``variables``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PACE_", "RABBITMQ_")) and k != "LOG_LEVEL"}
    # The user's own law (package.module:Class) must be importable in the children as it is here.
    paths = [str(Path.cwd()), *filter(None, [inherited.get("PYTHONPATH")])]
    return inherited | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"} | dict(variables)


_HEAD_BYTES = 1 << 20
_LAST_BYTES = 1 << 16
_READ_BYTES = 1 << 16
_MOST_BYTES_PER_S = 8 << 20
_ENDING_S = 1.0


class BoundedLog:
    """Collects the output of a command: the first megabyte in a file, and the last 64 KiB behind it at the end.

    It reads on a thread of its own, at most 8 MB/s: a command that writes more has to wait, as at a slow terminal, and
    does not take the processor from the run.
    """

    def __init__(self, reader: int, path: Path) -> None:
        """Read from the descriptor ``reader``, which is closed at the end, and write to ``path``."""
        self._reader = reader
        self._path = path
        self._written = self._left_out = 0
        self._last: deque[bytes] = deque()
        self._last_bytes = 0
        self._end_at: float | None = None
        self._thread = threading.Thread(target=self._collect, name=f"output of {path.stem}", daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """Return the last that was written, as text."""
        return b"".join([*self._last]).decode("utf-8", "replace")

    def close(self) -> None:
        """Return once everything is read, or a moment later where a process that lives on still has the other end."""
        self._end_at = time.monotonic() + _ENDING_S
        self._thread.join()

    def _collect(self) -> None:
        began, taken = time.monotonic(), 0
        with contextlib.suppress(OSError), selectors.DefaultSelector() as ready, self._path.open("wb", 0) as file:
            ready.register(self._reader, selectors.EVENT_READ)
            while self._end_at is None or time.monotonic() < self._end_at:
                if not ready.select(timeout=0.1):
                    continue
                data = os.read(self._reader, _READ_BYTES)
                if not data:
                    break
                self._take(data, file)
                now = time.monotonic()
                if now - began > 1:
                    began, taken = now, 0
                taken += len(data)
                if taken > _MOST_BYTES_PER_S:
                    time.sleep(max(0.0, began + 1 - now))
            self._finish(file)
        os.close(self._reader)

    def _take(self, data: bytes, file: IO[bytes]) -> None:
        room = _HEAD_BYTES - self._written
        if room > 0:
            self._written += len(data[:room])
            with contextlib.suppress(OSError):  # a full disk ends the run elsewhere
                file.write(data[:room])
        self._left_out += max(0, len(data) - max(0, room))
        self._last.append(data)
        self._last_bytes += len(data)
        while self._last_bytes - len(self._last[0]) >= _LAST_BYTES:
            self._last_bytes -= len(self._last.popleft())

    def _finish(self, file: IO[bytes]) -> None:
        if self._left_out:
            last = b"".join(self._last)[-min(self._left_out, _LAST_BYTES) :]
            missing = self._left_out - len(last)
            gap = f"\n… {missing} bytes are left out here …\n".encode() if missing else b""
            file.write(gap + last)
