"""How many messages a consumer should hold: as few as keep it busy.

Little's law: to work without a pause at ``rate_per_s`` while each message takes a round trip to be replaced, a consumer
must hold ``rate × round trip`` messages besides the one at work. More only hides waiting in the client.
"""

from __future__ import annotations

from math import ceil

__all__ = ["PrefetchSizer"]

_SPARE = 2
_HYSTERESIS = 0.25


class PrefetchSizer:
    """Sizes a prefetch from measurements; small changes of them change nothing."""

    def __init__(self) -> None:
        self._size = 0

    def update(self, rate_per_s: float, round_trip_s: float, service_s: float, now: float) -> int:  # noqa: ARG002
        """Return the prefetch for the measured rate, round trip and service time (``now``: seconds, monotonic)."""
        wanted = 1 + ceil(rate_per_s * round_trip_s) + _SPARE
        if abs(wanted - self._size) > _HYSTERESIS * self._size:
            self._size = wanted
        return self._size
