"""What a rate-control law sees, and what it decides.

A *law* is pure: ``update(signals, now) -> Decision``. It computes a rate; the token bucket applies it. `Signals` is one
consistent view of the loop, built from feedback reports, the queue probe and the producer's own counters. Every count
is a total, and what is unknown is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

_NEAR = 0.25  # of a tick
_HEARD_S = 2.0
_REPORTS_MISSED = 2.5


FAR_S = 0.03
"""Seconds to the broker and back; on a way that is not longer, few messages are under way."""


class SignalQuality(IntEnum):
    """How well it is known what is in the system.

    Attributes:
        BLIND: what consumers hold, or when they finish it, is not known.
        LATE: the broker's counts are exact, but some seconds old.
        COUNTED: the broker's counts are exact and fresh.
        REPORTED: the consumers report, or none are known; see `Signals.told_quality`.
    """

    BLIND = 0
    LATE = 1
    COUNTED = 2
    REPORTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The loop as one producer sees it at one control tick.

    The queue:
        ready: messages waiting in the broker, or None before the first reading.
        unacked: delivered and not settled, summed over the consumers that report; None where none does.
        depth_age_s: how old the reading of ``ready`` is.
        backlog, backlog_age_s: everything in the system, exact at one moment, and how long ago that was; None unless
        consumers are silent and the broker tells what they hold. ``backlog_error``: how far it may be from exact.
        backlog_doubt_s: how much earlier or later its moment may be: always about the same time too early or too late.
        count_interval_s, next_count_in_s: how far apart such counts are, and when the next is made; 0: when asked.
        held_at_most: what all consumers may hold together; None: no limit is known.
        quality: how well the backlog is known; ``missing`` says why it is not, and what to do.
        confirmed_total: messages confirmed to all producers (this one included) since this law started; what the others
        have sent since their last reports is estimated from their pace.
        corrected_total: how much of it was added because estimates before were too low; negative: they were too high.
        departed_total: messages settled by all reporting consumers since then; None when none ever reported.
        observed_total_s, busy_total_s: consumer-seconds that ``departed_total`` covers, and how many of them were spent
        working. A quotient of differences of these totals is exact although reports arrive at different moments.
        told_total_s: of ``observed_total_s``, what reports told of; those of a fleet stand for the time between, too.
        report_interval_s: how often each consumer of a fleet reports; 0: as often as usual.
        told_rate_per_s: the rate of all consumers together, as another producer has estimated it; None: nobody tells.
        adds_up: whether this producer tells the others of a large fleet what all reports add up to.
        told_extra: how many messages more it keeps queued because consumers lack work; None: nobody tells.
        departed_age_s: mean age of the counters that ``departed_total`` adds up.
        feedback_age_s: age of the freshest consumer report; infinite when none ever came.
        consumers: consumers alive, by report or else by the broker's count.
        service_mean_s, service_cv2: mean and squared coefficient of variation of recent service times, or None.
    This producer:
        demand_per_s: what its schedule offers.
        application_limited: since the last tick it had less to send than the law allowed.
        in_flight, window: messages sent and unconfirmed, and the most that may be.
        nacked_total, returned_total: its own, ever.
        confirm_latency_s: recent mean time from sent to confirmed, or None; confirm_latency_min_s: the smallest of the
        last seconds.
        way_s: how long the way to the broker and back takes, if that is known otherwise than by confirms.
        blocked: the broker has told it to stop (``connection.blocked``).
    The others:
        producers: producers alive, this one included (at least 1).
        share: this producer's part of the common rate, by weight: 0 < share ≤ 1.
        unpaced_per_s: messages a second from producers that nobody paces; 0: none, or too few to be certain of.
    """

    ready: int | None = None
    unacked: int | None = None
    depth_age_s: float = float("inf")
    backlog: int | None = None
    backlog_age_s: float = float("inf")
    backlog_error: float = 0.0
    backlog_doubt_s: float = 0.0
    count_interval_s: float = 0.0
    next_count_in_s: float = 0.0
    held_at_most: int | None = None
    quality: SignalQuality = SignalQuality.REPORTED
    missing: str = ""
    confirmed_total: int = 0
    corrected_total: int = 0
    report_interval_s: float = 0.0
    told_rate_per_s: float | None = None
    told_extra: float | None = None
    adds_up: bool = False
    departed_total: int | None = None
    observed_total_s: float | None = None
    busy_total_s: float | None = None
    told_total_s: float | None = None
    departed_age_s: float = float("inf")
    feedback_age_s: float = float("inf")
    consumers: int | None = None
    service_mean_s: float | None = None
    service_cv2: float | None = None
    demand_per_s: float = float("inf")
    application_limited: bool = False
    in_flight: int = 0
    window: int = 0
    nacked_total: int = 0
    returned_total: int = 0
    confirm_latency_s: float | None = None
    confirm_latency_min_s: float | None = None
    way_s: float | None = None
    blocked: bool = False
    producers: int = 1
    share: float = 1.0
    unpaced_per_s: float = 0.0

    @property
    def depth(self) -> int | None:
        """Ready plus unacked, or what is known of it: ready alone, or an older backlog; None before any reading."""
        if self.ready is None:
            return self.backlog
        return max(self.ready + (self.unacked or 0), self.backlog or 0)

    @property
    def told_quality(self) -> SignalQuality | None:
        """What is told of `quality`: None where nobody is known to consume, so that there is nothing to know."""
        heard = self.feedback_age_s <= max(_HEARD_S, _REPORTS_MISSED * self.report_interval_s)
        return self.quality if self.consumers or heard else None

    @property
    def there_and_back_s(self) -> float:
        """How long the way to the broker and back takes, as far as it is known."""
        return (self.confirm_latency_min_s or 0.0) if self.way_s is None else self.way_s

    def patience_s(self, tick_s: float) -> float:
        """How long a decision waits for the next reading; one that takes longer counts when it arrives.

        Far from the broker none is waited for where consumers report: what a report tells would be used a tick late.
        """
        near = (self.way_s or 0.0) < _NEAR * tick_s
        return tick_s if near or self.departed_total is None else 0.0

    @property
    def age_s(self) -> float:
        """Age of what is known about the consumers: of their counters, of the backlog, or of the reading alone."""
        if self.departed_total is not None:
            return self.departed_age_s
        return self.depth_age_s if self.backlog is None else self.backlog_age_s


@dataclass(frozen=True, slots=True)
class Decision:
    """The rate this producer may send at from now on, why, and (optionally) a cap on its in-flight window.

    ``rate_per_s`` may be infinite: "no limit beyond the offered load". ``bottleneck_per_s`` is the law's estimate of
    the whole bottleneck's rate, for those laws that have one. Because consumers lack work with fewer, the law keeps
    ``extra`` messages queued.
    """

    rate_per_s: float
    reason: str
    window: int | None = None
    bottleneck_per_s: float | None = None
    extra: float = 0.0


@runtime_checkable
class Law(Protocol):
    """A rate-control law: state in, decision out; no clock, no I/O, no randomness."""

    def update(self, signals: Signals, now: float) -> Decision:
        """Return the decision for ``signals`` at time ``now`` (seconds, monotonic)."""
        ...
