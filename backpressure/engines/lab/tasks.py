"""Tasks: submitted to a queue, done by worker processes one at a time each, their results collected."""

from __future__ import annotations

from dataclasses import dataclass

from backpressure.core.message import Delivery
from backpressure.engines.lab.names import queue_named
from backpressure.engines.lab.pool import WorkerPool, WorkerView
from backpressure.engines.lab.receiver import Receiver
from backpressure.engines.lab.sender import Sender
from backpressure.engines.lab.store import Store
from backpressure.engines.lab.task import Task, TaskResult
from backpressure.engines.lab.worker import RESULTS, TASKS, declare_tasks
from backpressure.settings import LabSettings
from backpressure.transports.base import Transport

__all__ = ["Tasks", "TasksView"]


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
        self._sender = Sender(transport, lambda: declare_tasks(transport, lab))
        self._receiver = Receiver(transport, self._take)
        self._results: Store[TaskResult] = Store(lab.kept_messages)
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
