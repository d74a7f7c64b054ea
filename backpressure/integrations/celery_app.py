"""Celery: ``pace(app)`` paces the tasks that are sent, and reports those that workers execute.

Sending is paced in ``app.amqp``, where every task passes that is sent to a broker. A worker reports from its main
process, by a bootstep around the pool: with the pools of processes, only the main process knows what was received.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from backpressure.errors import MissingExtraError
from backpressure.extras import lacks

if lacks("celery"):
    raise MissingExtraError("celery", "pacing Celery")

import celery._state as celery_state
from celery import Celery, bootsteps
from celery.app.amqp import AMQP
from celery.worker import state

from backpressure.integrations.kombu_producer import address_of
from backpressure.integrations.paced_queues import PacedQueues

__all__ = ["CeleryPace", "pace"]


def pace(app: Celery, *, url: str | None = None, **options: Any) -> CeleryPace:
    """Pace the tasks that ``app`` sends, and report those that its workers execute.

    Tasks with an ``eta`` or a ``countdown`` are not paced: they wait in a worker. Nor are those that a task sends to
    its own queue: it would wait for itself.

    Args:
        app: the application; call this before its first task is sent.
        url: the broker's address; None: that of ``app``.
        options: see `PacedQueues`: ``timeout``, ``only``, ``max_per_s``, ….
    """
    return CeleryPace(app, url, options)


class CeleryPace:
    """What `pace` has added to one application."""

    def __init__(self, app: Celery, url: str | None, options: dict[str, Any]) -> None:
        self.app = app
        self._url = url
        self._options = options
        self._queues: PacedQueues | None = None
        app.amqp_cls = _paced_amqp(self)  # type: ignore[assignment]  # a class, or its path
        app.__dict__.pop("amqp", None)
        app.steps["consumer"].add(_reporting_step(self))

    @property
    def queues(self) -> PacedQueues:
        """The limiters and reporters; the configuration of the application is read when they are first needed."""
        if self._queues is None:
            url = self._url or address_of(self.app.connection_for_write())
            self._queues = PacedQueues(url, **self._options)
        return self._queues

    def queue_of(self, delivery_info: Any) -> str:
        """Return the queue that a message came from."""
        exchange, key = delivery_info.get("exchange") or "", delivery_info.get("routing_key") or ""
        if exchange:
            for queue in self.app.amqp.queues.values():
                if (queue.exchange.name, queue.routing_key) == (exchange, key):
                    return str(queue.name)
        return str(key)

    def send(self, message: Any, queue: str | None, call: Callable[[], Any]) -> Any:
        """Call ``call``, which sends one task, when ``queue`` has room for it."""
        working = celery_state.get_current_worker_task()
        own = working is not None and self.queue_of(working.request.delivery_info or {}) == queue
        waits_elsewhere = message.headers.get("eta") is not None
        limiter = None if queue is None or own or waits_elsewhere else self.queues.limiter(queue)
        if limiter is None:
            return call()
        with limiter.sending(self.queues.timeout):
            return call()


def _paced_amqp(pacing: CeleryPace) -> type[AMQP]:
    class PacedAMQP(AMQP):
        """`AMQP` whose tasks are sent at the pace of the workers."""

        def _create_task_sender(self) -> Callable[..., Any]:
            send = super()._create_task_sender()

            def paced(producer: Any, name: str, message: Any, *, queue: Any = None, **options: Any) -> Any:
                target = queue
                if queue is None and options.get("exchange") is None:
                    target = self.default_queue
                named = None if target is None else str(getattr(target, "name", target))
                return pacing.send(message, named, lambda: send(producer, name, message, queue=queue, **options))

            return paced

    return PacedAMQP


def _reporting_step(pacing: CeleryPace) -> type[bootsteps.StartStopStep]:
    class ReportingStep(bootsteps.StartStopStep):
        """Wraps the callbacks of the pool, before the tasks are given to it."""

        def create(self, parent: Any) -> None:
            if not getattr(parent.pool, "reports_pace", False):  # a consumer that connects again has the same pool
                parent.pool.reports_pace = True
                parent.pool.apply_async = _reported(pacing, parent)

        def terminate(self, parent: Any) -> None:  # noqa: ARG002 - as Celery calls it
            pacing.queues.close()

    return ReportingStep


def _reported(pacing: CeleryPace, consumer: Any) -> Callable[..., Any]:
    """Return ``apply_async`` of the pool that also reports when work begins and ends."""
    apply_async = consumer.pool.apply_async

    def holds(queue: str) -> Callable[[], int]:
        def held() -> int:
            with suppress(RuntimeError):  # the set changes meanwhile
                return sum(pacing.queue_of(each.delivery_info) == queue for each in list(state.reserved_requests))
            return 0

        return held

    def reported(target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        request = getattr(options.get("accept_callback"), "__self__", None)
        if request is None or not hasattr(request, "delivery_info"):
            return apply_async(target, args, kwargs, **options)
        queue = pacing.queue_of(request.delivery_info)
        most = consumer.initial_prefetch_count
        reporter = pacing.queues.reporter(queue, most and most + consumer.pool.num_processes, holds(queue))
        begun: list[object] = []

        def on_begin(*told: Any) -> Any:
            begun.append(reporter.begin())
            return accept(*told)

        def ending(then: Callable[..., Any] | None) -> Callable[..., Any]:
            def on_end(*told: Any, **named: Any) -> Any:
                reporter.end(begun[0] if begun else reporter.begin())
                return then(*told, **named) if then is not None else None

            return on_end

        accept = options["accept_callback"]
        options["accept_callback"] = on_begin
        options["callback"] = ending(options.get("callback"))
        options["error_callback"] = ending(options.get("error_callback"))
        return apply_async(target, args, kwargs, **options)

    return reported
