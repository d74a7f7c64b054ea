"""Laws ``unbounded``, ``bounded`` and ``rate_limited``: the three modes of the classic lab, which adapt to nothing."""

from __future__ import annotations

from math import inf

from backpressure.core.controllers.law_config import LawConfig, LawTraits, Parameter
from backpressure.core.signals import Decision, Signals

__all__ = ["BoundedLaw", "RateLimitedLaw", "UnboundedLaw"]


class UnboundedLaw:
    """No control: the offered load goes out as it comes, and the queue takes what the consumer does not.

    Formula: rate = ∞ (within the configured ceiling).
    Regimes: while demand < capacity, nothing to see; beyond, depth grows by demand − capacity every second, forever.
    Parameters: none. Source: the first mode of the classic back-pressure lab; the baseline every other law is held to.
    """

    PARAMETERS: tuple[Parameter, ...] = ()
    TRAITS = LawTraits(adapts=False, retries=False, queue_bound="none")

    def __init__(self, config: LawConfig) -> None:
        """Take the ceiling from ``config``."""
        config.values("unbounded", self.PARAMETERS)
        self._decision = Decision(config.clamp(inf), "no control")

    def update(self, signals: Signals, now: float) -> Decision:  # noqa: ARG002  # the interface of a law; nothing is looked at
        """Return the same decision always."""
        return self._decision


class BoundedLaw:
    """The queue's bound refuses what is too much; the producer never slows down by itself.

    Formula: rate = ∞ (within the configured ceiling); the broker nacks what finds the queue full.
    Regimes: below the bound, as ``unbounded``; at the bound, throughput equals capacity, every message waits
    bound ÷ capacity, and demand − capacity is refused every second.
    Parameters: none; the bound is the queue's ``max_length``. Source: the second mode of the classic lab.
    """

    PARAMETERS: tuple[Parameter, ...] = ()
    TRAITS = LawTraits(adapts=False, retries=False, queue_bound="refusing")

    def __init__(self, config: LawConfig) -> None:
        """Take the ceiling from ``config``."""
        config.values("bounded", self.PARAMETERS)
        self._rate_per_s = config.clamp(inf)
        self._nacked = 0

    def update(self, signals: Signals, now: float) -> Decision:  # noqa: ARG002  # the interface of a law; time is not looked at
        """Return the same rate always, and say whether the bound was felt."""
        refused, self._nacked = signals.nacked_total - self._nacked, signals.nacked_total
        return Decision(self._rate_per_s, f"the queue's bound refused {refused}" if refused > 0 else "below the bound")


class RateLimitedLaw:
    """A fixed rate chosen by hand: right for one capacity, wrong for every other.

    Formula: rate = ``rate_per_s`` (within floor and ceiling), for each producer.
    Regimes: limit < capacity wastes the rest; limit > capacity fills the queue by the difference every second.
    Parameters: ``rate_per_s`` (msg/s). Source: the third mode of the classic lab.
    """

    PARAMETERS = (Parameter("rate_per_s", 100.0, "msg/s", "the fixed rate of each producer", 1e-6),)
    TRAITS = LawTraits(adapts=False, retries=False)

    def __init__(self, config: LawConfig) -> None:
        """Take the rate from ``config``."""
        self.limit_per_s = config.values("rate_limited", self.PARAMETERS)["rate_per_s"]
        self._decision = Decision(config.clamp(self.limit_per_s), "fixed rate")

    def update(self, signals: Signals, now: float) -> Decision:  # noqa: ARG002  # the interface of a law; nothing is looked at
        """Return the same decision always."""
        return self._decision
