"""Task workers: start and stop them, give them work, see who did it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from backpressure.api.lab.models import Done, StartRequest, Stopped, SubmitRequest, Submitted, WorkersAnswer
from backpressure.engines.lab.task import Task
from backpressure.engines.lab.tasks import Tasks, TasksView

__all__ = ["tasks_router"]


def tasks_router(tasks: Tasks) -> APIRouter:
    """Return the endpoints below ``/tasks``."""
    router = APIRouter(prefix="/tasks", tags=["Tasks"])
    away: dict[int | str, dict[str, Any]] = {503: {"description": "RabbitMQ is away"}}
    other: dict[int | str, dict[str, Any]] = {409: {"description": "a queue exists with other arguments"}}

    @router.post(
        "/workers/start",
        responses={**away, 409: {"description": "too many workers, one did not start, or a queue has other arguments"}},
    )
    async def start(request: StartRequest | None = None) -> WorkersAnswer:
        """Start workers (three, if not told otherwise); the answer comes when they take tasks."""
        return WorkersAnswer(workers=await tasks.start_workers((request or StartRequest()).num_workers))

    @router.post("/workers/stop")
    async def stop() -> Stopped:
        """Stop all workers. Each may finish the task that it is at, within ten seconds; a longer task goes back."""
        return Stopped(stopped=await tasks.stop_workers())

    @router.post("/workers/{worker}/kill", responses={404: {"description": "no such worker runs"}})
    async def kill(worker: Annotated[str, Path(examples=["worker-1"])]) -> Done:
        """Kill a worker's process, in the middle of its task: another worker gets it."""
        tasks.kill_worker(worker)
        return Done()

    @router.get("/workers")
    async def workers() -> WorkersAnswer:
        """List the workers with their pids, those that died included until others are started."""
        return WorkersAnswer(workers=tasks.workers())

    @router.post("/submit", responses={**away, **other, 429: {"description": "the queue is full"}})
    async def submit(request: SubmitRequest) -> Submitted:
        """Submit a task; the answer comes when the broker has it."""
        return Submitted(task_id=await tasks.submit(Task(**request.model_dump())))

    @router.get("/results")
    async def results() -> TasksView:
        """Return the results, oldest first: which worker did it, how long the task waited and took."""
        return tasks.view()

    return router
