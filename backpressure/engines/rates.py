"""Rates and totals of *other* processes, from the counters in their reports.

Every rate is a difference between two reports of one process, divided by the time between them on that process's own
clock: neither delays on the way nor lost reports distort it. Nothing here reads a clock; ``now`` is the listener's,
in monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport, Report, completed

RATE_WINDOW_S = 1.0
WAIT_WINDOW_S = 2.0
_OVERTAKEN_WITHIN_S = 2.0
_REPORTS_MISSED = 2.5

R = TypeVar("R", ProducerReport, ConsumerReport)
ProcessKey = tuple[str, str, int, int]
"""Host, id, pid and (for producers) session: one life of one process."""


@dataclass(frozen=True, slots=True)
class Span(Generic[R]):
    """Two reports of one process and the seconds between them, up to now."""

    first: R
    last: R
    elapsed_s: float

    def rate_per_s(self, counter: str) -> float:
        """Return how fast ``counter`` grew; 0 when there is only one report."""
        grown = getattr(self.last, counter) - getattr(self.first, counter)
        return float(grown / self.elapsed_s) if self.elapsed_s > 0 else 0.0

    def recorded(self, histogram: str) -> Histogram:
        """Return what was recorded in between."""
        last: Histogram = getattr(self.last, histogram)
        return last.since(getattr(self.first, histogram))


class ReportSeries(Generic[R]):
    """The recent reports of one process.

    A report is *overdue* once the process has been silent for more than ``interval_s`` × 2. From then on the window
    moves on without new counts, so the rate of a process that was killed falls to 0 within the window.
    """

    def __init__(self, interval_s: float) -> None:
        self._grace_s = 2 * interval_s
        self._missed_s = 0.0
        self._reports: deque[R] = deque()
        self.arrived = 0.0

    @property
    def latest(self) -> R:
        """The newest report."""
        return self._reports[-1]

    def add(self, report: R, now: float) -> None:
        """Take the next report; one that was overtaken by another is ignored."""
        if self._reports and report.at_ns <= self.latest.at_ns:
            if self.latest.at_ns - report.at_ns < _OVERTAKEN_WITHIN_S * 1e9:
                return
            self._reports.clear()  # its clock was set
        self._reports.append(report)
        self.arrived = now
        self._missed_s = _REPORTS_MISSED * report.interval_s  # in a fleet each reports less often, and says how often
        oldest_needed_ns = report.at_ns - WAIT_WINDOW_S * 1e9
        while len(self._reports) > 1 and self._reports[1].at_ns <= oldest_needed_ns:
            self._reports.popleft()

    def silent(self, now: float, timeout_s: float) -> bool:
        """Return whether it has missed reports for so long."""
        return now - self.arrived > max(timeout_s, self._missed_s)

    def restart(self) -> None:
        """Forget all reports: the counters begin again at 0."""
        self._reports.clear()

    def span(self, window_s: float, now: float) -> Span[R]:
        """Return the growth over the last ``window_s`` seconds (or since the first report kept)."""
        overdue_s = max(0.0, now - self.arrived - max(self._grace_s, self._missed_s))
        begin_ns = self.latest.at_ns + (overdue_s - window_s) * 1e9
        first = self._reports[0]
        for report in self._reports:
            if report.at_ns > begin_ns:
                break
            first = report
        return Span(first, self.latest, (self.latest.at_ns - first.at_ns) / 1e9 + overdue_s)


class Roster(Generic[R]):
    """All processes of one role, live or vanished, and their counters."""

    def __init__(
        self,
        counters: tuple[str, ...],
        histograms: tuple[str, ...],
        *,
        interval_s: float,
        timeout_s: float,
        limit: int = 10_000,
    ) -> None:
        """Sum up ``counters`` and ``histograms`` of the reports.

        A process silent for ``timeout_s`` has vanished; at most ``limit`` processes are kept one by one.
        """
        self._counters = counters
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._limit = limit
        self._series: dict[ProcessKey, ReportSeries[R]] = {}
        self._ended = dict.fromkeys(counters, 0)
        self._ended_histograms = {name: Histogram() for name in histograms}

    @property
    def seen(self) -> bool:
        """Whether any process of the role ever reported."""
        return bool(self._series)

    def add(self, report: R, now: float) -> None:
        """Take a report; counters that fell mean that the process started again under the same name."""
        key = key_of(report)
        series = self._series.get(key)
        if report.brief and series is not None:
            report = completed(report, series.latest)  # type: ignore[assignment]  # one of the same kind
        if series is None:
            self._forget_longest_silent()
            series = self._series[key] = ReportSeries(self._interval_s)
        elif report.at_ns > series.latest.at_ns and self._fell(series.latest, report):
            self._end(series)
            series.restart()
        series.add(report, now)

    def live(self, now: float) -> dict[ProcessKey, ReportSeries[R]]:
        """Return the processes heard of within the timeout, in order of first appearance."""
        return {key: series for key, series in self._series.items() if not series.silent(now, self._timeout_s)}

    def totals(self) -> dict[str, int]:
        """Return the sum of each counter over every process ever seen."""
        return {
            name: self._ended[name] + sum(getattr(series.latest, name) for series in self._series.values())
            for name in self._counters
        }

    def recorded(self, histogram: str) -> Histogram:
        """Return what every process ever seen has recorded."""
        latest: list[Histogram] = [getattr(series.latest, histogram) for series in self._series.values()]
        return Histogram.merged([self._ended_histograms[histogram], *latest])

    def _fell(self, before: R, after: R) -> bool:
        return any(getattr(after, name) < getattr(before, name) for name in self._counters)

    def _end(self, series: ReportSeries[R]) -> None:
        for name in self._counters:
            self._ended[name] += getattr(series.latest, name)
        for name, ended in self._ended_histograms.items():
            self._ended_histograms[name] = ended + getattr(series.latest, name)

    def _forget_longest_silent(self) -> None:
        # Anyone can publish reports under new names all the time: memory stays bounded, and totals stay right.
        if len(self._series) >= self._limit:
            key = min(self._series, key=lambda k: self._series[k].arrived)
            self._end(self._series.pop(key))


def key_of(report: Report) -> ProcessKey:
    """Return the key of the process that sent ``report``."""
    session = report.session if isinstance(report, ProducerReport) else 0
    return (report.host, report.id, report.pid, session)
