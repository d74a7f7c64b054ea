"""When a phase had settled: the consumers at their capacity, and the queue at rest. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import sqrt

from backpressure.experiments.events import LoadChanged
from backpressure.experiments.recording import RecordedPhase, Recording

__all__ = ["Growth", "count", "final_load", "settle_s"]

_NS = 1_000_000_000
_WINDOW_S = 1.0
_STEP_S = 0.1
_STEADY_S = 3.0


class Growth:
    """A total that was sampled; falsy when it never was."""

    def __init__(self, samples: Iterable[tuple[float, int | None]]) -> None:
        """``samples``: seconds since the run began, in order, and the total; None: not counted."""
        known = [(t_s, total) for t_s, total in samples if total is not None]
        self._t_s = [t_s for t_s, _ in known]
        self._totals = [total for _, total in known]

    def __bool__(self) -> bool:
        return bool(self._t_s)

    def between(self, start_s: float, end_s: float) -> int:
        """Return how much it grew; what the last sample before a moment has counts as before it."""
        return self._until(end_s + _STEP_S / 2) - self._until(start_s)

    def _until(self, t_s: float) -> int:
        index = bisect_right(self._t_s, t_s)
        return self._totals[index - 1] if index else 0


def settle_s(
    recording: Recording,
    done_ns: Sequence[int],
    confirmed_ns: Sequence[int],
    refused: Growth,
    phase: RecordedPhase,
) -> float | None:
    """Return how many seconds after the start of the phase the process rate and the queue had settled.

    The rate has settled near the capacity with which the phase ended. It is counted in windows of one second, one
    starting every tenth of a second. It has settled at the first window from which all windows of the next three
    seconds (or up to the end of the phase, if that comes first) are within tolerance: 10 % of the capacity, or one
    message, or three standard errors where service times are random, whichever is largest. The queue has settled when
    it neither grew nor shrank by more than that in a second of the same stretch, and did not grow in all the rest of
    the phase by more than it may in three seconds. What a full queue refuses counts as growth.
    """
    load = final_load(recording.loads, phase)
    if load is None:
        return None

    def grown(from_ns: int, to_ns: int) -> int:
        turned_away = refused.between((from_ns - recording.start_ns) / _NS, (to_ns - recording.start_ns) / _NS)
        return count(confirmed_ns, from_ns, to_ns) + turned_away - count(done_ns, from_ns, to_ns)

    capacity = load.capacity_per_s * _WINDOW_S
    tolerance = max(0.1 * capacity, 1.0, 3 * load.service_cv * sqrt(capacity))
    windows = int(((phase.end_ns - phase.start_ns) / _NS - _WINDOW_S) / _STEP_S + 1e-6) + 1
    steady = 0
    for step in range(windows):
        from_ns = phase.start_ns + round(step * _STEP_S * _NS)
        within = abs(count(done_ns, from_ns, from_ns + round(_WINDOW_S * _NS)) - capacity) <= tolerance
        steady = steady + 1 if within else 0
        if steady and (steady * _STEP_S > _STEADY_S or step == windows - 1):
            first_s = (step - steady + 1) * _STEP_S
            first_ns = phase.start_ns + round(first_s * _NS)
            last_ns = from_ns + round(_WINDOW_S * _NS)
            stretch_s = (last_ns - first_ns) / _NS
            most = tolerance * max(stretch_s, _STEADY_S)
            if abs(grown(first_ns, last_ns)) <= tolerance * stretch_s and grown(first_ns, phase.end_ns) <= most:
                return round(first_s, 1)
            steady -= 1  # the stretch that begins a step later may be at rest
    return None


def final_load(loads: Sequence[LoadChanged], phase: RecordedPhase) -> LoadChanged | None:
    """Return the load with which ``phase`` ended, if more was offered than could be done."""
    load = next((load for load in reversed(loads) if load.at_ns < phase.end_ns), None)
    return load if load is not None and 0 < load.capacity_per_s < load.demand_per_s else None


def count(sorted_ns: Sequence[int], from_ns: int, to_ns: int) -> int:
    """Return how many of the moments are in a stretch of time."""
    return bisect_left(sorted_ns, to_ns) - bisect_left(sorted_ns, from_ns)
