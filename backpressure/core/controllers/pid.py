"""Law ``pid``: Spark's rate estimator."""

from __future__ import annotations

from backpressure.core.controllers.law_config import LawConfig, Parameter
from backpressure.core.filters import DepartureMeter
from backpressure.core.signals import Decision, Signals

__all__ = ["PidLaw"]


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
