"""Worker processes: started, listed, stopped, and killed to see what happens to their tasks.

A worker stops when its standard input ends, so it never outlives the lab, however that ends.
"""

from __future__ import annotations

import asyncio
import itertools
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from backpressure.errors import PaceError, UnknownNameError

__all__ = ["WorkerPool", "WorkerView"]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker process. ``exit_code`` of one that has ended: −9 is killed."""

    worker: str
    pid: int
    state: Literal["starting", "running", "ended"]
    exit_code: int | None


@dataclass(slots=True)
class _Worker:
    name: str
    process: Process
    ready: bool = False


class WorkerPool:
    """The workers of one lab. One that died stays listed until workers are started or stopped."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], most: int) -> None:
        """``command`` and a name start a worker that prints a line when it is ready; at most ``most`` run at a time."""
        self._command = command
        self._environment = environment
        self._most = most
        self._workers: dict[str, _Worker] = {}
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()

    def workers(self) -> list[WorkerView]:
        """Return all workers, oldest first."""
        return [
            WorkerView(
                worker=worker.name,
                pid=worker.process.pid,
                state="ended" if worker.process.returncode is not None else "running" if worker.ready else "starting",
                exit_code=worker.process.returncode,
            )
            for worker in self._workers.values()
        ]

    async def start(self, count: int) -> None:
        """Start ``count`` more workers and return when all take tasks; raises `PaceError`, and then stops those."""
        async with self._changing:
            self._forget_ended()
            if len(self._workers) + count > self._most:
                raise PaceError(f"{len(self._workers)} workers run already, of at most {self._most} (lab.max_workers)")
            before = set(self._workers)
            try:
                started = [await self._spawn() for _ in range(count)]
                await asyncio.gather(*map(_until_ready, started))
            except BaseException:
                await _stop([worker for name, worker in self._workers.items() if name not in before])
                self._forget_ended()
                raise

    async def stop(self) -> int:
        """End all workers and return how many there were; each may finish what it is at, within ten seconds.

        One that takes longer is killed: what it is at was not acknowledged, so another worker gets it.
        """
        async with self._changing:
            self._forget_ended()
            count = len(self._workers)
            await _stop(list(self._workers.values()))
            self._forget_ended()
        return count

    def kill(self, name: str) -> None:
        """End a worker at once, in the middle of whatever it does; raises `UnknownNameError`."""
        worker = self._workers.get(name)
        if worker is None or worker.process.returncode is not None:
            raise UnknownNameError(f"no worker {name!r} runs")
        worker.process.kill()

    async def _spawn(self) -> _Worker:
        name = f"worker-{next(self._numbers)}"
        process = await asyncio.create_subprocess_exec(
            *self._command,
            name,
            stdin=PIPE,
            stdout=PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the lab, which then stops its workers in order
        )
        worker = self._workers[name] = _Worker(name, process)
        return worker

    def _forget_ended(self) -> None:
        self._workers = {name: w for name, w in self._workers.items() if w.process.returncode is None}


async def _until_ready(worker: _Worker) -> None:
    assert worker.process.stdout is not None
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            line = await worker.process.stdout.readline()
    except TimeoutError:
        raise PaceError(f"{worker.name} was not ready after {_START_TIMEOUT_S:g} s") from None
    if not line:
        code = await worker.process.wait()
        raise PaceError(f"{worker.name} did not start (exit code {code}); the lab's terminal says why")
    worker.ready = True


async def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
    ends = [asyncio.ensure_future(worker.process.wait()) for worker in workers]
    if not ends:
        return
    try:
        await asyncio.wait(ends, timeout=_STOP_TIMEOUT_S)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.process.kill()
    await asyncio.gather(*ends)
