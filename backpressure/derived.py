"""What follows from the settings: what several of them mean together. Reads nothing but its arguments."""

from __future__ import annotations

from typing import Any

from backpressure.core.controllers import traits
from backpressure.settings import QueueSettings

__all__ = ["bound_of_strategy"]

_DEFAULT_BOUND: int = QueueSettings.model_fields["max_length"].default


def bound_of_strategy(strategy: str, queue: QueueSettings) -> dict[str, Any]:
    """Return the bound that goes with ``strategy`` by the dotted names of its settings.

    A strategy is a law and a bound of the queue. ``unbounded`` has none, ``bounded`` has one that refuses, and every
    other strategy has the bound that ``queue`` states.
    """
    kind = traits(strategy).queue_bound
    bound: dict[str, Any] = {"queue.max_length": queue.max_length, "queue.overflow": queue.overflow}
    if kind == "none":
        bound["queue.max_length"] = None
    elif kind == "refusing":
        bound = {"queue.max_length": queue.max_length or _DEFAULT_BOUND, "queue.overflow": "reject-publish"}
    return bound
