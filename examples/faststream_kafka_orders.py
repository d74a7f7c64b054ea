"""FastStream on Kafka. Worker: ``cd examples; faststream run faststream_kafka_orders:app``.

It needs the topic ``orders``. With confluent-kafka instead of aiokafka only the import of ``KafkaBroker`` changes:
``from faststream.confluent import KafkaBroker``.
"""

from __future__ import annotations

import asyncio
import time

import orders
from faststream import FastStream
from faststream.kafka import KafkaBroker

from backpressure.integrations.faststream_middleware import pace

broker = KafkaBroker(orders.SERVERS)
if orders.PACED:
    pace(broker, group="workers")  # the one line
app = FastStream(broker)


@broker.subscriber("orders", group_id="workers", auto_offset_reset="earliest")
async def work(offered_at: float) -> None:
    """Work on one order."""
    orders.handle(offered_at)


async def main() -> None:
    """Offer orders."""
    offer = orders.Offer()
    await broker.connect()
    while offer.more():
        await asyncio.sleep(offer.wait_s())
        await broker.publish(time.time(), "orders")
    await broker.stop()


if __name__ == "__main__":
    asyncio.run(main())
