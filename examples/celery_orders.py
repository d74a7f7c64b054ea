"""Celery. Worker: ``cd examples; celery --app celery_orders worker --concurrency 1``."""

from __future__ import annotations

import time

import orders
from celery import Celery

from backpressure.integrations.celery_app import pace

app = Celery("orders", broker=orders.URL)
if orders.PACED:
    pace(app)  # the one line


@app.task(name="work", ignore_result=True)
def work(offered_at: float) -> None:
    """Work on one order."""
    orders.handle(offered_at)


if __name__ == "__main__":
    offer = orders.Offer()
    while offer.more():
        time.sleep(offer.wait_s())
        work.delay(time.time())
