"""Which topics a message goes to, as the bindings of the experiment would have it."""

from __future__ import annotations

from backpressure.core.kafka_names import topic_name
from backpressure.settings import QueueSettings

__all__ = ["Routes"]


class Routes:
    """The bindings of one experiment."""

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
