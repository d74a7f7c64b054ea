"""Send, consume, look: the smallest use of a queue, the same on every broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from backpressure.core.message import Delivery
from backpressure.engines.lab.note import Note, ReceivedNote
from backpressure.engines.lab.receiver import Receiver
from backpressure.engines.lab.sender import Sender, opened
from backpressure.engines.lab.store import Store
from backpressure.errors import TransportError
from backpressure.settings import QueueSettings
from backpressure.transports.base import Transport

__all__ = ["Board", "BoardView"]

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
        self._sender = Sender(transport, self._declare)
        self._receiver = Receiver(transport, self._take)
        self._received: Store[ReceivedNote] = Store(kept)
        self._sent = 0

    async def send(self, note: Note) -> str:
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
        """Return why the broker cannot be reached; empty: it can."""
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
