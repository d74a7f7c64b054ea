"""Tasks: one at a time per worker, none lost with its worker, every result with its worker and duration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from virtual_time import VirtualClock, run_virtually

from backpressure.core.message import Message
from backpressure.errors import BrokerUnavailableError, QueueNotFoundError
from backpressure.lab.messages import Task, TaskResult
from backpressure.lab.tasks import Tasks, TaskWorker, WorkerPool
from backpressure.transports.memory import MemoryTransport


def tasks_on(stage: Any) -> Tasks:
    return Tasks(stage.transport, stage.lab, WorkerPool([], {}, most=0))


@asynccontextmanager
async def working(stage: Any, *names: str) -> AsyncIterator[dict[str, TaskWorker]]:
    """Run workers of these names inside this process."""
    workers = {name: TaskWorker(stage.transport, stage.lab, name, VirtualClock()) for name in names}
    for worker in workers.values():
        await worker.start()
    running = [asyncio.create_task(worker.run()) for worker in workers.values()]
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()
        await asyncio.gather(*running)
        for worker in workers.values():
            await worker.close()


def results(tasks: Tasks) -> list[tuple[str, str]]:
    return [(result.data, result.worker) for result in tasks.view().results]


def test_a_task_takes_as_long_as_it_is_complex_and_the_result_says_who_did_it(stage: Any) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        async with working(stage, "worker-1"):
            task_id = await tasks.submit(Task(3, "needs work", "analysis"))
            await asyncio.sleep(2.9)
            assert tasks.view().results == []
            await asyncio.sleep(0.2)
        [result] = tasks.view().results
        assert (result.task_id, result.data, result.type, result.complexity) == (task_id, "needs work", "analysis", 3)
        assert (result.worker, result.processing_time_s, result.redelivered) == ("worker-1", 3.0, False)
        assert (tasks.view().submitted, tasks.view().completed) == (1, 1)
        await tasks.stop()

    run_virtually(story())


def test_a_busy_worker_is_given_no_second_task(stage: Any) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        async with working(stage, "worker-1", "worker-2"):
            await tasks.submit(Task(10, "long"))
            for number in range(2):
                await tasks.submit(Task(1, f"short {number}"))
            await asyncio.sleep(11)
        (first, free), (second, still_free), (last, busy) = results(tasks)
        assert (first, second, last) == ("short 0", "short 1", "long")
        assert free == still_free != busy
        await tasks.stop()

    run_virtually(story())


def test_the_task_of_a_worker_that_dies_goes_to_another(stage: Any) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        async with working(stage, "survivor"):
            await tasks.submit(Task(2, "first"))
            victim = TaskWorker(stage.transport, stage.lab, "victim", VirtualClock())
            await victim.start()
            dying = asyncio.create_task(victim.run())
            await tasks.submit(Task(2, "second"))
            await asyncio.sleep(1)
            dying.cancel()
            await victim.close()  # what a broker sees of a kill: the connection is gone
            await asyncio.sleep(4)
        assert results(tasks) == [("first", "survivor"), ("second", "survivor")]
        assert [result.redelivered for result in tasks.view().results] == [False, True]
        await tasks.stop()

    run_virtually(story())


def test_a_worker_that_is_stopped_finishes_its_task_and_leaves_the_rest(stage: Any) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        async with working(stage, "worker-1"):
            for number in range(3):
                await tasks.submit(Task(2, str(number)))
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.1)
        assert results(tasks) == [("0", "worker-1")]
        assert len(stage.broker.queue("lab.tasks").ready) == 2
        await tasks.stop()

    run_virtually(story())


@pytest.mark.parametrize(
    "body", [b"no JSON", b"[]", b"{}", b'{"complexity": 0}', b'{"complexity": 101}', b'{"complexity": "much"}']
)
def test_what_is_not_a_task_is_dead_lettered_and_blocks_no_worker(stage: Any, body: bytes) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        async with working(stage, "worker-1"):
            stage.broker.publish(Message(body), "", "lab.tasks")
            await tasks.submit(Task(1, "good"))
            await asyncio.sleep(1.5)
        assert results(tasks) == [("good", "worker-1")]
        assert [entry.message.body for entry in stage.broker.queue("lab.dead").ready] == [body]
        await tasks.stop()

    run_virtually(story())


def test_a_task_whose_result_cannot_be_reported_is_done_again(stage: Any) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        async with working(stage, "worker-1"):
            await tasks.submit(Task(1, "once more"))
            stage.broker.delete("lab.results")
            stage.broker.block()
            await asyncio.sleep(1.5)
            stage.broker.unblock()
            await asyncio.sleep(5)
        assert [result.redelivered for result in tasks.view().results][-1]
        assert {data for data, _ in results(tasks)} == {"once more"}
        await tasks.stop()

    run_virtually(story())


def test_what_is_not_a_result_is_ignored(stage: Any) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        await tasks.submit(Task(1))
        for body in (b"?", b"{}", b'{"task_id": 1}', b"[" * 100_000):
            stage.broker.publish(Message(body), "", "lab.results")
        await asyncio.sleep(0.1)
        assert tasks.view().completed == 0
        assert TaskResult.read(Message(b"null")) is None
        await tasks.stop()

    run_virtually(story())


def test_a_deleted_task_queue_is_named_and_made_again(stage: Any) -> None:
    async def story() -> None:
        tasks = tasks_on(stage)
        await tasks.submit(Task(1))
        stage.broker.delete("lab.tasks")
        with pytest.raises(QueueNotFoundError):
            await tasks.submit(Task(1))
        await tasks.submit(Task(1))
        assert tasks.view().submitted == 2
        await tasks.stop()

    run_virtually(story())


def test_without_a_broker_no_worker_is_started(stage: Any) -> None:
    class AwayTransport(MemoryTransport):
        def admin(self) -> Any:
            raise BrokerUnavailableError("memory://lab", "connection refused")

    async def story() -> None:
        tasks = Tasks(AwayTransport(stage.settings, stage.broker), stage.lab, WorkerPool(["/nowhere"], {}, most=4))
        with pytest.raises(BrokerUnavailableError):
            await tasks.start_workers(1)
        assert tasks.workers() == []

    run_virtually(story())
