"""Taskiq. Worker: ``cd examples; taskiq worker --workers 1 --max-async-tasks 1 taskiq_orders:broker``."""

from __future__ import annotations

import asyncio
import time

import orders
from taskiq_aio_pika import AioPikaBroker

from backpressure.integrations.taskiq_middleware import TaskiqPace

broker = AioPikaBroker(orders.URL)
if orders.PACED:
    broker = broker.with_middlewares(TaskiqPace())  # the one line


@broker.task
def work(offered_at: float) -> None:
    """Work on one order."""
    orders.handle(offered_at)


async def main() -> None:
    """Offer orders."""
    await broker.startup()
    offer = orders.Offer()
    while offer.more():
        await asyncio.sleep(offer.wait_s())
        await work.kiq(time.time())
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
