"""What the lab's exchanges and queues are called, and how each is declared."""

from __future__ import annotations

from backpressure.settings import LabSettings, QueueSettings

__all__ = ["fanout_name", "queue_named", "subscriber_queue"]


def queue_named(lab: LabSettings, name: str) -> QueueSettings:
    """Return the lab's queue ``name``: durable, bounded, bound to the lab's direct exchange by its own name."""
    return QueueSettings(
        exchange=f"{lab.prefix}.direct",
        routing_key=name,
        work=f"{lab.prefix}.{name}",
        dead_letter=f"{lab.prefix}.dead",
    )


def fanout_name(lab: LabSettings) -> str:
    """Return the exchange that every subscriber's queue is bound to."""
    return f"{lab.prefix}.pubsub"


def subscriber_queue(lab: LabSettings, subscriber_id: str) -> str:
    """Return the queue of one subscriber."""
    return f"{lab.prefix}.pubsub.{subscriber_id}"
