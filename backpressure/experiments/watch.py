"""Watches a private broker that is no child of the supervisor: when it comes, goes, comes back, and when it dies.

Its end makes itself known to nobody, so it is looked for; whether it was meant to end, the broker process knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import psutil

from backpressure.experiments.supervisor import Supervisor

__all__ = ["Watched", "watching"]

_POLL_S = 0.1


class Watched(Protocol):
    """A process with a life of its own. ``pid`` is 0 while it is meant to be away."""

    product: str
    pid: int

    def tail(self) -> str:
        """Return the last lines it wrote."""


@asynccontextmanager
async def watching(broker: Watched, supervisor: Supervisor) -> AsyncIterator[None]:
    """Meanwhile, tell ``supervisor`` of every process that ``broker`` becomes; a death that nobody wanted fails it."""
    watch = asyncio.create_task(_watch(broker, supervisor), name="broker watch")
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch(broker: Watched, supervisor: Supervisor) -> None:
    process_id, pid = "", 0
    try:
        while True:
            if broker.pid != pid:
                if pid:
                    supervisor.on_exit(process_id, None)
                pid = broker.pid
                if pid:
                    process_id = supervisor.next_id("broker")
                    supervisor.on_ready("broker", process_id, pid)
            elif pid and _has_ended(pid):
                said = broker.tail() or "  (it wrote nothing)"
                supervisor.fail(f"the {broker.product} died, though no fault had killed it; its last words:\n{said}")
                return
            await asyncio.sleep(_POLL_S)
    finally:
        if pid:
            supervisor.on_exit(process_id, None)


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
