"""The whole lab: its parts, and its life as a process."""

from __future__ import annotations

import asyncio
from math import inf

from backpressure.engines.lab.board import Board
from backpressure.engines.lab.pubsub import PubSub
from backpressure.engines.lab.tasks import Tasks

__all__ = ["Lab"]

_KNOWN_FOR_S = 1.0  # each look is a connection: not more than one a second, however many ask


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
        self._one_look = asyncio.Lock()
        self._look_again_at = -inf
        self._obstacle = ""

    async def start(self) -> None:
        """Nothing: every part connects when it is first used."""

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()

    async def obstacle(self) -> str:
        """Return why RabbitMQ, which all but the Kafka board needs, cannot be used now; empty: it can."""
        if self._stopping.is_set():
            return "it is stopping"
        async with self._one_look:
            clock = asyncio.get_running_loop().time
            if clock() >= self._look_again_at:
                self._obstacle = await self.rabbitmq.obstacle()
                self._look_again_at = clock() + _KNOWN_FOR_S
        return self._obstacle

    async def close(self) -> None:
        """Stop every part."""
        boards = [board for board in (self.rabbitmq, self.kafka) if board is not None]
        await asyncio.gather(self.tasks.stop(), self.pubsub.stop(), *(board.stop() for board in boards))
