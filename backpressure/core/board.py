"""One consistent view of the loop, built from feedback reports, probe readings and the own producer's state.

Processes report totals. The board adds up their *differences*, so its own totals only grow, also when a process
restarts, vanishes or joins. What other producers have sent since their last reports is estimated from their pace, and
corrected by the next report. The board knows no transport and no clock: its owner passes in what arrived and when.

Reports of different processes are up to one reporting interval apart, so a sum of their latest counters mixes several
moments, and its difference over wall-clock time is noisy (±1 report a tick). The board therefore also adds up the
consumer-seconds in which the departures were observed, each by the clock of its reporter. ``Δdeparted / Δobserved`` is
exactly the rate of one consumer; times the number of working consumers it is the rate of all. Depth has no such remedy:
``unacked`` is up to one reporting interval older than ``ready``. The error is at most the flow in that time, and zero
while the consumers' prefetch is full.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Generic, TypeVar

from backpressure.core.evidence import BacklogCounts, ConsumerTerms, OffsetReading, QueueStatistics
from backpressure.core.filters import Timeline
from backpressure.core.reports import ConsumerReport, ProducerReport, Report
from backpressure.core.sharing import ShareTrim, fair_share
from backpressure.core.signals import SignalQuality, Signals

__all__ = ["OwnState", "SignalBoard"]

_SERVICE_WINDOW_S = 2.0
_SERVICE_SAMPLES = 20
_RATE_WINDOW_S = 1.0
_RECENTS_FROM_S = 0.5  # if a process reports as rarely as this, what it did in the last second counts
_REPORTS_MISSED = 2.5  # a process of a fleet is gone after so many of its own intervals
_FORGET_AFTER = 300  # timeouts; a process that returns after a longer silence counts as new
_FASTEST_PER_S = 1e6  # more than any process does
_MOST_WORKERS = 1000  # of one consumer
_HIDDEN_WEIGHT = 0.3
_COMMITS_S = 30.0  # commits are not further apart
_DONE_WINDOW_S = 1.0
_OWN_HISTORY_S = 20.0
_ASK_EACH_TICK = 10  # producers that ask for everything in each tick; of more, each asks less often
_ASK_RARELY = 5  # ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnState:
    """The own producer at this moment: totals since it started, and what its limiter and schedule say.

    ``weight`` is its share against other producers; the other names mean what they mean in `Signals`.
    """

    confirmed: int = 0
    nacked: int = 0
    returned: int = 0
    in_flight: int = 0
    window: int = 0
    demand_per_s: float = inf
    application_limited: bool = False
    confirm_latency_s: float | None = None
    confirm_latency_min_s: float | None = None
    way_s: float | None = None
    blocked: bool = False
    weight: float = 1.0


R = TypeVar("R", ProducerReport, ConsumerReport)


@dataclass(slots=True)
class _Process(Generic[R]):
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
class _Producer(_Process[ProducerReport]):
    history: deque[tuple[float, int]] = field(default_factory=deque)  # (by its own clock, confirmed)

    def restart(self) -> None:
        self.history.clear()

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
        return 0.0 if self.latest.blocked or rate_per_s > _FASTEST_PER_S else rate_per_s * (now - self.heard_at)

    def _possible(
        self, before: ProducerReport, heard_at: float, report: ProducerReport, now: float, tolerance_s: float
    ) -> bool:
        elapsed_s = (report.at_ns - before.at_ns) / 1e9
        in_time = _Process._possible(self, before, heard_at, report, now, tolerance_s)  # noqa: SLF001 - its own base
        return in_time and 0 <= report.confirmed - before.confirmed <= _FASTEST_PER_S * elapsed_s


@dataclass(slots=True)
class _Consumer(_Process[ConsumerReport]):
    most_prefetch: int = 0

    def held(self) -> int:
        """Return what it holds, which cannot be more than it was ever allowed to (0: any number)."""
        return min(self.latest.held, self.most_prefetch) if self.latest.prefetch else self.latest.held

    def _possible(
        self, before: ConsumerReport, heard_at: float, report: ConsumerReport, now: float, tolerance_s: float
    ) -> bool:
        elapsed_s = (report.at_ns - before.at_ns) / 1e9
        departed = report.processed + report.dead_lettered - before.processed - before.dead_lettered
        return (
            _Process._possible(self, before, heard_at, report, now, tolerance_s)  # noqa: SLF001 - its own base
            and 0 <= departed <= _FASTEST_PER_S * elapsed_s
            and report.recent <= _FASTEST_PER_S * report.recent_s
            and report.service_sum_s >= before.service_sum_s
            and report.service_sum_s2 >= before.service_sum_s2
            # The timer of work in progress may have run ahead, and long work may be counted when it ends.
            and -tolerance_s <= report.busy_s - before.busy_s <= _MOST_WORKERS * elapsed_s
        )


class SignalBoard:
    """Collects reports and readings, and turns them into `Signals`; one board per law.

    Attributes:
        rarely_told: whether consumers report so rarely that what they hold is better asked of the broker.
    """

    def __init__(self, session: int, timeout_s: float = 2.0) -> None:
        """``session`` is the own producer's: its own reports only show that reports arrive.

        A process silent for ``timeout_s`` is gone; after a quarter of that it is no longer counted on: neither as a
        worker nor as a rival for the common rate.
        """
        self._session = session
        self._timeout_s = timeout_s
        self._fresh_s = timeout_s / 4
        self._producers: dict[int, _Producer] = {}
        self._consumers: dict[tuple[str, int, str, str], _Consumer] = {}
        self._others_confirmed = 0
        self._departed = 0.0
        self._observed_s = 0.0
        self._busy_s = 0.0
        self._told_s = 0.0
        self._served: deque[tuple[float, int, float, float]] = deque([(-inf, 0, 0.0, 0.0)])
        self._flow: deque[tuple[float, int]] = deque()
        self._ready: int | None = None
        self._probed_unacked: int | None = None
        self._probed_consumers: int | None = None
        self._read_at = -inf
        self._heard_at = -inf
        self._trim = ShareTrim()
        self._strangers_since: float | None = None
        self._counts = BacklogCounts()
        self._hidden = 0.0
        self._departures: Timeline | None = None  # of a topic's consumers
        self.rarely_told = False
        self._own_confirmed = Timeline(_OWN_HISTORY_S)
        self._missing = ""

    def on_report(self, report: Report, now: float) -> None:
        """Take in a feedback report that arrived at ``now``; a report older than the last one is dropped."""
        self._heard_at = now
        if isinstance(report, ConsumerReport):
            self._on_consumer(report, now)
            if self._departures is not None:
                self._departures.record(now, self._departed)
        elif report.session != self._session:
            self._on_producer(report, now)

    @property
    def has_strangers(self) -> bool:
        """Whether some consumers do not report."""
        return self._strangers_since is not None

    @property
    def has_guests(self) -> bool:
        """Whether a consumer of another program reports: its client library may hold messages it does not know of."""
        return any(not consumer.latest.rss_bytes for consumer in self._consumers.values())

    def wants_counts(self, reading: int, producers: int) -> bool:
        """Whether the reading of that number should also tell what consumers hold that do not say it themselves.

        It costs the broker more: many producers ask in turn, and where all consumers report it is less urgent. Those of
        a fleet report so rarely that the broker knows better.
        """
        urgent = self.has_strangers or self.rarely_told
        turns = ceil(producers / _ASK_EACH_TICK) * (1 if urgent else _ASK_RARELY)
        return (urgent or self.has_guests) and reading % turns == 0

    @property
    def wants_readings_between(self) -> bool:
        """Whether to read the queue once more between two ticks: its counts change about as often, at other moments.

        When a count was made is only known to within the time between two readings.
        """
        return self.has_strangers and self._counts.changing

    def on_reading(
        self, ready: int | None, unacked: int | None, consumers: int | None, now: float, *, missing: str | None = None
    ) -> None:
        """Take in a reading of the queue; a count is None where the broker does not tell it.

        ``missing``: why it is not known what consumers hold, and what to do; None: this reading does not tell.
        """
        self._ready, self._probed_unacked, self._probed_consumers, self._read_at = ready, unacked, consumers, now
        self._missing = self._missing if missing is None else missing
        self._counts.on_reading(ready, unacked, consumers, now)
        known = sum(not consumer.silent(now, self._timeout_s) for consumer in self._consumers.values())
        if consumers is None or consumers <= known:
            self._strangers_since = None
        elif self._strangers_since is None:
            self._strangers_since = now

    def on_statistics(self, statistics: QueueStatistics) -> None:
        """Take in what the broker told of the queue at another moment than its reading.

        Where all consumers report and some are guests, it shows what waits in their client libraries. After an outage
        consumers are back before their reports: what they hold is not hidden then.
        """
        self._counts.on_statistics(statistics)
        if statistics.fresh and not self.rarely_told and self.has_guests and not self.has_strangers:
            hidden = statistics.unacked - sum(one.held() for one in self._present(statistics.arrived_s))
            self._hidden += _HIDDEN_WEIGHT * (max(0, hidden) - self._hidden)

    def on_terms(self, terms: ConsumerTerms, now: float) -> None:
        """Take in on what terms consumers get messages, as it was told at ``now``."""
        self._counts.on_terms(terms, now)

    def on_offsets(self, offsets: OffsetReading, consumers: int | None) -> None:
        """Take in the offsets of a topic; ``consumers`` is None where the broker does not tell."""
        self._counts.on_offsets(offsets)
        if self._departures is None:
            self._departures = Timeline(_COMMITS_S)
            self._departures.record(offsets.arrived_s, self._departed)
        self.on_reading(self._ready_by_reports(offsets.arrived_s), None, consumers, offsets.arrived_s)

    def _ready_by_reports(self, now: float) -> int | None:
        """Return what waits in a topic whose consumers report and commit rarely; None: not known.

        It is what the last commit had left and what has come since, less what has been done since.
        """
        count, moment_s = self._counts.known(now)
        heard = self._present(now)
        if count is None or not heard or self._departures is None or not self._departed_known(now):
            return None
        done = self._departures.at(now)
        per_s = (done - self._departures.at(now - _DONE_WINDOW_S)) / _DONE_WINDOW_S
        done += per_s * sum(now - consumer.heard_at for consumer in heard) / len(heard)
        depth = count + self._counts.arrived_since(moment_s, now) - (done - self._departures.at(moment_s))
        return max(0, round(depth) - sum(consumer.held() for consumer in heard))

    def signals(self, own: OwnState, now: float) -> Signals:
        """Return the loop as it is known at ``now``."""
        self._forget(now)
        # Compared with the newest report of all, its own included: if no report arrives, the others are not all gone.
        rivals = [p for p in self._producers.values() if not p.silent(self._heard_at, self._fresh_s)]
        confirmed = own.confirmed + self._others_confirmed + round(self._sent_since(rivals, own, now))
        share = fair_share(
            own.weight,
            self._flow_per_s(confirmed, now),
            [(rival.latest.weight, rival.need_per_s()) for rival in rivals],
        )
        alone = not rivals or own.application_limited or own.blocked
        rare = [rival.latest for rival in rivals if rival.latest.interval_s > _RECENTS_FROM_S]
        alone = alone or bool(rare)  # what rivals sent since is a guess, too coarse to compare with
        # Who joins a fleet has heard few of it yet, but any report tells how many there are.
        known = 1 + len(rivals)
        share *= known / max([known, *(report.producers for report in rare)])
        share = min(1.0, share * self._trim.update(share, own.confirmed, confirmed, now, comparable=not alone))
        reporting = self._departed_known(now)
        heard = self._present(now)
        mean_s, cv2 = self._service_statistics()
        counts = self._counts
        interval_s = sum(c.latest.interval_s for c in heard) / len(heard) if heard else 0.0
        self.rarely_told = interval_s > _RECENTS_FROM_S
        backlog, counted_at = (None, -inf) if counts.auto_ack else counts.known(now)
        departed_age_s = sum(now - c.heard_at for c in heard) / len(heard) if reporting and heard else inf
        if reporting and not (self.rarely_told and now - counted_at < departed_age_s):
            backlog, counted_at = None, -inf  # the reports know better
        quality, missing = self._quality(now, reporting=reporting)
        return Signals(
            ready=self._ready,
            unacked=self._unacked(heard, now, reporting=reporting),
            depth_age_s=now - self._read_at,
            backlog=backlog,
            backlog_age_s=now - counted_at,
            backlog_error=counts.error,
            backlog_doubt_s=counts.doubt_s,
            count_interval_s=counts.interval_s,
            next_count_in_s=max(0.0, counts.next_s - now) if counts.interval_s else 0.0,
            held_at_most=counts.held_at_most,
            quality=quality,
            missing=missing,
            confirmed_total=confirmed,
            departed_total=round(self._departed) if reporting else None,
            observed_total_s=self._observed_s if reporting else None,
            busy_total_s=self._busy_s if reporting else None,
            told_total_s=self._told_s if reporting else None,
            report_interval_s=interval_s,
            departed_age_s=departed_age_s,
            feedback_age_s=min((now - consumer.heard_at for consumer in self._consumers.values()), default=inf),
            consumers=self._working(heard, now),
            service_mean_s=mean_s,
            service_cv2=cv2,
            demand_per_s=own.demand_per_s,
            application_limited=own.application_limited,
            in_flight=own.in_flight,
            window=own.window,
            nacked_total=own.nacked,
            returned_total=own.returned,
            confirm_latency_s=own.confirm_latency_s,
            confirm_latency_min_s=own.confirm_latency_min_s,
            way_s=own.way_s,
            blocked=own.blocked,
            producers=1 + len(rivals),
            share=share,
        )

    def _sent_since(self, rivals: list[_Producer], own: OwnState, now: float) -> float:
        """Estimate how many messages others have sent since their last reports.

        In a fleet these are seconds old. Then what the own producer has sent since tells more: the others' laws see the
        same queue.
        """
        self._own_confirmed.record(now, own.confirmed)
        sent = 0.0
        for rival in rivals:
            if rival.latest.interval_s <= _RECENTS_FROM_S or own.application_limited or not rival.limited_by_law():
                sent += rival.sent_since(now)
            else:
                since = own.confirmed - self._own_confirmed.at(rival.heard_at)
                sent += since * rival.latest.weight / own.weight
        return sent

    def _on_producer(self, report: ProducerReport, now: float) -> None:
        known = self._producers.get(report.session)
        at_s = report.at_ns / 1e9
        if known is None:
            self._producers[report.session] = _Producer(report, now, history=deque([(at_s, report.confirmed)]))
            return
        before = known.take(report, now, self._timeout_s)
        if before is None:
            return
        self._others_confirmed += report.confirmed - before.confirmed
        known.history.append((at_s, report.confirmed))
        while len(known.history) > 1 and at_s - known.history[1][0] >= _RATE_WINDOW_S:
            known.history.popleft()

    def _on_consumer(self, report: ConsumerReport, now: float) -> None:
        key = (report.host, report.pid, report.id, report.queue)
        known = self._consumers.get(key)
        if known is None:
            self._consumers[key] = _Consumer(report, now, most_prefetch=report.prefetch)
            if report.interval_s > _RECENTS_FROM_S and report.recent <= _FASTEST_PER_S * report.recent_s:
                self._departed += report.recent  # the next report is far away
                self._observed_s += report.recent_s
                self._told_s += report.recent_s
                self._busy_s += min(report.recent_busy_s, _MOST_WORKERS * report.recent_s)
            return
        before = known.take(report, now, self._timeout_s)
        if before is None:
            return
        known.most_prefetch = max(known.most_prefetch, report.prefetch)
        elapsed_s = (report.at_ns - before.at_ns) / 1e9
        if (
            0 < report.recent_s < elapsed_s
            and elapsed_s > _RECENTS_FROM_S
            and report.recent_busy_s <= _MOST_WORKERS * report.recent_s
        ):
            # A process of a fleet reports rarely: what it did lately says more than the average since its last report.
            weight = elapsed_s / report.recent_s
            self._departed += weight * report.recent
            self._observed_s += elapsed_s
            self._told_s += report.recent_s
            self._busy_s += weight * report.recent_busy_s
        else:
            self._departed += report.processed + report.dead_lettered - before.processed - before.dead_lettered
            self._observed_s += elapsed_s
            self._told_s += elapsed_s
            self._busy_s += report.busy_s - before.busy_s
        served_s = report.service_sum_s - before.service_sum_s
        served_s2 = report.service_sum_s2 - before.service_sum_s2
        if not report.service_sum_s2 or served_s2 > 1.01 * served_s**2 + 1e-6:
            return  # it does not tell, or what cannot be
        _, count, total, squares = self._served[-1]
        self._served.append(
            (
                now,
                count + report.processed - before.processed,
                total + served_s,
                squares + served_s2,
            )
        )
        while (
            now - self._served[1][0] >= _SERVICE_WINDOW_S
            and self._served[-1][1] - self._served[1][1] >= _SERVICE_SAMPLES
        ):
            self._served.popleft()

    def _forget(self, now: float) -> None:
        self._producers = {
            key: rival for key, rival in self._producers.items() if not rival.silent(now, self._timeout_s)
        }
        horizon = now - _FORGET_AFTER * self._timeout_s
        self._consumers = {key: known for key, known in self._consumers.items() if known.heard_at > horizon}

    def _departed_known(self, now: float) -> bool:
        """Whether reports cover everything that leaves the queue; unknown consumers get time to report first."""
        settled = self._strangers_since is not None and now - self._strangers_since > self._timeout_s / 2
        return bool(self._consumers) and not settled

    def _quality(self, now: float, *, reporting: bool) -> tuple[SignalQuality, str]:
        if reporting or not self._probed_consumers or not self.has_strangers:
            return SignalQuality.REPORTED, ""
        assert self._strangers_since is not None
        return self._counts.quality(now, self._missing, now - self._strangers_since)

    def _present(self, now: float) -> list[_Consumer]:
        """Return the consumers that reported lately, at most as many as the broker counts."""
        heard = [consumer for consumer in self._consumers.values() if not consumer.silent(now, self._timeout_s)]
        if self._probed_consumers is not None and self._probed_consumers < len(heard):
            heard.sort(key=lambda consumer: consumer.heard_at)
            heard = heard[len(heard) - self._probed_consumers :]
        return heard

    def _unacked(self, heard: list[_Consumer], now: float, *, reporting: bool) -> int | None:
        if self._probed_unacked is not None:
            return self._probed_unacked
        if not (reporting and heard):
            return None
        hidden = 0 if self._counts.known(now)[0] is None else round(self._hidden)
        return sum(consumer.held() for consumer in heard) + hidden

    def _working(self, heard: list[_Consumer], now: float) -> int | None:
        """Return how many consumers can work: not paused, reported lately, at most as many as the broker counts."""
        probed = self._probed_consumers
        if not heard:
            return probed
        working = sum(not c.latest.paused and not c.silent(now, self._fresh_s) for c in heard)
        if probed is None:
            return working
        strangers = max(0, probed - len(heard))
        return min(probed, working + strangers)

    def _service_statistics(self) -> tuple[float | None, float | None]:
        (_, count0, sum0, squares0), (_, count1, sum1, squares1) = self._served[0], self._served[-1]
        count, total = count1 - count0, sum1 - sum0
        if count <= 0 or total <= 0:
            return None, None
        mean_s = total / count
        return mean_s, max(0.0, (squares1 - squares0) / count / mean_s**2 - 1) if count > 1 else None

    def _flow_per_s(self, confirmed: int, now: float) -> float:
        """Return the messages a second that were confirmed to all producers in the last second."""
        self._flow.append((now, confirmed))
        while len(self._flow) > 2 and now - self._flow[1][0] >= _RATE_WINDOW_S:
            self._flow.popleft()
        start, first = self._flow[0]
        return (confirmed - first) / (now - start) if now > start else 0.0
