"""Turns successive states of the loop into back-pressure events, each reported once.

Pure: states and times are passed in. A burst of nacks is one event when it begins and one when it is over. A value must
fall a tenth below its threshold before it can breach it again. A pace is cut when it stays well below what it was
lately. A process that stops reporting has vanished if it leaves messages behind, otherwise it has ended; while the
broker is away, no process can report.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from math import isinf
from typing import NamedTuple

from backpressure.core.reports import ProducerReport, Report
from backpressure.core.snapshot import Event, EventKind, Glance, Source, Threshold
from backpressure.engines.rates import ProcessKey, key_of

_KEPT = 500
_CALM_S = 1.0
_CUT = 0.6
_OF_LATE_S = 5.0
_RECOVERED = 0.9


@dataclass(slots=True)
class _ProducerWatch:
    """What was last seen of one producer."""

    nacked: int
    target_per_s: float
    usual_per_s: float
    observed: float
    nacked_before_burst: int | None = None
    burst_began: float = 0.0
    last_nack: float = 0.0
    low_since: float | None = None
    blocked: bool = False


class _Present(NamedTuple):
    """A process that is there: what it is called, and how many messages it has open."""

    name: str
    open: int


class EventWatch:
    """Remembers enough of the past to say what is new."""

    def __init__(self, *, several: bool = False) -> None:
        """With ``several`` queues it is told to which one each process belongs."""
        self._several = several
        self.events: deque[Event] = deque(maxlen=_KEPT)
        self.counts: Counter[EventKind] = Counter()
        self._present: dict[tuple[str, ProcessKey], _Present] = {}
        self._producers: dict[ProcessKey, _ProducerWatch] = {}
        self._breached: set[str] = set()
        self._working: dict[str, bool] = {}
        self._at_ns = 0

    def observe(self, seen: Glance, now: float) -> None:
        """Compare the live processes, thresholds and sources with those of the call before."""
        self._at_ns = seen.at_ns
        self._observe_presence(
            {("producer", key_of(each)): _Present(self._name(each), each.in_flight) for each in seen.producers}
            | {("consumer", key_of(each)): _Present(self._name(each), each.held) for each in seen.consumers},
            deaf=any(source.name == "broker" and not source.ok for source in seen.sources),
        )
        for report in seen.producers:
            self._observe_producer(report, now)
        for threshold in seen.thresholds:
            self._observe_threshold(threshold)
        for source in seen.sources:
            self._observe_source(source)

    def _tell(self, kind: EventKind, text: str) -> None:
        self.events.append(Event(self._at_ns, kind, text))
        self.counts[kind] += 1

    def _name(self, report: Report) -> str:
        return f"{report.id} of {report.queue}" if self._several else report.id

    def _observe_presence(self, present: dict[tuple[str, ProcessKey], _Present], *, deaf: bool) -> None:
        """Compare the processes that are there."""
        for role, key in sorted(present.keys() - self._present):
            self._tell(EventKind.APPEARED, f"{role} {present[role, key].name} (pid {key[2]}) appeared")
        for role, key in sorted(self._present.keys() - present):
            self._producers.pop(key, None)
            name, open_ = self._present[role, key]
            who, state = f"{role} {name} (pid {key[2]})", "in flight" if role == "producer" else "held"
            if deaf:
                self._tell(EventKind.VANISHED, f"{who} is not heard of without the broker")
            elif open_:
                self._tell(EventKind.VANISHED, f"{who} vanished with {open_} {state}")
            else:
                self._tell(EventKind.ENDED, f"{who} ended, nothing {state}")
        self._present = present

    def _observe_producer(self, report: ProducerReport, now: float) -> None:
        watch = self._producers.get(key_of(report))
        if watch is None:
            watch = _ProducerWatch(report.nacked, report.target_rate_per_s, _effective_rate(report), now)
            self._producers[key_of(report)] = watch
        self._observe_blocked(watch, report)
        self._observe_nacks(watch, report, now)
        self._observe_rate(watch, report, now)

    def _observe_blocked(self, watch: _ProducerWatch, report: ProducerReport) -> None:
        if report.blocked and not watch.blocked:
            why = "an alarm (memory or disk), or on Kafka an outage"
            self._tell(EventKind.BLOCKED, f"the broker blocks {self._name(report)}: {why}")
        elif watch.blocked and not report.blocked:
            self._tell(EventKind.UNBLOCKED, f"{self._name(report)} may publish again")
        watch.blocked = report.blocked

    def _observe_nacks(self, watch: _ProducerWatch, report: ProducerReport, now: float) -> None:
        if report.nacked > watch.nacked:
            if watch.nacked_before_burst is None:
                watch.nacked_before_burst, watch.burst_began = watch.nacked, now
                self._tell(EventKind.NACKED, f"the broker refuses messages of {self._name(report)}: the queue is full")
            watch.nacked, watch.last_nack = report.nacked, now
        elif watch.nacked_before_burst is not None and now - watch.last_nack >= _CALM_S:
            refused = watch.nacked - watch.nacked_before_burst
            lasted_s = watch.last_nack - watch.burst_began
            text = f"{self._name(report)}: {refused} refused within {lasted_s:.1f} s, none since"
            self._tell(EventKind.NACKS_OVER, text)
            watch.nacked_before_burst = None

    def _observe_rate(self, watch: _ProducerWatch, report: ProducerReport, now: float) -> None:
        rate = _effective_rate(report)
        elapsed_s, watch.observed = now - watch.observed, now
        if report.target_rate_per_s != watch.target_per_s:
            watch.target_per_s, watch.usual_per_s = report.target_rate_per_s, rate
        if isinf(rate) or isinf(watch.usual_per_s):  # without a limit there is no pace that could be cut
            watch.usual_per_s, watch.low_since = rate, None
        elif rate >= _CUT * watch.usual_per_s:
            watch.low_since = None
            watch.usual_per_s += (rate - watch.usual_per_s) * min(1.0, elapsed_s / _OF_LATE_S)
        elif watch.low_since is None:
            watch.low_since = now
        elif now - watch.low_since >= _CALM_S:
            self._tell(
                EventKind.RATE_CUT,
                f"{self._name(report)} cut its pace from {watch.usual_per_s:.0f} to {rate:.0f} msg/s: {report.reason}",
            )
            watch.usual_per_s, watch.low_since = rate, None

    def _observe_threshold(self, threshold: Threshold) -> None:
        value, limit = threshold.value, threshold.limit
        if value is None:
            return
        what = f"{threshold.name} {value:.0f} {threshold.unit}"
        if threshold.breached and threshold.name not in self._breached:
            self._breached.add(threshold.name)
            self._tell(EventKind.BREACHED, f"{what} is above {limit:.0f}")
        elif value <= _RECOVERED * limit and threshold.name in self._breached:
            self._breached.remove(threshold.name)
            self._tell(EventKind.RECOVERED, f"{what} is below {limit:.0f} again")

    def _observe_source(self, source: Source) -> None:
        worked = self._working.get(source.name)
        if worked and not source.ok:
            self._tell(EventKind.SOURCE_LOST, f"{source.name}: {source.error}")
        elif worked is False and source.ok:
            self._tell(EventKind.SOURCE_BACK, f"{source.name} answers")
        self._working[source.name] = source.ok


def _effective_rate(report: ProducerReport) -> float:
    return min(report.pacing_rate_per_s, report.target_rate_per_s)
