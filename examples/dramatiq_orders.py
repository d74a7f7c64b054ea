"""Dramatiq. Worker: ``cd examples; dramatiq --processes 1 --threads 1 dramatiq_orders``."""

from __future__ import annotations

import time

import dramatiq
import orders
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from backpressure.integrations.dramatiq_middleware import DramatiqPace

broker = RabbitmqBroker(url=orders.URL)
if orders.PACED:
    broker.add_middleware(DramatiqPace())  # the one line
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="dramatiq_orders")
def work(offered_at: float) -> None:
    """Work on one order."""
    orders.handle(offered_at)


if __name__ == "__main__":
    offer = orders.Offer()
    while offer.more():
        time.sleep(offer.wait_s())
        work.send(time.time())
