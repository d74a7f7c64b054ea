"""Law ``rate_limited``: a fixed pace, set by hand."""

from __future__ import annotations

from backpressure.core.controllers.config import LawConfig, Parameter, Traits
from backpressure.core.signals import Decision, Signals

__all__ = ["RateLimitedLaw"]


class RateLimitedLaw:
    """A fixed rate chosen by hand: right for one capacity, wrong for every other.

    Formula: rate = ``rate_limit_per_s`` (within floor and ceiling), for each producer.
    Regimes: limit < capacity wastes the rest; limit > capacity fills the queue by the difference every second.
    Parameters: none of its own; ``control.rate_limit`` (msg/s). Source: the third mode of the classic lab.
    """

    PARAMETERS: tuple[Parameter, ...] = ()
    TRAITS = Traits(adapts=False, retries=False)

    def __init__(self, config: LawConfig) -> None:
        """Take the limit from ``config``."""
        config.values("rate_limited", self.PARAMETERS)
        self._decision = Decision(config.clamp(config.rate_limit_per_s), "fixed rate")

    def update(self, signals: Signals, now: float) -> Decision:  # noqa: ARG002  # the interface of a law; nothing is looked at
        """Return the same decision always."""
        return self._decision
