"""Law ``bounded``: the queue's own limit is the only control."""

from __future__ import annotations

from backpressure.core.controllers.config import LawConfig, Parameter, Traits
from backpressure.core.signals import Decision, Signals

__all__ = ["BoundedLaw"]


class BoundedLaw:
    """The queue's bound refuses what is too much; the producer never slows down by itself.

    Formula: rate = ∞ (within the configured ceiling); the broker nacks what finds the queue full.
    Regimes: below the bound, as ``unbounded``; at the bound, throughput equals capacity, every message waits
    bound ÷ capacity, and demand − capacity is refused every second.
    Parameters: none; the bound is the queue's ``max_length``. Source: the second mode of the classic lab.
    """

    PARAMETERS: tuple[Parameter, ...] = ()
    TRAITS = Traits(adapts=False, retries=False, queue_bound="refusing")

    def __init__(self, config: LawConfig) -> None:
        """Take the ceiling from ``config``."""
        config.values("bounded", self.PARAMETERS)
        self._rate_per_s = config.clamp(float("inf"))
        self._nacked = 0

    def update(self, signals: Signals, now: float) -> Decision:  # noqa: ARG002  # the interface of a law; time is not looked at
        """Return the same rate always, and say whether the bound was felt."""
        refused, self._nacked = signals.nacked_total - self._nacked, signals.nacked_total
        return Decision(self._rate_per_s, f"the queue's bound refused {refused}" if refused > 0 else "below the bound")
