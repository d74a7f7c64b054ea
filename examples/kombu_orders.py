"""Kombu. Worker: ``python examples/kombu_orders.py work``."""

from __future__ import annotations

import sys
import time

import kombu
import orders

from backpressure.integrations.kombu_producer import PacedProducer
from backpressure.integrations.paced_queues import PacedQueues

QUEUE = kombu.Queue("kombu_orders", durable=True)
Producer = PacedProducer if orders.PACED else kombu.Producer  # the one line, where orders are sent


def work() -> None:
    """Work on orders until it is stopped."""
    paced = PacedQueues(orders.URL)

    def on_order(body: float, message: kombu.Message) -> None:
        with paced.work("kombu_orders", 10):  # the one line, where they are worked on
            orders.handle(body)
            message.ack()

    with (
        kombu.Connection(orders.URL) as connection,
        connection.Consumer([QUEUE], callbacks=[on_order], prefetch_count=10),
    ):
        while True:
            connection.drain_events()


def main() -> None:
    """Offer orders."""
    offer = orders.Offer()
    with kombu.Connection(orders.URL) as connection:
        producer = Producer(connection.channel())
        while offer.more():
            time.sleep(offer.wait_s())
            producer.publish(time.time(), routing_key="kombu_orders", declare=[QUEUE])


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
