"""Dramatiq: ``broker.add_middleware(DramatiqPace())`` paces what is enqueued, and reports what is worked on."""

from __future__ import annotations

from typing import Any

from backpressure.errors import BackpressureError, ConfigError, MissingExtraError
from backpressure.extras import lacks

if lacks("dramatiq"):
    raise MissingExtraError("dramatiq", "DramatiqPace")

from dramatiq.middleware import Middleware, MiddlewareError

from backpressure.integrations.paced_queues import PacedQueues, working_on
from backpressure.integrations.pika_clients import address

__all__ = ["DramatiqPace", "EnqueueRefusedError"]


class EnqueueRefusedError(BackpressureError, MiddlewareError):
    """A `BackpressureError` that dramatiq hands to the caller."""


class DramatiqPace(Middleware):
    """Paces and reports. Messages with a delay are not paced: they wait in a queue of their own."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        """Take the broker's address from ``url``, or else from the broker; ``options``: see `PacedQueues`."""
        self._url = url
        self._options = options
        self._queues: PacedQueues | None = PacedQueues(url, **options) if url else None
        self._worker: Any = None
        self._at_work: dict[str, tuple[Any, object]] = {}

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        """Wait until the queue has room."""
        queues = self._of(broker)
        if delay is not None or (limiter := queues.limiter(message.queue_name)) is None:
            return
        try:
            limiter.acquire(queues.timeout)
        except BackpressureError as error:
            raise EnqueueRefusedError(error.queue, error.retry_after_s, error.reason) from None
        limiter.confirmed()  # nobody tells a middleware that a message was not sent

    def before_worker_boot(self, broker: Any, worker: Any) -> None:  # noqa: ARG002 - as dramatiq calls it
        """Remember the worker of this process: it knows how many messages wait."""
        self._worker = worker

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Report the work that begins."""
        queue = message.queue_name
        prefetch = 0 if self._worker is None else self._worker.queue_prefetch
        reporter = self._of(broker).reporter(queue, prefetch, lambda: self._held(queue))
        self._at_work[message.message_id] = reporter, reporter.begin()
        working_on.set(queue)

    def after_process_message(self, broker: Any, message: Any, **_outcome: Any) -> None:  # noqa: ARG002 - likewise
        """Report the work that is over: the message leaves the queue, also if it failed."""
        working_on.set(None)
        reporter, token = self._at_work.pop(message.message_id, (None, None))
        if reporter is not None:
            reporter.end(token)

    def after_skip_message(self, broker: Any, message: Any) -> None:
        """Report a message that leaves the queue without work."""
        self.after_process_message(broker, message)

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002 - likewise
        """Report no longer."""
        self._of(broker).close()

    def _held(self, queue: str) -> int:
        """Return how many messages of the queue are here and not acknowledged."""
        thread = self._worker.consumers.get(queue) if self._worker is not None else None
        return len(getattr(getattr(thread, "consumer", None), "known_tags", ()))

    def _of(self, broker: Any) -> PacedQueues:
        if self._queues is None:
            parameters = getattr(broker, "parameters", None)
            if parameters is None:
                raise ConfigError("url", None, "expected the broker's URL: this broker of dramatiq does not tell it")
            first = parameters[0] if isinstance(parameters, list | tuple) else parameters
            self._queues = PacedQueues(address(first), **self._options)
        return self._queues
