"""Send, consume, look: the same three endpoints for RabbitMQ and for Kafka."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

from backpressure.api.lab.models import Done, MessageRequest, Sent
from backpressure.engines.lab.board import Board, BoardView
from backpressure.engines.lab.note import Note
from backpressure.errors import TransportError

__all__ = ["board_router"]


def board_router(broker: str, board: Board | None, missing: str = "") -> APIRouter:
    """Return the endpoints below ``/broker``; without a ``board`` all of them say what is ``missing`` (503)."""
    router = APIRouter(
        prefix=f"/{broker.lower()}",
        tags=[broker],
        responses={
            409: {"description": "the queue exists with other arguments"},
            503: {"description": f"{broker} is away, or not configured"},
        },
    )

    def there() -> Board:
        if board is None:
            raise TransportError(missing)
        return board

    @router.post("/send", responses={429: {"description": "the queue is full"}})
    async def send(request: MessageRequest) -> Sent:
        """Send a message; the answer comes when the broker has it."""
        message_id = await there().send(Note(**request.model_dump()))
        return Sent(message_id=message_id, timestamp=datetime.now(UTC))

    @router.post("/consume")
    async def consume() -> Done:
        """Consume from now on: what waits, and what comes."""
        await there().consume()
        return Done()

    @router.get("/messages", response_model_exclude_none=True)
    async def messages() -> BoardView:
        """Return what was consumed, oldest first."""
        return there().view()

    return router
