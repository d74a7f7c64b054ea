"""Law ``unbounded``: no control at all."""

from __future__ import annotations

from backpressure.core.controllers.config import LawConfig, Parameter, Traits
from backpressure.core.signals import Decision, Signals

__all__ = ["UnboundedLaw"]


class UnboundedLaw:
    """No control: the offered load goes out as it comes, and the queue takes what the consumer does not.

    Formula: rate = ∞ (within the configured ceiling).
    Regimes: while demand < capacity, nothing to see; beyond, depth grows by demand − capacity every second for ever.
    Parameters: none. Source: the first mode of the classic back-pressure lab; the baseline every other law is held to.
    """

    PARAMETERS: tuple[Parameter, ...] = ()
    TRAITS = Traits(adapts=False, retries=False, queue_bound="none")

    def __init__(self, config: LawConfig) -> None:
        """Take the ceiling from ``config``."""
        config.values("unbounded", self.PARAMETERS)
        self._decision = Decision(config.clamp(float("inf")), "no control")

    def update(self, signals: Signals, now: float) -> Decision:  # noqa: ARG002  # the interface of a law; nothing is looked at
        """Return the same decision always."""
        return self._decision
