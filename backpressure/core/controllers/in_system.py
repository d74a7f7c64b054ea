"""What the window laws need: how many messages of this producer are in the system, and how long each stays.

`aimd`, `vegas` and `gradient2` limit *concurrency*. They were written for calls, where a reply ends the work; a confirm
only says that the broker has the message. So here a message is outstanding until a consumer has settled it, its round
trip is the time from sent to settled (Little's law: depth ÷ departure rate, plus the confirm), and a sample is one
tick.
"""

from __future__ import annotations

from dataclasses import dataclass

from backpressure.core.filters import DepartureMeter
from backpressure.core.signals import Signals

__all__ = ["InSystem", "InSystemMeter"]


@dataclass(frozen=True, slots=True)
class InSystem:
    """One sample: own messages outstanding, seconds one stays, own departures per second, whether one was refused."""

    outstanding: float
    round_trip_s: float
    departures_per_s: float
    refused: bool

    def rate_for(self, limit: float, tick_s: float) -> float:
        """Return the rate that replaces departures and brings ``outstanding`` to ``limit`` within a tick."""
        return max(0.0, self.departures_per_s + (limit - self.outstanding) / tick_s)


class InSystemMeter:
    """Turns `Signals` into samples."""

    def __init__(self, tick_s: float) -> None:
        """``tick_s`` is how often the law is asked."""
        self._meter = DepartureMeter(memory_s=5 * tick_s)
        self._nacked = 0

    def sample(self, signals: Signals, now: float) -> InSystem | None:
        """Return the sample of this tick, or None as long as depth or departures are unknown."""
        refused, self._nacked = signals.nacked_total > self._nacked, signals.nacked_total
        departures_per_s = self._meter.update(signals, now)
        if signals.depth is None or departures_per_s is None:
            return None
        shortest_s = (signals.service_mean_s or 0.0) + (signals.confirm_latency_s or 0.0)
        stay_s = signals.depth / max(departures_per_s, 0.1)
        return InSystem(
            outstanding=signals.in_flight + signals.share * signals.depth,
            round_trip_s=max(stay_s + (signals.confirm_latency_s or 0.0), shortest_s, 1e-3),
            departures_per_s=signals.share * departures_per_s,
            refused=refused,
        )
