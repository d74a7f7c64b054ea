"""Computes all figures of a run from its recording. ``docs/summary.md`` defines each figure.

Pure: no files, no clock. Durations are exact: percentiles are nearest-rank over every message, not estimates from
histograms.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import ceil, inf, sqrt
from statistics import fmean

from backpressure.core.controllers.pace import wait_bound_s
from backpressure.core.ledger import Ledger
from backpressure.experiments.accounts import Durations, Stays
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.recording import RecordedAgent, RecordedPhase, Recording
from backpressure.experiments.sentence import sentence
from backpressure.experiments.summary import (
    AgentSummary,
    Depth,
    MessageTotals,
    Percentiles,
    PhaseSummary,
    ProcessSummary,
    Summary,
    Verdict,
)

_NS = 1_000_000_000
_WINDOW_S = 1.0
_STEP_S = 0.1
_STEADY_S = 3.0


def summarise(recording: Recording) -> Summary:
    """Return all figures and the verdict."""
    accounts = recording.accounts
    knowledge = recording.knowledge
    done_ns = array("q", sorted(accounts.done_ns))
    if "consumer" in knowledge.strange and not done_ns:
        done_ns = _counted_ns(recording, "acknowledged")
    totals = _totals(recording)
    whole = not knowledge.strange and len(accounts.stays) and (totals.dropped, totals.lost) == (0, 0)
    stays = accounts.stays if whole else None
    summary = Summary(
        scenario=recording.scenario,
        strategy=recording.strategy,
        broker=recording.broker,
        broker_version=recording.broker_version,
        started_at=recording.started_at,
        duration_s=_seconds(recording.end_ns - recording.start_ns),
        verdict="passed",
        sources=dict(knowledge.sources),
        expectations=[],
        totals=totals,
        utilisation=_utilisation(recording, done_ns, recording.start_ns, recording.end_ns),
        wait_ms=percentiles(accounts.waits.length_ns),
        end_to_end_ms=percentiles(accounts.end_to_end.length_ns),
        confirm_ms=percentiles(accounts.confirms.length_ns),
        signal_age_ms=percentiles([round(ms * 1e6) for ms in _signal_ages_ms(recording)]),
        tick_lateness_ms=percentiles(
            [round(s.tick_lateness_ms * 1e6) for s in recording.samples if s.tick_lateness_ms is not None]
        ),
        depth=_depth(recording, stays, recording.start_ns, recording.end_ns),
        fairness_jain=_fairness(recording, recording.start_ns, recording.end_ns),
        phases=_phases(recording, stays, done_ns),
        processes=_processes(recording),
        clock_uncertainty_ms=recording.clock_uncertainty_ms,
        agents=[_agent(recording, agent) for agent in recording.agents],
    )
    figures = summary.model_dump()
    checks = [(expectation, expectation.check(figures)) for expectation in recording.expectations]
    held = [check for expectation, check in checks if not (expectation.default and check.value is None)]
    verdict: Verdict = "passed" if all(check.held for check in held) else "failed"
    if recording.outcome != "finished":
        verdict = recording.outcome
    judged = summary.model_copy(update={"expectations": held, "verdict": verdict})
    return judged.model_copy(update={"sentence": sentence(judged, recording.reason)})


def percentiles(durations_ns: Sequence[int]) -> Percentiles:
    """Return the exact nearest-rank percentiles in milliseconds."""
    if not durations_ns:
        return Percentiles()
    ordered = sorted(durations_ns)
    p50, p95, p99 = (round(ordered[ceil(q * len(ordered)) - 1] / 1e6, 3) for q in (0.50, 0.95, 0.99))
    return Percentiles(p50=p50, p95=p95, p99=p99, max=round(ordered[-1] / 1e6, 3), count=len(ordered))


def percentiles_over_time(durations: Durations, start_ns: int, step_s: float) -> Iterator[tuple[float, Percentiles]]:
    """Yield, for each step that has any, the middle of the step (seconds since ``start_ns``) and its percentiles."""
    bins: dict[int, array[int]] = {}
    for at_ns, length_ns in zip(durations.at_ns, durations.length_ns, strict=True):
        bins.setdefault(int((at_ns - start_ns) / _NS // step_s), array("q")).append(length_ns)
    for number in sorted(bins):
        yield round((number + 0.5) * step_s, 3), percentiles(bins[number])


def _totals(recording: Recording) -> MessageTotals:
    accounts = recording.accounts
    ledger = accounts.ledger.totals()
    offered = max((sample.offered_total for sample in recording.samples), default=0)
    never_confirmed = ledger.rejected + ledger.unsettled
    found = ledger.processed + ledger.dead_lettered + ledger.dropped + ledger.left_in_queue
    published = found + ledger.lost + ledger.returned + never_confirmed
    read = recording.ends_known
    figures: dict[str, int | None] = {
        "offered": max(offered, published),
        "published": published,
        "confirmed": ledger.confirmed,
        "rejected": never_confirmed,
        "returned": ledger.returned,
        "delivered": accounts.delivered,
        "processed": ledger.processed,
        "redelivered": accounts.redelivered,
        "duplicates": ledger.duplicates,
        "out_of_order": accounts.out_of_order,
        "lost": ledger.lost if read else None,
        "dead_lettered": ledger.dead_lettered if read else None,
        "dropped": ledger.dropped if read else None,
        "left_in_queue": ledger.left_in_queue if read else None,
        "refused": max((s.nacked_total for s in recording.samples if s.nacked_total is not None), default=None),
        "discarded": ledger.rejected + ledger.dropped + ledger.returned if read else None,
    }
    return MessageTotals(**(figures | _counted(recording)))


def _counted(recording: Recording) -> dict[str, int | None]:
    """Return the figures that others have counted, where programs are not ours, and None for what nobody knows."""
    knowledge, found = recording.knowledge, recording.accounts.ledger
    figures: dict[str, int | None] = {}
    if knowledge.counted is not None and "consumer" in knowledge.strange:
        figures = {name: getattr(knowledge.counted, name) for name in ("delivered", "acknowledged", "redelivered")}
        if not len(found.processed) and knowledge.unknown("lost"):
            figures["processed"] = knowledge.counted.acknowledged
    if knowledge.counted is not None and "producer" in knowledge.strange and not len(found.confirmed):
        figures |= dict.fromkeys(("published", "confirmed"), knowledge.counted.published)
    if "producer" in knowledge.strange and "consumer" not in knowledge.strange:
        figures["processed"] = len(recording.accounts.done_ns)
    if recording.queues_read:
        figures |= {name: count + _of(found, name) for name, count in knowledge.foreign.items()}
    return figures | {name: None for name in MessageTotals.model_fields if knowledge.unknown(name)}


def _of(ledger: Ledger, state: str) -> int:
    return int(getattr(ledger.totals(), state))


def _counted_ns(recording: Recording, name: str) -> array[int]:
    """Return when messages were counted, from totals that were read now and then: evenly between two readings."""
    moments = array("q")
    last, last_ns = 0, recording.start_ns
    for sample in recording.samples:
        total: int | None = getattr(sample, name)
        if total is not None and total > last:
            at_ns = recording.start_ns + round(sample.t_s * _NS)
            moments.extend(last_ns + (at_ns - last_ns) * (n + 1) // (total - last) for n in range(total - last))
            last, last_ns = total, at_ns
    return moments


def _depth(recording: Recording, stays: Stays | None, start_ns: int, end_ns: int) -> Depth:
    """Return how many messages there were in the work queue.

    This follows from when each message entered and left it: samples miss what is on its way between a client and the
    broker. It is not known when dropped or lost messages left, nor what was left when the queues could not be read;
    then the samples count.
    """
    if stays is not None and start_ns < end_ns:
        mean, most = stays.present(start_ns, end_ns)
        return Depth(mean=round(mean, 2), max=most)
    start_s, end_s = ((at_ns - recording.start_ns) / _NS for at_ns in (start_ns, end_ns))
    depths = [s.depth for s in recording.measured if s.depth is not None and start_s <= s.t_s <= end_s]
    return Depth(mean=round(fmean(depths), 2), max=max(depths)) if depths else Depth()


def _phases(recording: Recording, stays: Stays | None, done_ns: Sequence[int]) -> list[PhaseSummary]:
    waits: list[array[int]] = [array("q") for _ in recording.phases]
    starts = [phase.start_ns for phase in recording.phases]
    accounts = recording.accounts
    for at_ns, length_ns in zip(accounts.waits.at_ns, accounts.waits.length_ns, strict=True):
        index = bisect_right(starts, at_ns) - 1
        if index >= 0 and at_ns < recording.phases[index].end_ns:
            waits[index].append(length_ns)
    confirmed_ns = array("q", sorted(accounts.confirms.at_ns))
    if "producer" in recording.knowledge.strange:
        confirmed_ns = _counted_ns(recording, "entered")
    offered = Growth((sample.t_s, sample.offered_total) for sample in recording.samples)
    refused = Growth((sample.t_s, sample.nacked_total) for sample in recording.samples)
    return [
        _phase(recording, stays, phase, (done_ns, confirmed_ns, wait), (offered, refused))
        for phase, wait in zip(recording.phases, waits, strict=True)
    ]


def _phase(
    recording: Recording,
    stays: Stays | None,
    phase: RecordedPhase,
    moments: tuple[Sequence[int], Sequence[int], Sequence[int]],
    totals: tuple[Growth, Growth],
) -> PhaseSummary:
    done_ns, confirmed_ns, waits_ns = moments
    offered, refused = totals
    known = recording.knowledge
    span_s = (phase.end_ns - phase.start_ns) / _NS
    start_s = _seconds(phase.start_ns - recording.start_ns)
    end_s = _seconds(phase.end_ns - recording.start_ns)
    return PhaseSummary(
        name=phase.name,
        start_s=start_s,
        end_s=end_s,
        publish_rate=None if known.unknown("published") else _rate(confirmed_ns, phase, span_s),
        process_rate=None if _untimed(recording, done_ns) else _rate(done_ns, phase, span_s),
        utilisation=_utilisation(recording, done_ns, phase.start_ns, phase.end_ns),
        wait_ms=percentiles(waits_ns),
        wait_bound_ms=_wait_bound_ms(recording, phase, start_s, end_s),
        depth_max=_depth(recording, stays, phase.start_ns, phase.end_ns).max,
        settle_s=settle_s(recording, done_ns, confirmed_ns, refused, phase),
        pause_s=_pause_s(confirmed_ns, phase),
        fairness_jain=_fairness(recording, (phase.start_ns + phase.end_ns) // 2, phase.end_ns),
        reached=phase.reached,
        strategy=phase.strategy or recording.strategy,
        fault=phase.fault,
        offered_rate=round(offered.between(start_s, end_s) / span_s, 2)
        if offered and span_s > 0 and not known.unknown("offered")
        else None,
        capacity=_capacity(recording.loads, phase),
        depth_start=next((s.depth for s in recording.samples if s.t_s >= start_s and s.depth is not None), None),
        refused=refused.between(start_s, end_s) if refused else None,
        lost=_lost(recording, phase),
    )


def _lost(recording: Recording, phase: RecordedPhase) -> int | None:
    """Return how many of the lost messages were last seen in ``phase``; the last phase has those after it as well."""
    accounts = recording.accounts
    known = recording.ends_known and not recording.knowledge.unknown("lost")
    if not known or accounts.ledger.totals().lost != len(accounts.lost_ns):
        return None
    end_ns = inf if phase is recording.phases[-1] else phase.end_ns
    return sum(phase.start_ns <= seen_ns < end_ns for seen_ns in accounts.lost_ns)


def _untimed(recording: Recording, done_ns: Sequence[int]) -> bool:
    """Return whether nobody knows when messages were done: programs that are not ours may tell only that they were."""
    if "consumer" not in recording.knowledge.strange:
        return False
    return recording.knowledge.unknown("processed") or (not done_ns and len(recording.accounts.ledger.processed) > 0)


def _utilisation(recording: Recording, done_ns: Sequence[int], start_ns: int, end_ns: int) -> float | None:
    """Return processed ÷ capacity over the stretches in which more is offered than can be done.

    None when these add up to less than a second: so short a figure would measure how processes start and stop.
    """
    if _untimed(recording, done_ns):
        return None
    loads = recording.loads
    processed = 0
    possible = 0.0
    overloaded_s = 0.0
    bounds = [*(load.at_ns for load in loads), end_ns]
    for load, (begin, end) in zip(loads, pairwise(bounds), strict=True):
        begin_ns, stop_ns = max(begin, start_ns), min(end, end_ns)
        if begin_ns < stop_ns and 0 < load.capacity_per_s < load.demand_per_s:
            span_s = (stop_ns - begin_ns) / _NS
            processed += count(done_ns, begin_ns, stop_ns)
            possible += load.capacity_per_s * span_s
            overloaded_s += span_s
    return round(processed / possible, 4) if overloaded_s >= 1 else None


def _wait_bound_ms(recording: Recording, phase: RecordedPhase, start_s: float, end_s: float) -> float | None:
    """Return the bound for the load at the end of the phase; None without overload, or when no law had signals."""
    load = final_load(recording.loads, phase)
    ages_ms = list(_signal_ages_ms(recording, start_s, end_s))
    if load is None or not ages_ms:
        return None
    bound_s = wait_bound_s(
        load.capacity_per_s,
        load.service_cv**2,
        fmean(ages_ms) / 1000,
        tick_s=load.tick_s,
        target_wait_s=load.target_wait_s,
    )
    return round(bound_s * 1000, 1)


def _signal_ages_ms(recording: Recording, start_s: float = -inf, end_s: float = inf) -> Iterator[float]:
    for sample in recording.samples:
        if sample.signal_age_ms is not None and start_s <= sample.t_s < end_s:
            yield sample.signal_age_ms


def _capacity(loads: Sequence[LoadChanged], phase: RecordedPhase) -> float | None:
    """Return the mean capacity of the consumers within the phase, None where nobody knows it."""
    if not all(load.capacity_known for load in loads):
        return None
    bounds = [*(load.at_ns for load in loads), phase.end_ns]
    spans = [
        (load.capacity_per_s, min(end, phase.end_ns) - max(begin, phase.start_ns))
        for load, (begin, end) in zip(loads, pairwise(bounds), strict=True)
    ]
    known = [(capacity, span_ns) for capacity, span_ns in spans if span_ns > 0]
    length_ns = sum(span_ns for _, span_ns in known)
    return round(sum(capacity * span_ns for capacity, span_ns in known) / length_ns, 2) if length_ns else None


def _fairness(recording: Recording, from_ns: int, to_ns: int) -> float | None:
    """Return Jain's index (Jain, Chiu and Hawe 1984) of the producers' confirmed messages per second of life."""
    shares: list[float] = []
    for process in recording.processes:
        begin_ns, end_ns = max(process.start_ns, from_ns), min(process.end_ns, to_ns)
        if process.id in recording.accounts.confirmed_by and begin_ns < end_ns:
            confirmed = recording.accounts.confirmed_by[process.id].count(begin_ns, end_ns)
            shares.append(confirmed / (end_ns - begin_ns))
    squares = sum(share * share for share in shares)
    return round(sum(shares) ** 2 / (len(shares) * squares), 4) if squares else None


def _processes(recording: Recording) -> list[ProcessSummary]:
    cpu_s: dict[str, float] = {}
    rss_mb: dict[str, float] = {}
    for sample in recording.samples:
        cpu_s.update(sample.cpu_s)
        for process, value in sample.rss_mb.items():
            rss_mb[process] = max(value, rss_mb.get(process, 0.0))
    return [
        ProcessSummary(
            role=process.role,
            id=process.id,
            pid=process.pid,
            cpu_s=cpu_s.get(process.id),
            rss_max_mb=rss_mb.get(process.id),
            agent=process.agent,
        )
        for process in recording.processes
    ]


def _agent(recording: Recording, agent: RecordedAgent) -> AgentSummary:
    return AgentSummary(
        name=agent.name,
        host=agent.host,
        processes=sum(process.agent == agent.name for process in recording.processes),
        clock_uncertainty_ms=agent.clock_uncertainty_ms,
        round_trip_ms=agent.round_trip_ms,
        lost=agent.lost,
    )


def _pause_s(confirmed_ns: Sequence[int], phase: RecordedPhase) -> float | None:
    """Return the longest time between two confirms, or from the first or to the last moment of the phase."""
    inside = confirmed_ns[bisect_left(confirmed_ns, phase.start_ns) : bisect_left(confirmed_ns, phase.end_ns)]
    if not inside:
        return None
    return _seconds(max(after - before for before, after in pairwise([phase.start_ns, *inside, phase.end_ns])))


def _rate(sorted_ns: Sequence[int], phase: RecordedPhase, span_s: float) -> float:
    return round(count(sorted_ns, phase.start_ns, phase.end_ns) / span_s, 2) if span_s > 0 else 0.0


def _seconds(span_ns: int) -> float:
    return round(span_ns / _NS, 3)


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
