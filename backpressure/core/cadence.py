"""When to decide: about once a tick, and if possible right after a consumer has reported, when the view is freshest.

Reports and ticks come at the same rate and at unrelated moments, so that what a law acts upon would be half an interval
old on average. Waiting a little for the next report lets the ticks fall in step with the reports of one consumer; with
several, it is never worse than not waiting.
"""

from __future__ import annotations

__all__ = ["decision_window"]

_EARLIEST = 0.9
_LATEST = 1.2


def decision_window(decided_at: float, tick_s: float, feedback_age_s: float) -> tuple[float, float]:
    """Return from when on a consumer's report is reason to decide, and when to decide without one.

    Args:
        decided_at: when the last decision was made, seconds.
        tick_s: how often to decide.
        feedback_age_s: how old the freshest report was then: reports that do not come are not waited for.
    """
    latest = _LATEST if feedback_age_s < 2 * tick_s else 1.0
    return decided_at + _EARLIEST * tick_s, decided_at + latest * tick_s
