"""Parts of the lab on a broker in memory."""

from __future__ import annotations

from fastapi import FastAPI

from backpressure.config import replaced
from backpressure.lab.app import lab_app
from backpressure.lab.pubsub import PubSub
from backpressure.lab.queues import queue_named
from backpressure.lab.service import Board, Lab
from backpressure.lab.tasks import Tasks, WorkerPool
from backpressure.settings import Settings
from backpressure.transports.memory import MemoryBroker, MemoryTransport

__all__ = ["WHY", "Stage", "app_of", "lab_on"]

WHY = "Kafka is not configured"


class Stage:
    """A broker in memory, and settings for a lab that keeps little."""

    def __init__(self) -> None:
        changes = {"broker.url": "memory://lab", "lab.kept_messages": 3, "lab.max_subscribers": 2, "lab.max_workers": 2}
        self.settings = replaced(Settings(), changes)
        self.lab = self.settings.lab
        self.broker = MemoryBroker()
        self.transport = MemoryTransport(self.settings, self.broker)


def lab_on(stage: Stage, *, kafka: bool = True) -> Lab:
    """Return a lab whose Kafka, if there is one, is another broker in memory."""
    queue = queue_named(stage.lab, "messages")
    other = MemoryTransport(stage.settings, MemoryBroker())
    return Lab(
        rabbitmq=Board(stage.transport, queue, stage.lab.kept_messages),
        tasks=Tasks(stage.transport, stage.lab, WorkerPool(["/nowhere"], {}, stage.lab.max_workers)),
        pubsub=PubSub(stage.transport, stage.lab),
        kafka=Board(other, queue, stage.lab.kept_messages) if kafka else None,
        kafka_missing="" if kafka else WHY,
    )


def app_of(stage: Stage) -> FastAPI:
    """Return the app of a lab."""
    return lab_app(lab_on(stage))
