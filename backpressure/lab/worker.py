"""A task worker: takes one task, works as long as its complexity says, reports the result, then acknowledges.

This order loses nothing when a worker is killed: the broker gives its task to another. When it is killed between report
and acknowledgement, the task is done twice, and the second result is marked as redelivered.
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime

from backpressure.core.message import Delivery, Metadata
from backpressure.engines.clock import Clock
from backpressure.errors import TransportError
from backpressure.lab.messages import Task, TaskResult
from backpressure.lab.queues import LabSender, opened, queue_named
from backpressure.settings import LabSettings
from backpressure.transports.base import Transport

__all__ = ["RESULTS", "TASKS", "TaskWorker", "declare_tasks"]

log = logging.getLogger(__name__)

TASKS, RESULTS = "tasks", "results"


async def declare_tasks(transport: Transport, lab: LabSettings) -> None:
    """Create the queue of tasks and the queue of results; raises `TransportError`."""
    async with opened(transport.admin()) as admin:
        for name in (TASKS, RESULTS):
            await admin.declare(queue_named(lab, name))


class TaskWorker:
    """One worker. `run` it until `stop` is called; the current task is finished first."""

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
