"""Tasks: submitted to a queue, done by worker processes one at a time each, their results collected.

Workers are started, listed, stopped, and killed to see what happens to their tasks. A worker stops when its standard
input ends, so it ends with the lab, even when the lab is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from backpressure.core.message import Delivery, Metadata
from backpressure.engines.clock import Clock
from backpressure.errors import PaceError, TransportError, UnknownNameError
from backpressure.lab.messages import Task, TaskResult
from backpressure.lab.queues import LabReceiver, LabSender, NewestItems, opened, queue_named
from backpressure.settings import LabSettings
from backpressure.transports.base import Transport

log = logging.getLogger(__name__)

TASKS, RESULTS = "tasks", "results"
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0


async def declare_tasks(transport: Transport, lab: LabSettings) -> None:
    """Create the queue of tasks and the queue of results; raises `TransportError`."""
    async with opened(transport.admin()) as admin:
        for name in (TASKS, RESULTS):
            await admin.declare(queue_named(lab, name))


class TaskWorker:
    """Takes one task, works as long as its complexity says, reports the result, then acknowledges.

    This order loses nothing when a worker is killed: the broker gives its task to another. When it is killed between
    report and acknowledgement, the task is done twice, and the second result is marked as redelivered. `run` it until
    `stop` is called; the current task is finished first.
    """

    def __init__(self, transport: Transport, lab: LabSettings, name: str, clock: Clock) -> None:
        """``name`` is what results call it."""
        self._lab = lab
        self._name = name
        self._clock = clock
        self._subscriber = transport.subscriber()
        self._results = queue_named(lab, RESULTS)
        self._sender = LabSender(transport, lambda: declare_tasks(transport, lab))
        self._deliveries: asyncio.Queue[Delivery | None] = asyncio.Queue()

    async def start(self) -> None:
        """Connect; raises `TransportError`. Prefetch 1: a busy worker gets no second task."""
        await self._sender.prepare()
        await self._subscriber.start(self, queue=queue_named(self._lab, TASKS).work, prefetch=1)

    async def run(self) -> None:
        """Work until `stop`."""
        while (delivery := await self._deliveries.get()) is not None:
            await self._work(delivery)

    def stop(self) -> None:
        """Ask `run` to end."""
        self._deliveries.put_nowait(None)

    async def close(self) -> None:
        """Disconnect; a task that was not begun goes back to the queue."""
        await self._subscriber.stop()
        await self._sender.stop()

    async def _work(self, delivery: Delivery) -> None:
        task = Task.read(delivery.message)
        if task is None:
            self._subscriber.nack(delivery, requeue=False)  # not a task: dead-letter it
            return
        started_ns, sent_ns = self._clock.wall_ns(), Metadata.read(delivery.message).sent_ns
        await asyncio.sleep(task.complexity * self._lab.seconds_per_complexity)
        finished_ns = self._clock.wall_ns()
        result = TaskResult(
            task_id=delivery.message.message_id or "",
            type=task.type,
            data=task.data,
            complexity=task.complexity,
            worker=self._name,
            pid=os.getpid(),
            waited_s=None if sent_ns is None else round(max(0, started_ns - sent_ns) / 1e9, 3),
            processing_time_s=round((finished_ns - started_ns) / 1e9, 3),
            redelivered=delivery.redelivered,
            finished_at=datetime.fromtimestamp(finished_ns / 1e9, UTC),
        )
        try:
            await self._sender.put(result.as_message(), self._results)
        except TransportError as error:
            log.warning("%s cannot report task %s, so it is done again: %s", self._name, result.task_id, error)
            self._subscriber.nack(delivery, requeue=True)
        else:
            self._subscriber.ack(delivery)

    def on_ready(self) -> None:
        """Tasks follow."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A task to do next."""
        self._deliveries.put_nowait(delivery)

    def on_lost(self, error: Exception) -> None:
        """What was not acknowledged is delivered again, to this or another worker."""


@dataclass(frozen=True, slots=True)
class TasksView:
    """What was submitted and done; ``dropped`` of the ``completed`` results are kept no longer."""

    results: list[TaskResult]
    submitted: int
    completed: int
    dropped: int


class Tasks:
    """The task queue, its workers and their results."""

    def __init__(self, transport: Transport, lab: LabSettings, pool: WorkerPool) -> None:
        """``pool`` starts the workers."""
        self._lab = lab
        self._pool = pool
        self._queue = queue_named(lab, TASKS)
        self._sender = LabSender(transport, lambda: declare_tasks(transport, lab))
        self._receiver = LabReceiver(transport, self._take)
        self._results: NewestItems[TaskResult] = NewestItems(lab.kept_messages)
        self._submitted = 0

    async def submit(self, task: Task) -> str:
        """Put ``task`` into the queue and return its id when the broker has it; raises `TransportError`."""
        await self._collect()
        message = task.as_message()
        await self._sender.put(message, self._queue)
        self._submitted += 1
        return message.message_id or ""

    async def start_workers(self, count: int) -> list[WorkerView]:
        """Start ``count`` more workers; raises `TransportError` without a broker, `PaceError` for too many."""
        await self._collect()
        await self._pool.start(count)
        return self.workers()

    async def stop_workers(self) -> int:
        """Stop all workers as `WorkerPool.stop` does; return how many there were."""
        return await self._pool.stop()

    def kill_worker(self, name: str) -> None:
        """Kill a worker, to see another one take over its task; raises `UnknownNameError`."""
        self._pool.kill(name)

    def workers(self) -> list[WorkerView]:
        """Return all workers."""
        return self._pool.workers()

    def view(self, newest: int | None = None) -> TasksView:
        """Return what is known, with the ``newest`` results only (None: all that are kept)."""
        results = self._results
        return TasksView(results.newest(newest), self._submitted, results.total, results.dropped)

    async def stop(self) -> None:
        """Stop the workers, close the connections; tasks that wait stay in their queue."""
        await self._pool.stop()
        await self._receiver.stop()
        await self._sender.stop()

    async def _collect(self) -> None:
        """Receive results from now on."""
        await self._sender.prepare()
        await self._receiver.start(queue_named(self._lab, RESULTS).work)

    def _take(self, delivery: Delivery) -> None:
        result = TaskResult.read(delivery.message)
        if result is not None:
            self._results.add(result)


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
        """Start ``count`` more workers and return when all take tasks; on failure, stop these and raise `PaceError`."""
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
        """End all workers and return how many there were; each may finish its task within ten seconds.

        A worker that takes longer is killed; its task was not acknowledged, so another worker gets it.
        """
        async with self._changing:
            self._forget_ended()
            count = len(self._workers)
            await _stop(list(self._workers.values()))
            self._forget_ended()
        return count

    def kill(self, name: str) -> None:
        """Kill a worker at once, even in the middle of a task; raises `UnknownNameError`."""
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
            start_new_session=True,  # Ctrl-C is for the lab, which then stops its workers cleanly
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
