"""FastStream on RabbitMQ. Worker: ``cd examples; faststream run faststream_orders:app``."""

from __future__ import annotations

import asyncio
import time

import orders
from faststream import FastStream
from faststream.rabbit import RabbitBroker, RabbitQueue

from backpressure.integrations.faststream_middleware import pace

broker = RabbitBroker(orders.URL)
if orders.PACED:
    pace(broker)  # the one line
app = FastStream(broker)


@broker.subscriber("faststream_orders")
async def work(offered_at: float) -> None:
    """Work on one order; it needs the processor, so nothing else happens meanwhile."""
    orders.handle(offered_at)


async def main() -> None:
    """Offer orders."""
    offer = orders.Offer()
    await broker.connect()
    await broker.declare_queue(RabbitQueue("faststream_orders"))  # the worker may not have started yet
    while offer.more():
        await asyncio.sleep(offer.wait_s())
        await broker.publish(time.time(), "faststream_orders")
    await broker.stop()


if __name__ == "__main__":
    asyncio.run(main())
