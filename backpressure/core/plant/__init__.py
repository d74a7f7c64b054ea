"""The model of the whole loop in virtual time: every law is tested against it, and scenarios are simulated with it.

`Plant` (loop.py) moves time. The parts are producers and the way to the broker (sources.py), what lies between
processes (network.py), the queue (bounded_queue.py), the work on its messages (attempts.py)
and the consumers (stations.py).
"""

from backpressure.core.plant.bounded_queue import QueueBound, WorkQueue
from backpressure.core.plant.loop import STEP_S, Plant, PlantSample
from backpressure.core.plant.network import Network
from backpressure.core.plant.sources import PlantProducer
from backpressure.core.plant.stations import Failures, Strangers, Workers

__all__ = [
    "STEP_S",
    "Failures",
    "Network",
    "Plant",
    "PlantProducer",
    "PlantSample",
    "QueueBound",
    "Strangers",
    "WorkQueue",
    "Workers",
]
