"""What the examples have in common: where the broker is, how fast orders come, and the work on one.

Each example is a whole application. Start its worker as its first lines say, then ``python examples/….py`` offers 300
orders, a thousand a second; a worker does a hundred. ``AMQP_URL`` names another broker than the local one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
MANAGEMENT_URL = os.environ.get("MANAGEMENT_URL", "")  # "": at its usual port
PROMETHEUS_URL = os.environ.get("PROMETHEUS_URL", "")  # likewise
SERVERS = os.environ.get("KAFKA_SERVERS", "localhost:9092")
PACED = os.environ.get("ORDERS_PACED", "yes") == "yes"
"""Whether to pace; "no" shows what happens without."""

_COUNT = int(os.environ.get("ORDERS_COUNT", "300"))
_SECONDS = float(os.environ.get("ORDERS_SECONDS", "inf"))
_PER_S = 1000.0
_LOG = os.environ.get("ORDERS_LOG", "")
_SENT_LOG = os.environ.get("ORDERS_SENT_LOG", "")


def handle(offered_at: float) -> None:
    """Work on one order, for 10 ms, and write down when it came, when the work began and when it ended."""
    began_at = time.time()
    time.sleep(0.01)
    _write_down(_LOG, f"{offered_at:.6f} {began_at:.6f} {time.time():.6f}")


def _write_down(file: str, line: str) -> None:
    if file:
        with Path(file).open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")


class Offer:
    """Orders that come a thousand a second: ``while offer.more(): sleep(offer.wait_s()); send(time.time())``."""

    def __init__(self) -> None:
        self._started = self._due = time.monotonic()
        self._sent = 0

    def more(self) -> bool:
        """Return whether another order comes, and write down when the one before had been sent."""
        if self._sent:
            _write_down(_SENT_LOG, f"{time.time():.6f}")
        self._sent += 1
        return self._sent <= _COUNT and time.monotonic() - self._started < _SECONDS

    def wait_s(self) -> float:
        """Return how long until it comes; whoever is late does not catch up."""
        now = time.monotonic()
        self._due = max(self._due + 1 / _PER_S, now - 0.05)
        return max(0.0, self._due - now)
