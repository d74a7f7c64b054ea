"""The Celery application of the smoke cases: a task queue of a type, and results by RPC."""

from __future__ import annotations

import os

from celery import Celery
from kombu import Exchange, Queue

name = f"smoke.{os.environ['QUEUE_TYPE']}"
app = Celery("celery_tasks", broker=os.environ["AMQP_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=name,
    task_default_exchange=name,
    task_default_exchange_type="topic",
    task_default_routing_key=name,
    task_queues=[
        Queue(
            name,
            Exchange(name, type="topic"),
            routing_key=name,
            queue_arguments={"x-queue-type": os.environ["QUEUE_TYPE"]},
        )
    ],
    worker_detect_quorum_queues=True,
    broker_connection_retry_on_startup=True,
)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(bind=True, max_retries=4)
def flaky(self, failures: int) -> str:  # noqa: ANN001 - the task itself, bound by Celery
    if self.request.retries < failures:
        raise self.retry(countdown=1)
    return f"done after {failures} retries"
