"""What `pace` knows about the broker: how long confirms usually take, and whether it stalled a moment ago."""

from __future__ import annotations

from math import ceil

from backpressure.core.signals import Signals

__all__ = ["ConfirmLatencyTracker"]

_MEMORY_S = 1.0
_SLOW_S = 0.1
_SLOW_RATIO = 10
_LONGEST_FLIGHT_S = 0.25
_LEAST = 1


class ConfirmLatencyTracker:
    """Learns how long confirms usually take, and computes how many messages may be unconfirmed.

    Formula: window = queued + 2·rate·L + 1, with L the usual latency. Of two successive ticks the quicker one counts,
    so that a single stall does not look like a slower broker; a lower latency is adopted gradually, over a second. If
    the broker stopped now, the consumers would use up the queue, and ``queued`` messages in its place are all they need
    when it continues. More would only wait behind the stall.

    When confirms take ten times their minimum and more than 100 ms, the broker itself queues messages: then 2·L counts
    as a quarter of a second at most.

    Attributes:
        stalled: whether confirms took more than twice the usual time, or more are missing than is usual. It includes
        the tick before, because what is reported now began then.
    """

    def __init__(self) -> None:
        self.stalled = False
        self._stalls = False
        self._usual_s: float | None = None
        self._last_s: float | None = None
        self._rate_per_s = 0.0

    def update(self, signals: Signals, elapsed_s: float) -> None:
        """Take in the latencies and the messages in flight; the last call was ``elapsed_s`` ago."""
        latency_s, usual_s = signals.confirm_latency_s, self._usual_s
        if usual_s is not None:
            before, allowed = self._stalls, _LEAST + 2 * usual_s * self._rate_per_s
            self._stalls = signals.in_flight > allowed or (latency_s or 0.0) > 2 * usual_s
            self.stalled = self._stalls or before
        if latency_s is None:
            return
        sample_s = latency_s if self._last_s is None else min(latency_s, self._last_s)
        self._last_s = latency_s
        if usual_s is None or sample_s > usual_s:
            self._usual_s = sample_s
        else:
            self._usual_s = usual_s + min(1.0, elapsed_s / _MEMORY_S) * (sample_s - usual_s)

    def window(self, signals: Signals, rate_per_s: float, queued: float) -> int | None:
        """Return how many messages may be unconfirmed at this rate; None: no limit but the settings'."""
        self._rate_per_s = rate_per_s
        if self._usual_s is None or not queued:
            return None
        flight_s, latency_s, least_s = 2 * self._usual_s, signals.confirm_latency_s, signals.confirm_latency_min_s
        if latency_s and least_s and latency_s >= max(_SLOW_S, _SLOW_RATIO * least_s):
            flight_s = min(flight_s, _LONGEST_FLIGHT_S)
        return _LEAST + ceil(queued + rate_per_s * flight_s)
