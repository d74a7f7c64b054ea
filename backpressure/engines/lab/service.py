"""The whole lab: its parts, and its life as a process."""

from __future__ import annotations

import asyncio

from backpressure.engines.lab.board import Board
from backpressure.engines.lab.pubsub import PubSub
from backpressure.engines.lab.tasks import Tasks

__all__ = ["Lab"]


class Lab:
    """What the lab service serves. ``kafka`` is None where ``kafka_missing`` says why."""

    def __init__(
        self, rabbitmq: Board, tasks: Tasks, pubsub: PubSub, kafka: Board | None = None, kafka_missing: str = ""
    ) -> None:
        self.rabbitmq = rabbitmq
        self.tasks = tasks
        self.pubsub = pubsub
        self.kafka = kafka
        self.kafka_missing = kafka_missing
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Nothing: every part connects when it is first used."""

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()

    async def close(self) -> None:
        """Stop every part."""
        boards = [board for board in (self.rabbitmq, self.kafka) if board is not None]
        await asyncio.gather(self.tasks.stop(), self.pubsub.stop(), *(board.stop() for board in boards))
