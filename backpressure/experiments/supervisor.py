"""Starts, watches and stops the processes of a run; none is left behind.

Every child leads its own session, so Ctrl-C on the terminal reaches only us, and we stop the children in order:
producers first, then consumers, then the rest. On Linux a child also dies when we are killed (`parent_death`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from typing import Any, Self

from backpressure.errors import ExperimentError
from backpressure.experiments.rundir import RunDirectory

__all__ = ["STOP_ORDER", "Child", "Supervisor"]

STOP_ORDER = ("producer", "consumer", "monitor", "proxy", "broker")
_DIES_WITH_US = Path(__file__).with_name("parent_death.py")
_POLL_S = 0.02
_TAIL_LINES = 12
_LITTLE_BYTES = 1 << 20  # journals grow in such steps; a process without space for one is killed (SIGBUS)


@dataclass(eq=False)
class Child:
    """A child process. ``announced`` is what it announced when it was ready."""

    role: str
    id: str
    process: asyncio.subprocess.Process
    log: Path
    announced: Mapping[str, Any] = field(default_factory=dict)
    stopping: bool = False
    suspended: bool = False

    @property
    def pid(self) -> int:
        """Process id, which is also its session and process group."""
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
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (it wrote nothing)"


class Supervisor:
    """The processes of one run; leaving the context stops those that still run."""

    def __init__(
        self,
        directory: RunDirectory,
        on_ready: Callable[[str, str, int], None],
        on_exit: Callable[[str, int | None], None],
    ) -> None:
        """``on_ready`` is called for every child that is ready (role, id, pid), ``on_exit`` when it ends (id, code)."""
        self._directory = directory
        self.on_ready = on_ready
        self.on_exit = on_exit
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
                _signal(child, "SIGKILL")

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
        timeout_s: float = 30.0,
    ) -> Child:
        """Start a child and return it once it has announced itself; raises `ExperimentError` when it does not."""
        log = self._directory.log(process_id)
        if sys.platform == "linux":
            command = [sys.executable, "-IS", str(_DIES_WITH_US), str(os.getpid()), *command]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(variables),
                cwd=self._directory.path,  # there the user's .env and config.py are not read
                start_new_session=True,
            )
        child = Child(role, process_id, process, log)
        self.children.append(child)
        watch = asyncio.create_task(self._watch(child))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        child.announced = await self._announcement(child, timeout_s)
        self.on_ready(child.role, child.id, child.pid)
        return child

    async def stop(self, children: Iterable[Child], *, grace_s: float = 15.0) -> None:
        """Ask ``children`` to end and wait; those that have not ended after ``grace_s`` are killed."""
        asked = [child for child in children if child.alive]
        for child in asked:
            child.stopping = True
            _signal(child, "SIGTERM")
        ends = [asyncio.create_task(child.process.wait()) for child in asked]
        try:
            if ends:
                await asyncio.wait(ends, timeout=grace_s)
        finally:
            for child in asked:  # also what it may have started in its session
                _signal(child, "SIGKILL")
        await asyncio.gather(*ends)

    async def kill_now(self, children: Iterable[Child]) -> None:
        """Kill ``children`` as a crash would, and wait for their end, which does not fail the run."""
        for child in children:
            child.stopping = True
            _signal(child, "SIGKILL")
            await child.process.wait()

    def suspend(self, child: Child) -> None:
        """Let ``child`` hang (SIGSTOP)."""
        child.suspended = True
        _signal(child, "SIGSTOP")

    def go_on(self, child: Child) -> None:
        """Let a child that hangs continue (SIGCONT)."""
        child.suspended = False
        _signal(child, "SIGCONT")

    def fail(self, reason: str) -> None:
        """End the run with an error. The first reason counts: later ones are its consequences."""
        if not self.failure.done():
            self.failure.set_exception(ExperimentError(reason))

    async def _watch(self, child: Child) -> None:
        code = await child.process.wait()
        self.on_exit(child.id, code)
        if code != 0 and not child.stopping:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
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


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without the user's settings, plus ``variables``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PACE_", "RABBITMQ_")) and k != "LOG_LEVEL"}
    # The user's own law (package.module:Class) must be importable in the children as it is here.
    paths = [str(Path.cwd()), *filter(None, [inherited.get("PYTHONPATH")])]
    return inherited | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"} | dict(variables)


def _signal(child: Child, name: str) -> None:
    if sys.platform != "win32":  # where no run begins
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.Signals[name])
