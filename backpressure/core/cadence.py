"""When to decide, and how often to tell the others.

Deciding: about once a tick, and if possible right after a consumer has reported, when the view is freshest.

Reports and ticks come at the same rate and at unrelated moments, so that what a law acts upon would be half an interval
old on average. Waiting a little for the next report lets the ticks fall in step with the reports of one consumer; with
several, it is never worse than not waiting.
"""

from __future__ import annotations

__all__ = ["decision_window", "ticks_per_report"]

_EARLIEST = 0.9
_LATEST = 1.2
_TALKATIVE = 6
_SLOWEST = 3
_REPORTS_BEFORE_MISSED = 6


def decision_window(decided_at: float, tick_s: float, feedback_age_s: float) -> tuple[float, float]:
    """Return from when on a consumer's report is reason to decide, and when to decide without one.

    Args:
        decided_at: when the last decision was made, seconds.
        tick_s: how often to decide.
        feedback_age_s: how old the freshest report was then: reports that do not come are not waited for.
    """
    latest = _LATEST if feedback_age_s < 2 * tick_s else 1.0
    return decided_at + _EARLIEST * tick_s, decided_at + latest * tick_s


def ticks_per_report(producers: int, tick_s: float, timeout_s: float) -> int:
    """Return how many ticks a producer lets pass between two reports of its own.

    Every producer hears every other, so what they say together grows with the square of their number, and with a dozen
    it costs more than the messages. What one sends is well reckoned by its pace (`SignalBoard`), so it may tell it less
    often; consumers are never made to, for nothing stands in for what they say.

    Args:
        producers: how many there are, this one included.
        tick_s: how often it decides.
        timeout_s: after which a silent process is taken for gone; a quarter of it without a report is suspicious.
    """
    most = max(1, int(timeout_s / _REPORTS_BEFORE_MISSED / tick_s))
    return min(most, _SLOWEST, -(-producers // _TALKATIVE))
