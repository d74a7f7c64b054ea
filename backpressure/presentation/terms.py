"""What each name of a figure means, once: for live line, verdict, report, Markdown and docs/summary.md.

A live view shows a figure as far as it is known at that moment; the verdict has it of the whole run. Tests compare the
views with each other and with the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backpressure.presentation.numbers import UNKNOWN, figure

_LATENCIES = ("wait_ms", "end_to_end_ms", "confirm_ms", "signal_age_ms", "tick_lateness_ms")


@dataclass(frozen=True, slots=True)
class Term:
    """How a figure is called where people read it, what it means, and when it is ``null`` in ``summary.json``."""

    label: str
    meaning: str
    unknown: str = ""

    @property
    def documented(self) -> str:
        """The meaning as docs/summary.md has it."""
        return f"{self.meaning}; {self.unknown}" if self.unknown else self.meaning


_UNREAD = "`null` when the queues could not be read at the end"

TERMS: Mapping[str, Term] = {
    # messages
    "offered": Term("offered", "what the producers' schedules asked for"),
    "published": Term("published", "different messages that were sent"),
    "confirmed": Term("confirmed", "the broker took responsibility for them"),
    "refused": Term(
        "refused",
        "answers of the broker that it does not take a message (nacks), as a rule because its queue is full; "
        "a message that is sent again and refused again counts again",
        "`null` in runs recorded before it was counted",
    ),
    "discarded": Term(
        "discarded",
        "their work was never done and no queue holds them: refused and not sent again, removed by the queue's bound "
        "or a time-to-live, or returned because no queue was bound",
        _UNREAD,
    ),
    "rejected": Term(
        "rejected",
        "never confirmed and found nowhere: refused for good, or still unconfirmed when the producer ended",
    ),
    "returned": Term("returned", "no queue was bound for them"),
    "delivered": Term("delivered", "deliveries that a consumer settled"),
    "acknowledged": Term(
        "acknowledged",
        "of consumers that are not ours: acknowledgements, as the broker or the proxy counted them",
        "`null` otherwise",
    ),
    "processed": Term("processed", "different messages whose work was completed"),
    "redelivered": Term("redelivered", "of the deliveries, those that had been delivered before"),
    "duplicates": Term("duplicates", "completions beyond the first of each message"),
    "out_of_order": Term(
        "out of order", "completed after a later message of the same producer, within one consumer process"
    ),
    "lost": Term(
        "lost",
        "found nowhere, though the broker had confirmed them to a producer, or to a consumer that dead-lettered them",
        f"{_UNREAD}, or the end of a journal was lost with an agent",
    ),
    "dead_lettered": Term(
        "dead-lettered",
        "given up after the last attempt, and found in the dead-letter queue",
        "`null` as for `lost`",
    ),
    "dropped": Term(
        "dropped",
        "removed by the queue's bound or a time-to-live, and found in the dead-letter queue",
        "`null` as for `lost`",
    ),
    "left_in_queue": Term("left in queue", "still in the work queue", "`null` as for `lost`"),
    # rates
    "offered_rate": Term("offered/s", "`offered` in the phase ÷ its length, messages a second"),
    "publish_rate": Term("confirmed/s", "confirms in the phase ÷ its length, messages a second"),
    "process_rate": Term("processed/s", "completions in the phase ÷ its length"),
    "capacity": Term(
        "capacity/s",
        "what the consumers that are ready can do together, messages a second",
        "in a phase their mean; `null` where nobody knows",
    ),
    "allowed": Term("allowed/s", "what the laws of all producers together let them send, messages a second"),
    # the loop
    "utilisation": Term("used", "the share of the consumers' capacity that was used"),
    "wait_ms": Term(
        "wait", "queue wait of processed messages: from sent until work on it began, time in a client's buffer included"
    ),
    "end_to_end_ms": Term(
        "end to end",
        "from when the schedule wanted it sent until its work was done, so the time for which a producer "
        "is held back counts",
    ),
    "confirm_ms": Term("publish to confirm", "from sent until the broker confirmed"),
    "signal_age_ms": Term("age of the law's signals", "how old the law's view of the consumers was when it decided"),
    "tick_lateness_ms": Term("lateness of the control loop", "how much later than due the control loops ran"),
    "depth": Term("depth", "messages in the work queue: ready and unacked"),
    "depth_start": Term("depth at start", "`depth` when the phase began"),
    "depth_max": Term("deepest", "as `depth.max`, within the phase"),
    "settle_s": Term("settled", "seconds from the start of the phase until rate and queue had settled"),
    "wait_bound_ms": Term("bound", "the p99 wait that the best possible law would reach"),
    "fairness_jain": Term("fairness", "Jain's index of the producers' confirmed messages: 1 means equal shares"),
}
"""By the name in ``summary.json``, or the one that only live views have."""


def label(name: str) -> str:
    """Return how the figure ``name`` is called where people read it."""
    return TERMS[name].label


def metric_name(metric: str) -> str:
    """Return what people call a figure, given its path; phases and processes by their own names elsewhere."""
    base, leaf = figure_of(metric), leaf_of(metric)
    if base in _LATENCIES:
        kind = "longest" if leaf == "max" else "number of" if leaf == "count" else leaf
        return f"{kind} {label(base)}"
    if base == "depth":
        return "deepest queue" if leaf == "max" else "mean depth"
    if leaf == "depth_max":
        return "deepest queue"
    if leaf == "settle_s":
        return "time to settle"
    if leaf == "utilisation":
        return "capacity used"
    process = f" of {metric.split('.')[1]}" if metric.startswith("processes.") else ""
    words = {"rss_max_mb": "memory", "cpu_s": "processor time", "duration_s": "duration"}
    return words.get(leaf, label(leaf) if leaf in TERMS else leaf.replace("_", " ")) + process


def quantity(metric: str, value: float | None) -> str:
    """Return the figure at the path ``metric`` with its unit; plain spaces, as everything can show them."""
    base, leaf = figure_of(metric), leaf_of(metric)
    if value is None:
        return UNKNOWN
    if leaf == "utilisation":
        return figure(100 * value, group=" ") + " %"
    suffix = leaf.rpartition("_")[2]
    unit = "ms" if base in _LATENCIES and leaf != "count" else {"s": "s", "mb": "MB", "rate": "msg/s"}.get(suffix, "")
    return f"{figure(value, group=' ')} {unit}".rstrip()


def figure_of(metric: str) -> str:
    """Return the figure in a path, without its phase or process: "wait_ms" of "phases.burst.wait_ms.p99"."""
    parts = metric.split(".")
    return parts[2] if parts[0] in {"phases", "processes"} and len(parts) > 2 else parts[0]


def leaf_of(metric: str) -> str:
    """Return the last part of a path."""
    return metric.rpartition(".")[2]
