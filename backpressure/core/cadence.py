"""When a producer decides, and how often it reports.

A producer decides about once a tick, if possible right after a consumer's report, when its view is freshest.

Reports and ticks have the same rate but unrelated phases, so the report that a law acts on would be half an interval
old on average. A tick that waits a little for the next report falls in step with the reports of one consumer. With
several consumers, waiting is never worse than not waiting.
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
        feedback_age_s: how old the newest report was then; the producer does not wait for reports that have stopped.
    """
    latest = _LATEST if feedback_age_s < 2 * tick_s else 1.0
    return decided_at + _EARLIEST * tick_s, decided_at + latest * tick_s


def ticks_per_report(producers: int, tick_s: float, timeout_s: float) -> int:
    """Return how many ticks a producer lets pass between two reports of its own.

    Every producer receives the reports of every other, so their number grows with the square of the producers, and with
    a dozen they cost more than the messages. Between two reports of a producer its pace is a good estimate of what it
    sends (`SignalBoard`), so it may report less often. Nothing can replace the reports of consumers, which never come
    less often.

    Args:
        producers: how many there are, this one included.
        tick_s: how often it decides.
        timeout_s: after which a silent process is taken for gone; a quarter of it without a report is suspicious.
    """
    most = max(1, int(timeout_s / _REPORTS_BEFORE_MISSED / tick_s))
    return min(most, _SLOWEST, -(-producers // _TALKATIVE))
