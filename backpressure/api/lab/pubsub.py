"""Publish and subscribe: everybody who is subscribed gets a copy."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from backpressure.api.lab.models import (
    Done,
    PublishedAnswer,
    PublishRequest,
    SubscribeRequest,
    SubscriberId,
    SubscribersAnswer,
)
from backpressure.engines.lab.note import Note
from backpressure.engines.lab.pubsub import PubSub, SubscriberMessages, SubscriberView

__all__ = ["pubsub_router"]

Responses = dict[int | str, dict[str, Any]]
Id = Annotated[SubscriberId, Path(examples=["subscriber-1"])]


def pubsub_router(pubsub: PubSub) -> APIRouter:
    """Return the endpoints below ``/pubsub``."""
    router = APIRouter(prefix="/pubsub", tags=["Publish and subscribe"])
    away: Responses = {503: {"description": "RabbitMQ is away"}}
    other: Responses = {409: {"description": "the exchange or a queue exists with other arguments"}}
    unknown: Responses = {404: {"description": "no such subscriber"}}

    @router.post(
        "/subscribers",
        responses={
            **away,
            409: {"description": "the name is taken, there are too many, or a queue has other arguments"},
        },
    )
    async def subscribe(request: SubscribeRequest | None = None) -> SubscriberView:
        """Create a subscriber: its queue fills from now on."""
        return await pubsub.subscribe(request.subscriber_id if request else None)

    @router.post("/subscribers/{subscriber_id}/consume", responses={**away, **other, **unknown})
    async def consume(subscriber_id: Id) -> SubscriberView:
        """Let a subscriber consume: what waits in its queue, and what comes."""
        return await pubsub.consume(subscriber_id)

    @router.post("/publish", responses={**away, **other})
    async def publish(request: PublishRequest) -> PublishedAnswer:
        """Publish a message to every subscriber; the answer comes when the broker has it."""
        published = await pubsub.publish(Note(**request.model_dump()))
        return PublishedAnswer(message_id=published.message_id, subscribers=published.subscribers)

    @router.get("/subscribers")
    async def subscribers() -> SubscribersAnswer:
        """List the subscribers."""
        return SubscribersAnswer(subscribers=pubsub.subscribers())

    @router.get("/subscribers/{subscriber_id}/messages", responses=unknown, response_model_exclude_none=True)
    async def messages(subscriber_id: Id) -> SubscriberMessages:
        """Return what a subscriber has consumed, oldest first."""
        return pubsub.messages(subscriber_id)

    @router.delete("/subscribers/{subscriber_id}", responses={**away, **unknown})
    async def unsubscribe(subscriber_id: Id) -> Done:
        """Remove a subscriber and its queue, with what waits in it."""
        await pubsub.unsubscribe(subscriber_id)
        return Done()

    return router
