"""The whole lab, and its life as a process: a board for each broker, tasks, publish and subscribe.

A board is the smallest use of a queue, the same on every broker: send, consume, look.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf

from backpressure.core.message import Delivery
from backpressure.errors import TransportError
from backpressure.lab.messages import LabNote, ReceivedNote
from backpressure.lab.pubsub import PubSub
from backpressure.lab.queues import LabReceiver, LabSender, NewestItems, opened
from backpressure.lab.tasks import Tasks
from backpressure.settings import QueueSettings
from backpressure.transports.base import Transport

_KNOWN_FOR_S = 1.0  # each check opens a connection: at most one a second
_LOOK_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class BoardView:
    """What a board has sent and received; ``dropped`` of the ``received`` are kept no longer."""

    messages: list[ReceivedNote]
    sent: int
    received: int
    dropped: int
    consuming: bool


class Board:
    """One queue, one sender, one receiver and what it received."""

    def __init__(self, transport: Transport, queue: QueueSettings, kept: int) -> None:
        """``kept`` messages are remembered."""
        self.address = transport.address
        self._transport = transport
        self._queue = queue
        self._sender = LabSender(transport, self._declare)
        self._receiver = LabReceiver(transport, self._take)
        self._received: NewestItems[ReceivedNote] = NewestItems(kept)
        self._sent = 0

    async def send(self, note: LabNote) -> str:
        """Send ``note`` and return its message id when the broker has it; raises `TransportError`."""
        message = note.as_message()
        await self._sender.put(message, self._queue)
        self._sent += 1
        return message.message_id or ""

    async def consume(self) -> None:
        """Receive from now on; raises `TransportError`."""
        await self._sender.prepare()  # the queue is there
        await self._receiver.start(self._queue.work)

    async def obstacle(self) -> str:
        """Return why the broker cannot be reached, or ""."""
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_S), opened(self._transport.admin()):
                return ""
        except TimeoutError:
            return f"{self.address} does not answer"
        except TransportError as error:
            return str(error)

    def view(self, newest: int | None = None) -> BoardView:
        """Return what is known, with the ``newest`` messages only (None: all that are kept)."""
        received = self._received
        return BoardView(
            messages=received.newest(newest),
            sent=self._sent,
            received=received.total,
            dropped=received.dropped,
            consuming=self._receiver.consuming,
        )

    async def stop(self) -> None:
        """Close the connections; what waits in the queue stays there."""
        await self._receiver.stop()
        await self._sender.stop()

    async def _declare(self) -> None:
        async with opened(self._transport.admin()) as admin:
            await admin.declare(self._queue)

    def _take(self, delivery: Delivery) -> None:
        self._received.add(ReceivedNote.read(delivery))


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
        """Return why RabbitMQ cannot be used now, or "". Everything but the Kafka board needs it."""
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
