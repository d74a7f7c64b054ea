"""An ordinary Celery worker for `pace run examples/services/celery.toml`. It knows nothing of this project.

Each task writes its id to a file when it is done. With ACKS_LATE=1 it is acknowledged after that; by default Celery
acknowledges before the work.
"""

import os
import time
from pathlib import Path

from celery import Celery
from kombu import Queue

app = Celery("shop", broker=os.environ["RUN_URL"])
app.conf.update(
    task_queues=[Queue(os.environ["RUN_QUEUE"], no_declare=True)],  # the queue is there, with arguments of its own
    task_acks_late=os.environ.get("ACKS_LATE") == "1",
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)


@app.task(name="shop.ship")
def ship(order_id: str) -> None:
    """Work on an order for 10 ms."""
    time.sleep(0.01)
    with Path(os.environ["DONE_FILE"]).open("a", encoding="utf-8") as done:
        done.write(f"{order_id}\n")
