"""Client libraries alone. ``python examples/client_orders.py pika`` offers orders; so do aio-pika, confluent, aiokafka.

Worker: ``python examples/client_orders.py work``, on Kafka ``… work-on-kafka``; it knows nothing of this project. What
it holds is read from RabbitMQ's management API, which MANAGEMENT_URL names if it is not at its usual port.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import closing

import aio_pika
import orders
import pika
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, Producer

from backpressure import Paced, SyncPaced

QUEUE = "client_orders"
LAW = "pace" if orders.PACED else "unbounded"


def offer_with_pika() -> None:
    """Offer orders from this thread."""
    offer = orders.Offer()
    with pika.BlockingConnection(pika.URLParameters(orders.URL)) as connection:
        connection.channel().queue_declare(QUEUE, durable=True)  # the worker may not have started yet
        with SyncPaced(connection.channel(), QUEUE, law=LAW, management_url=orders.MANAGEMENT_URL) as paced:
            while offer.more():
                time.sleep(offer.wait_s())
                paced.publish(str(time.time()).encode())


async def offer_with_aio_pika() -> None:
    """Offer orders from this task."""
    offer = orders.Offer()
    async with await aio_pika.connect(orders.URL) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True)
        async with Paced(channel, QUEUE, law=LAW, management_url=orders.MANAGEMENT_URL) as paced:
            while offer.more():
                await asyncio.sleep(offer.wait_s())
                await paced.publish(str(time.time()).encode())


def offer_with_confluent() -> None:
    """Offer orders from this thread, on Kafka."""
    offer = orders.Offer()
    producer = Producer({"bootstrap.servers": orders.SERVERS})
    with SyncPaced(producer, QUEUE, law=LAW, group="workers") as paced:
        while offer.more():
            time.sleep(offer.wait_s())
            paced.publish(str(time.time()).encode())


async def offer_with_aiokafka() -> None:
    """Offer orders from this task, on Kafka."""
    offer = orders.Offer()
    async with (
        AIOKafkaProducer(bootstrap_servers=orders.SERVERS) as producer,
        Paced(producer, QUEUE, law=LAW, group="workers") as paced,
    ):
        while offer.more():
            await asyncio.sleep(offer.wait_s())
            await paced.publish(str(time.time()).encode())


def work() -> None:
    """Work on orders until it is stopped."""
    with pika.BlockingConnection(pika.URLParameters(orders.URL)) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        channel.basic_qos(prefetch_count=10)
        for method, _, body in channel.consume(QUEUE):
            orders.handle(float(body))
            channel.basic_ack(method.delivery_tag)


def work_on_kafka() -> None:
    """Work on orders until it is stopped; the library commits every five seconds.

    Whoever does not leave the group keeps its partitions for another 45 seconds.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    consumer = Consumer({"bootstrap.servers": orders.SERVERS, "group.id": "workers", "auto.offset.reset": "earliest"})
    consumer.subscribe([QUEUE])
    with closing(consumer):
        while True:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                orders.handle(float(message.value()))


if __name__ == "__main__":
    {
        "pika": offer_with_pika,
        "aio-pika": lambda: asyncio.run(offer_with_aio_pika()),
        "confluent": offer_with_confluent,
        "aiokafka": lambda: asyncio.run(offer_with_aiokafka()),
        "work": work,
        "work-on-kafka": work_on_kafka,
    }[sys.argv[1]]()
