"""What one producer knows of each process that reports: its last report, and whether the next one can be true.

A report that cannot follow the last one is ignored, unless the next one continues it. So no report that is broken, was
overtaken or comes from a clock that was set makes a total jump.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Generic, NamedTuple, TypeVar

from backpressure.core.reports import ConsumerReport, ProducerReport

FASTEST_PER_S = 1e6
"""Messages a second; more than any process does."""
RECENTS_FROM_S = 0.5
"""If a process reports as rarely as this, what it did in the last second counts."""
RATE_WINDOW_S = 1.0
_OFTEN_S = 0.12  # a process that reports more rarely is one of a fleet
_REPORTS_MISSED = 2.5  # a process of a fleet is gone after so many of its own intervals
_MOST_WORKERS = 1000  # of one consumer
_SERVICE_WINDOW_S = 2.0
_SERVICE_SAMPLES = 20

R = TypeVar("R", ProducerReport, ConsumerReport)


@dataclass(slots=True)
class _Reporter(Generic[R]):
    """What is known of one process: ``doubted`` is a report that cannot be true if ``latest`` is, and when it came."""

    latest: R
    heard_at: float
    doubted: tuple[R, float] | None = None

    def silent(self, now: float, longer_than_s: float) -> bool:
        """Return whether it has missed reports for so long; in a fleet each reports less often, and says how often."""
        return now - self.heard_at >= max(longer_than_s, _REPORTS_MISSED * self.latest.interval_s)

    def take(self, report: R, now: float, tolerance_s: float) -> R | None:
        """Take the next report; return the one whose counts it continues, or None if it does not count.

        A report that cannot be true is ignored. If the next one continues it, it was true after all: the process has
        begun again under the same name, or its clock was set.
        """
        before, elapsed_s = self.latest, (report.at_ns - self.latest.at_ns) / 1e9
        if -tolerance_s < elapsed_s <= 0 and self.doubted is None:
            return None  # it was overtaken by another
        if not self._possible(before, self.heard_at, report, now, tolerance_s):
            doubted, self.doubted = self.doubted, (report, now)
            if doubted is None or not self._possible(*doubted, report, now, tolerance_s):
                return None
            before = doubted[0]
            self.restart()
        self.latest, self.heard_at, self.doubted = report, now, None
        return before

    def restart(self) -> None:
        """Forget what was concluded from the reports so far."""

    def _possible(self, before: R, heard_at: float, report: R, now: float, tolerance_s: float) -> bool:
        """Return whether ``report`` can follow ``before`` by its clock and its counters."""
        elapsed_s = (report.at_ns - before.at_ns) / 1e9
        return elapsed_s > 0 and abs(elapsed_s - (now - heard_at)) <= tolerance_s


@dataclass(slots=True)
class ReportingProducer(_Reporter[ProducerReport]):
    """Another producer, and what it has got through in the last second."""

    history: deque[tuple[float, int]] = field(default_factory=deque)  # (by its own clock, confirmed)

    def restart(self) -> None:
        """Forget what was confirmed before."""
        self.history.clear()

    def remember(self) -> None:
        """Remember how much was confirmed by the last report, for a second."""
        at_s = self.latest.at_ns / 1e9
        self.history.append((at_s, self.latest.confirmed))
        while len(self.history) > 1 and at_s - self.history[1][0] >= RATE_WINDOW_S:
            self.history.popleft()

    def need_per_s(self) -> float:
        """Return what it can use: what its settings allow, or what it sends while that is less than it may."""
        if not self.latest.application_limited or len(self.history) < 2:
            return self.latest.usable_rate_per_s
        (start, first), (end, last) = self.history[0], self.history[-1]
        return min(self.latest.usable_rate_per_s, (last - first) / (end - start) if end > start else inf)

    def limited_by_law(self) -> bool:
        """Return whether it sends what its law allows, and not less."""
        limited = self.latest.pacing_rate_per_s < self.latest.usable_rate_per_s
        return limited and not (self.latest.blocked or self.latest.application_limited)

    def sent_since(self, now: float) -> float:
        """Estimate how many messages it has sent since its last report, from its pace."""
        rate_per_s = min(self.latest.pacing_rate_per_s, self.need_per_s())
        return 0.0 if self.latest.blocked or rate_per_s > FASTEST_PER_S else rate_per_s * (now - self.heard_at)

    def _possible(
        self, before: ProducerReport, heard_at: float, report: ProducerReport, now: float, tolerance_s: float
    ) -> bool:
        elapsed_s = (report.at_ns - before.at_ns) / 1e9
        in_time = _Reporter._possible(self, before, heard_at, report, now, tolerance_s)  # noqa: SLF001 - its own base
        return in_time and 0 <= report.confirmed - before.confirmed <= FASTEST_PER_S * elapsed_s


class WorkTold(NamedTuple):
    """What a consumer has done: messages that left, of how many consumer-seconds it tells, how many of these it worked.

    Of ``told_s`` seconds a report has told directly; the rest is taken to have been the same.
    """

    departed: float
    observed_s: float
    busy_s: float
    told_s: float


@dataclass(slots=True)
class ReportingConsumer(_Reporter[ConsumerReport]):
    """A consumer, and how busy it was."""

    most_prefetch: int = 0
    busy: float = inf  # the share of the time that it worked between its last two reports

    def held(self) -> int:
        """Return what it holds, which cannot be more than it was ever allowed to (0: any number)."""
        return min(self.latest.held, self.most_prefetch) if self.latest.prefetch else self.latest.held

    def _possible(
        self, before: ConsumerReport, heard_at: float, report: ConsumerReport, now: float, tolerance_s: float
    ) -> bool:
        elapsed_s = (report.at_ns - before.at_ns) / 1e9
        departed = report.processed + report.dead_lettered - before.processed - before.dead_lettered
        return (
            _Reporter._possible(self, before, heard_at, report, now, tolerance_s)  # noqa: SLF001 - its own base
            and 0 <= departed <= FASTEST_PER_S * elapsed_s
            and report.recent <= FASTEST_PER_S * report.recent_s
            and report.service_sum_s >= before.service_sum_s
            and report.service_sum_s2 >= before.service_sum_s2
            # The timer of work in progress may have run ahead, and long work may be counted when it ends.
            and -tolerance_s <= report.busy_s - before.busy_s <= _MOST_WORKERS * elapsed_s
        )

    def first_told(self) -> WorkTold | None:
        """Return what the first report tells, if the next one is far away."""
        report = self.latest
        if report.interval_s <= RECENTS_FROM_S or report.recent > FASTEST_PER_S * report.recent_s:
            return None
        busy_s = min(report.recent_busy_s, _MOST_WORKERS * report.recent_s)
        return WorkTold(report.recent, report.recent_s, busy_s, report.recent_s)

    def told_since(self, before: ConsumerReport) -> WorkTold:
        """Return what the last report tells of the time since ``before``."""
        report = self.latest
        elapsed_s = (report.at_ns - before.at_ns) / 1e9
        self.busy = (report.busy_s - before.busy_s) / elapsed_s
        if (
            report.recent_s > 0
            and report.interval_s > _OFTEN_S
            and report.recent_busy_s <= _MOST_WORKERS * report.recent_s
        ):
            # A process of a fleet reports rarely: what it did lately says more than the average since its last report.
            weight = elapsed_s / report.recent_s
            return WorkTold(weight * report.recent, elapsed_s, weight * report.recent_busy_s, report.recent_s)
        departed = report.processed + report.dead_lettered - before.processed - before.dead_lettered
        return WorkTold(departed, elapsed_s, report.busy_s - before.busy_s, elapsed_s)


class ServiceTimes:
    """Recent service times of all consumers that report: of 2 s, and of 20 messages at least."""

    def __init__(self) -> None:
        self._totals: deque[tuple[float, int, float, float]] = deque([(-inf, 0, 0.0, 0.0)])

    def add(self, before: ConsumerReport, report: ConsumerReport, now: float) -> None:
        """Take in what the consumer has done between two of its reports, if it tells."""
        served_s = report.service_sum_s - before.service_sum_s
        served_s2 = report.service_sum_s2 - before.service_sum_s2
        if not report.service_sum_s2 or served_s2 > 1.01 * served_s**2 + 1e-6:
            return  # it does not tell, or what cannot be
        _, count, total, squares = self._totals[-1]
        self._totals.append((now, count + report.processed - before.processed, total + served_s, squares + served_s2))
        while (
            now - self._totals[1][0] >= _SERVICE_WINDOW_S
            and self._totals[-1][1] - self._totals[1][1] >= _SERVICE_SAMPLES
        ):
            self._totals.popleft()

    def mean_and_cv2(self) -> tuple[float | None, float | None]:
        """Return the mean in seconds, and the squared coefficient of variation; None: not known."""
        (_, count0, sum0, squares0), (_, count1, sum1, squares1) = self._totals[0], self._totals[-1]
        count, total = count1 - count0, sum1 - sum0
        if count <= 0 or total <= 0:
            return None, None
        mean_s = total / count
        return mean_s, max(0.0, (squares1 - squares0) / count / mean_s**2 - 1) if count > 1 else None
