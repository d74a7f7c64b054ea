"""How many messages a consumer should hold: enough never to starve, and so few that waiting stays visible in the queue.

Pure: measurements and time are passed in.
"""

from __future__ import annotations

from math import ceil, inf

__all__ = ["PrefetchSizer"]

_LARGEST = 65_535  # the field is 16 bits wide (AMQP 0-9-1, basic.qos)
_SPARE = 2  # the one in work, and one against jitter


class PrefetchSizer:
    """Adaptive prefetch by Little's law.

    Formula: prefetch = ⌈rate · round trip⌉ + 2. While an acknowledgement travels to the broker and the next message
    back, the consumer finishes rate · round trip messages: that many must be at hand, besides the one in work and one
    against jitter. Every further one only waits where neither the broker nor the producer sees it.
    Hysteresis: it rises at once, since starving costs capacity; it falls when fewer would have done for ``hold_s``.
    Source: Little (1961); the bandwidth-delay product of TCP.
    """

    def __init__(self, hold_s: float = 5.0) -> None:
        """Begin with the least."""
        self._hold_s = hold_s
        self._size = _SPARE
        self._most_wanted = 0
        self._lower_since = inf

    def update(self, rate_per_s: float, round_trip_s: float, service_s: float, now: float) -> int:
        """Return the prefetch to use from now on.

        Args:
            rate_per_s: messages the consumer finishes per second.
            round_trip_s: from an acknowledgement to the delivery it makes room for, on an idle path.
            service_s: mean service time; a consumer that has been starved could do 1/service_s a second.
            now: seconds, monotonic.
        """
        possible_per_s = max(rate_per_s, 1 / service_s if service_s > 0 else 0.0)
        wanted = min(_LARGEST, ceil(possible_per_s * round_trip_s - 1e-9) + _SPARE)
        if wanted >= self._size:
            self._size, self._lower_since = wanted, inf
            return self._size
        if self._lower_since == inf:
            self._lower_since, self._most_wanted = now, wanted
        self._most_wanted = max(self._most_wanted, wanted)
        if now - self._lower_since >= self._hold_s:
            self._size, self._lower_since = self._most_wanted, inf
        return self._size
