"""Celery on a broker: results, tasks for later, retries and remote control, on classic and quorum queues."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["classic", "quorum"])
def tasks(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The tasks, and a worker that runs them one at a time."""
    os.environ["QUEUE_TYPE"] = request.param
    sys.modules.pop("celery_tasks", None)
    sys.path.insert(0, str(Path(__file__).parent))
    import celery_tasks  # noqa: PLC0415 - it reads the environment

    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "-c", "1", "--loglevel", "WARNING"]
    with subprocess.Popen(command, cwd=Path(__file__).parent) as worker:
        yield celery_tasks
        worker.terminate()


def test_a_task_gives_its_result(tasks: Any) -> None:
    assert tasks.add.delay(2, 3).get(timeout=30) == 5


def test_a_task_for_now_overtakes_more_tasks_for_later_than_the_worker_prefetches(tasks: Any) -> None:
    later = [tasks.add.apply_async((n, n), countdown=12) for n in range(6)]
    assert tasks.add.delay(1, 1).get(timeout=9) == 2
    assert [result.get(timeout=30) for result in later] == [0, 2, 4, 6, 8, 10]


def test_a_task_is_retried(tasks: Any) -> None:
    assert tasks.flaky.delay(3).get(timeout=30) == "done after 3 retries"


def test_the_worker_answers_a_broadcast(tasks: Any) -> None:
    assert list((tasks.app.control.inspect(timeout=5).ping() or {}).values()) == [{"ok": "pong"}]
