"""Worker processes, replaced by short programs: started together or not at all, stopped cleanly, killed on demand."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backpressure.errors import PaceError, UnknownNameError
from backpressure.lab.tasks import WorkerPool

OBEDIENT = "import sys; print('ready', flush=True); sys.stdin.read()"
BROKEN = "import sys; sys.exit(4)"
SECOND_BREAKS = "import sys; 'worker-2' in sys.argv and sys.exit(4); print('ready', flush=True); sys.stdin.read()"


@asynccontextmanager
async def pool_of(program: str, most: int = 4) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool([sys.executable, "-IS", "-c", program], dict(os.environ), most)
    try:
        yield pool
    finally:
        await pool.stop()


def states(pool: WorkerPool) -> list[tuple[str, str, int | None]]:
    return [(worker.worker, worker.state, worker.exit_code) for worker in pool.workers()]


def test_workers_start_under_names_of_their_own_and_stop_when_asked() -> None:
    async def story() -> None:
        async with pool_of(OBEDIENT) as pool:
            await pool.start(2)
            await pool.start(1)
            assert states(pool) == [(f"worker-{number}", "running", None) for number in (1, 2, 3)]
            assert len({worker.pid for worker in pool.workers()}) == 3
            assert await pool.stop() == 3
            assert states(pool) == []
            assert await pool.stop() == 0

    asyncio.run(story())


def test_a_killed_worker_is_shown_until_others_start_and_cannot_be_killed_again() -> None:
    async def story() -> None:
        async with pool_of(OBEDIENT) as pool:
            await pool.start(2)
            pool.kill("worker-1")
            while pool.workers()[0].state != "ended":  # noqa: ASYNC110 - the end of a process is seen by looking
                await asyncio.sleep(0)
            assert states(pool) == [("worker-1", "ended", -9), ("worker-2", "running", None)]
            for name in ("worker-1", "worker-9"):
                with pytest.raises(UnknownNameError, match=name):
                    pool.kill(name)
            await pool.start(1)
            assert states(pool) == [("worker-2", "running", None), ("worker-3", "running", None)]

    asyncio.run(story())


@pytest.mark.parametrize("program", [BROKEN, SECOND_BREAKS])
def test_when_one_worker_does_not_start_all_of_the_request_are_stopped(program: str) -> None:
    async def story() -> None:
        async with pool_of(program) as pool:
            with pytest.raises(PaceError, match=r"did not start \(exit code 4\)"):
                await pool.start(2)
            assert states(pool) == []

    asyncio.run(story())


def test_the_number_of_workers_at_a_time_is_limited() -> None:
    async def story() -> None:
        async with pool_of(OBEDIENT, most=2) as pool:
            await pool.start(1)
            with pytest.raises(PaceError, match=r"1 workers run already, of at most 2 \(lab\.max_workers\)"):
                await pool.start(2)
            assert len(pool.workers()) == 1

    asyncio.run(story())
