"""What an application of a task framework needs: a limiter for each queue it sends to, a reporter for each it works on.

Both are made when a queue is first used, so an application that only sends, or only works, has only that. A message is
not paced if it is sent by the work on a message of the same queue (a retry, the next step of a chain): it would wait
for itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from backpressure.errors import ConfigError
from backpressure.integrations.limiter import Limiter, PaceStatus
from backpressure.integrations.watcher import QueueWatcher
from backpressure.transports.rabbitmq.reporter import Reporter

__all__ = ["PacedQueues", "working_on"]

working_on: ContextVar[str | None] = ContextVar("working_on", default=None)
"""The queue of the message that this thread or task works on."""


class PacedQueues:
    """The limiters and reporters of one application.

    Attributes:
        timeout: how long a sender waits before it gets a `BackpressureError`, seconds; None: as long as it takes.
    """

    def __init__(
        self,
        url: str,
        *,
        only: Collection[str] = (),
        timeout: float | None = None,
        feedback: str = "pace.feedback",
        group: str = "",
        **limits: Any,
    ) -> None:
        """Describe what to pace; nothing connects yet.

        Args:
            url: the broker.
            only: the queues to pace; (): all.
            timeout: see the attribute.
            feedback: the fanout exchange (Kafka: the topic) of the reports.
            group: the consumer group that reads the topics (Kafka only).
            limits: see `Limiter`: ``max_per_s``, ``min_per_s``, ``weight``, ``law``, ``target_wait_s``.

        Raises:
            ConfigError: a value is not allowed.
        """
        self.timeout = timeout
        self._url = url
        self._only = frozenset(only)
        self._feedback = feedback
        self._group = group
        self._limits = limits
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._limiters: dict[str, Limiter] = {}
        self._reporters: dict[str, tuple[Reporter, QueueWatcher]] = {}
        if timeout is not None and timeout < 0:
            raise ConfigError("timeout", timeout, "expected 0 or more")
        Limiter("check", url, **limits)

    def limiter(self, queue: str) -> Limiter | None:
        """Return what paces messages to ``queue`` that are sent here and now; None: nothing does."""
        if (self._only and queue not in self._only) or working_on.get() == queue:
            return None
        with self._process():
            limiter = self._limiters.get(queue)
            if limiter is None:
                limiter = Limiter(queue, self._url, feedback=self._feedback, group=self._group, **self._limits)
                self._limiters[queue] = limiter
                limiter.open()
            return limiter

    def reporter(self, queue: str, prefetch: int, holds: Callable[[], int] | None = None) -> Reporter:
        """Return what reports the work on ``queue``; ``prefetch``, ``holds``: see `Reporter`; the first call counts."""
        with self._process():
            if queue not in self._reporters:
                reporter = Reporter(queue, prefetch=prefetch, holds=holds)
                watcher = QueueWatcher.join(self._url, self._feedback, self._group, member=reporter)
                self._reporters[queue] = reporter, watcher
            return self._reporters[queue][0]

    @contextmanager
    def work(self, queue: str, prefetch: int) -> Iterator[None]:
        """Report what happens inside as the work on one message of ``queue``."""
        before = working_on.set(queue)
        try:
            with self.reporter(queue, prefetch).work():
                yield
        finally:
            working_on.reset(before)

    def statuses(self) -> list[PaceStatus]:
        """Return how each queue is paced that was sent to."""
        with self._lock:
            return [limiter.status() for limiter in self._limiters.values()]

    def close(self) -> None:
        """Stop watching and reporting."""
        with self._lock:
            limiters, self._limiters = self._limiters, {}
            reporters, self._reporters = self._reporters, {}
        for limiter in limiters.values():
            limiter.close()
        for reporter, watcher in reporters.values():
            watcher.leave(reporter)

    @contextmanager
    def _process(self) -> Iterator[None]:
        """Hold the lock; in a process that was forked begin with nothing: threads are not inherited."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._limiters, self._reporters = {}, {}
        with self._lock:
            yield
