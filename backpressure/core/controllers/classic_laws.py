"""Laws ``unbounded``, ``bounded``, ``rate_limited``, ``threshold`` and ``pid``: the ones that others are compared with.

The first three are the modes of the classic lab and adapt to nothing; the other two are the usual first attempts.
"""

from __future__ import annotations

from math import inf

from backpressure.core.controllers.registry import LawConfig, LawTraits, Parameter
from backpressure.core.filters import DepartureMeter
from backpressure.core.signals import Decision, Signals


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


_FLOOR_PER_S = 100.0


class ThresholdLaw:
    """Cut the rate by a factor while there is pressure, recover slowly when it has gone, never below a floor.

    Formula, each tick of length Δt: under pressure r ← max(floor, reduction_factor · r), once in ``cut_every_s``;
    without r ← r · (1 + recovery)^Δt. Pressure is a nack, a blocked connection, or a depth above ``pressure_depth``;
    it counts as gone when none of the first two happened and the depth is below half the threshold.
    Regimes: *cut*, *hold* (between half and all of the threshold, or application-limited), *recover*. It starts at
    the offered load, as the script it comes from does. With capacity below the floor the queue fills up to its bound.
    Parameters: ``reduction_factor``, ``pressure_depth`` (messages), ``recovery`` (share per second) and ``cut_every_s``
    (s). ``control.floor_per_s`` (msg/s) is 100 here unless it is set.
    Source: the classic teaching script (×0.8 on a reject, floor 100 msg/s), which has no way back up; this one has.
    """

    PARAMETERS = (
        Parameter("reduction_factor", 0.8, "", "multiply the rate by this under pressure", 0.001, 0.999),
        Parameter("pressure_depth", 500, "messages", "a deeper queue counts as pressure", 1),
        Parameter("recovery", 0.1, "1/s", "the rate grows by this share every second without pressure", 0.0, 10.0),
        Parameter("cut_every_s", 0.0, "s", "shortest time between two cuts; 0: at every tick"),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take the parameters and the floor from ``config``."""
        values = config.values("threshold", self.PARAMETERS)
        self._config = config
        self._reduction_factor = values["reduction_factor"]
        self._pressure_depth = values["pressure_depth"]
        self._recovery = values["recovery"]
        self._cut_every_s = values["cut_every_s"]
        self._rate_per_s: float | None = None
        self._nacked = 0
        self._cut_at = float("-inf")
        self._asked_at: float | None = None
        self._confirmed = 0

    def update(self, signals: Signals, now: float) -> Decision:
        """Cut, hold or recover."""
        elapsed_s = 0.0 if self._asked_at is None else now - self._asked_at
        refused, self._nacked, self._asked_at = signals.nacked_total > self._nacked, signals.nacked_total, now
        sent, self._confirmed = signals.confirmed_total - self._confirmed, signals.confirmed_total
        rate = signals.demand_per_s if self._rate_per_s is None else self._rate_per_s
        depth = signals.depth or 0
        threshold = self._pressure_depth
        if refused or signals.blocked or depth > threshold:
            reason = "refused" if refused else "blocked" if signals.blocked else "queue too deep"
            if now - self._cut_at >= self._cut_every_s:
                if rate == inf and elapsed_s > 0:  # an offered load without limit: begin with what it comes to
                    rate = signals.share * sent / elapsed_s
                rate *= self._reduction_factor
                self._cut_at = now
        elif depth > threshold / 2 or signals.application_limited:
            reason = "holding"
        else:
            rate *= (1 + self._recovery) ** elapsed_s
            reason = "recovering"
        rate = self._config.clamp(min(rate, signals.demand_per_s), floor_per_s=_FLOOR_PER_S)
        self._rate_per_s = rate
        return Decision(rate, reason)


class PidLaw:
    """Spark's estimator: follow the processing rate, and pay the backlog back over a batch interval.

    Formula, once in ``interval_s`` = I, with processing rate P and scheduling delay d = depth/P: e = r − P; h = d·P/I;
    r ← max(min_rate, r − proportional·e − integral·h − derivative·Δe/Δt). The first r is P. P is what the consumers do
    *while they work* (consumers ÷ mean service time), as in Spark, where it is measured over the processing time of a
    batch; the departure rate where no service times are reported.
    Regimes: none; it is linear between its floor and the ceiling. With the departure rate for P it cannot
    grow out of a starved queue (r = P, h = 0), which is why the source needs its ``minRate``.
    Parameters: ``proportional``, ``integral``, ``derivative``, ``interval_s`` (s), ``min_rate_per_s`` (msg/s).
    Source: Apache Spark, ``PIDRateEstimator`` (defaults 1, 0.2, 0; its minRate of 100 msg/s would flood a
    slower consumer, so it is 1 here; and where it leaves out batches without a record, an interval without departures
    counts here: nothing else would tell it of a stop).
    """

    PARAMETERS = (
        Parameter("proportional", 1.0, "", "weight of the present error"),
        Parameter("integral", 0.2, "", "weight of the backlog, the error accumulated"),
        Parameter("derivative", 0.0, "", "weight of the change of the error"),
        Parameter("interval_s", 1.0, "s", "how often the rate is computed: the batch interval of the source", 0.01),
        Parameter("min_rate_per_s", 1.0, "msg/s", "smallest rate, shared by all producers", 0.001),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take the parameters from ``config``."""
        self._config = config
        self._values = config.values("pid", self.PARAMETERS)
        self._meter = DepartureMeter(memory_s=self._values["interval_s"])
        self._rate_per_s: float | None = None
        self._error = 0.0
        self._computed_at: float | None = None

    def update(self, signals: Signals, now: float) -> Decision:
        """Compute a new rate once in an interval; repeat the last one between."""
        departures_per_s = self._meter.update(signals, now) or 0.0
        values = self._values
        working = signals.consumers if signals.service_mean_s else None
        processing = working / signals.service_mean_s if working and signals.service_mean_s else departures_per_s
        elapsed_s = values["interval_s"] if self._computed_at is None else now - self._computed_at
        reason = "between batches"
        if elapsed_s >= values["interval_s"] * (1 - 1e-9):
            self._compute(processing, signals.depth or 0, elapsed_s)
            self._computed_at = now
            reason = "following the processing rate"
        total = values["min_rate_per_s"] if self._rate_per_s is None else self._rate_per_s
        return Decision(self._config.clamp(signals.share * total), reason, bottleneck_per_s=processing)

    def _compute(self, processing: float, depth: float, elapsed_s: float) -> None:
        values, latest = self._values, self._rate_per_s
        if latest is None:
            self._rate_per_s = max(values["min_rate_per_s"], processing)
            return
        error = latest - processing
        backlog = depth / values["interval_s"]  # d·P/I, and d = depth/P
        change = (error - self._error) / elapsed_s
        rate = latest - values["proportional"] * error - values["integral"] * backlog - values["derivative"] * change
        self._rate_per_s, self._error = max(values["min_rate_per_s"], rate), error
