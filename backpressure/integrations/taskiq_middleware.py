"""Taskiq: ``broker.with_middlewares(TaskiqPace())`` paces what is kicked, and reports what is executed."""

from __future__ import annotations

import asyncio
from typing import Any

from backpressure.errors import ConfigError, MissingExtraError
from backpressure.extras import lacks

if lacks("taskiq"):
    raise MissingExtraError("taskiq", "TaskiqPace")

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from backpressure.integrations.paced_queues import PacedQueues, working_on

__all__ = ["TaskiqPace"]

_DEFAULT_URL = "amqp://guest:guest@localhost:5672"
_DEFAULT_QUEUE = "taskiq"


class TaskiqPace(TaskiqMiddleware):
    """Paces and reports, on taskiq's broker for RabbitMQ. Tasks with a delay are not paced."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        """Take the broker's address from ``url``, or else from the broker; ``options``: see `PacedQueues`."""
        super().__init__()
        self._url = url
        self._options = options
        self._queues: PacedQueues | None = PacedQueues(url, **options) if url else None
        self._at_work: dict[str, tuple[Any, object]] = {}

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Wait until the queue has room."""
        queues = self._of_broker()
        if message.labels.get("delay") is None and (limiter := queues.limiter(self._queue(message))) is not None:
            await limiter.acquire_async(queues.timeout)
            limiter.confirmed()  # nobody tells a middleware that a task was not sent
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Report the work that begins."""
        queue = self._queue(message)
        reporter = self._of_broker().reporter(queue, getattr(self.broker, "_qos", 0))
        self._at_work[message.task_id] = reporter, reporter.begin()
        working_on.set(queue)
        return message

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:  # noqa: ARG002 - as taskiq calls it
        """Report the work that is over."""
        working_on.set(None)
        reporter, token = self._at_work.pop(message.task_id, (None, None))
        if reporter is not None:
            reporter.end(token)

    async def shutdown(self) -> None:
        """Stop watching and reporting."""
        if self._queues is not None:
            await asyncio.to_thread(self._queues.close)

    def _queue(self, message: TaskiqMessage) -> str:
        """Return the queue that the broker sends this task to."""
        queues = getattr(self.broker, "_task_queues", [])
        label = message.labels.get(getattr(self.broker, "_label_for_routing", "queue_name"))
        if len(queues) > 1 and label is not None:
            return next((queue.name for queue in queues if (queue.routing_key or queue.name) == label), str(label))
        return queues[0].name if queues else _DEFAULT_QUEUE

    def _of_broker(self) -> PacedQueues:
        if self._queues is None:
            if not hasattr(self.broker, "url"):
                raise ConfigError("url", None, "expected the broker's URL: this broker of taskiq does not tell it")
            self._queues = PacedQueues(self.broker.url or _DEFAULT_URL, **self._options)
        return self._queues
