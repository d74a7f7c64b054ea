"""Clients of Python libraries as anybody writes them: ``python_clients.py CLIENT ROLE URL QUEUE PREFETCH``.

CLIENT: pika, aio-pika or celery. A producer publishes as fast as it may, with confirms; a consumer works 10 ms on each
message. `benchmarks/real_clients.py` runs them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count
from typing import Any

import aio_pika
import celery
import kombu
import pika

WORK_S = 0.01
CLIENT, ROLE, URL, QUEUE, PREFETCH = "pika", "consumer", "", "", 0


def body(number: int) -> bytes:
    """Return the body of a message."""
    return number.to_bytes(4, "big") + bytes(252)


def pika_producer() -> None:
    """Wait for the confirm of each message."""
    channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
    channel.confirm_delivery()
    for number in count():
        channel.basic_publish("", QUEUE, body(number), pika.BasicProperties(delivery_mode=2))


def pika_consumer() -> None:
    """Work on one message after the other."""
    channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    for method, _, _ in channel.consume(QUEUE):
        time.sleep(WORK_S)
        channel.basic_ack(method.delivery_tag)


async def aio_pika_producer() -> None:
    """Publish a hundred at a time."""
    channel = await (await aio_pika.connect(URL)).channel(publisher_confirms=True)
    for number in count():
        messages = [aio_pika.Message(body(number * 100 + each), delivery_mode=2) for each in range(100)]
        await asyncio.gather(*(channel.default_exchange.publish(message, QUEUE) for message in messages))


async def aio_pika_consumer() -> None:
    """Work on one message after the other."""
    channel = await (await aio_pika.connect(URL)).channel()
    if PREFETCH:
        await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.get_queue(QUEUE)
    async with queue.iterator() as messages:
        async for message in messages:
            await asyncio.sleep(WORK_S)
            await message.ack()


def celery_app() -> Any:
    """Return an application with one task."""
    app = celery.Celery("clients", broker=URL.replace("amqp://", "pyamqp://"))
    app.conf.update(
        task_queues=[kombu.Queue(QUEUE, kombu.Exchange(QUEUE), QUEUE, durable=True)],
        task_default_queue=QUEUE,
        task_default_exchange=QUEUE,
        task_default_routing_key=QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=PREFETCH,
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
    )
    app.task(name="work")(work)
    return app


def work() -> None:
    """Be the task."""
    time.sleep(WORK_S)


def celery_producer() -> None:
    """Send one task after the other, each confirmed."""
    app = celery_app()
    with app.connection_for_write() as connection, connection.Producer() as producer:
        while True:
            app.send_task("work", producer=producer)


def celery_consumer() -> None:
    """Run a worker."""
    options = [
        "--concurrency",
        "1",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--loglevel",
        "ERROR",
    ]
    celery_app().worker_main(["worker", *options, "--hostname", QUEUE])


if __name__ == "__main__":
    CLIENT, ROLE, URL, QUEUE = sys.argv[1:5]
    PREFETCH = int(sys.argv[5])
    run = globals()[f"{CLIENT.replace('-', '_')}_{ROLE}"]
    if asyncio.iscoroutinefunction(run):
        asyncio.run(run())
    else:
        run()
