"""What the names of queues, exchanges and groups mean on Kafka."""

from __future__ import annotations

import re

from backpressure.settings import QueueSettings

__all__ = ["GROUPS", "Routes", "group_id", "topic_name"]

GROUPS = "pace."
"""What the names of our groups begin with; those of the topics of a run as well."""

_LONGEST = 249


def topic_name(queue: str) -> str:
    """Return the topic that stands for ``queue``: its name, with "_" for what Kafka does not allow."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", queue)[:_LONGEST]
    return name if name.strip(".") else name.replace(".", "_")


def group_id(queue: str) -> str:
    """Return the consumer group that stands for the consumers of ``queue``: their commits are the queue's place."""
    return f"{GROUPS}{topic_name(queue)}"


class Routes:
    """Where a message goes, as the bindings of the experiment would have it."""

    def __init__(self, queue: QueueSettings) -> None:
        self._bound = (queue.exchange, queue.routing_key)
        self._topics = tuple(
            topic_name(name) for name in ([queue.work, queue.audit] if queue.auditing else [queue.work])
        )

    def topics(self, exchange: str, routing_key: str) -> tuple[str, ...]:
        """Return the topics: the default exchange reaches the queue named by the key, any other those bound to it."""
        if not exchange:
            return (topic_name(routing_key),)
        return self._topics if (exchange, routing_key) == self._bound else ()
