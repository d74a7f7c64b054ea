"""The figures of a run, from recordings written by hand."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from backpressure.core.controllers.pace import wait_bound_s
from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.experiments.accounts import Accounts, Durations
from backpressure.experiments.analysis import percentiles, percentiles_over_time, summarise
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.recording import RecordedPhase, RecordedProcess, Recording, Sample
from backpressure.experiments.summary import Expectation, PhaseSummary, Summary

T0_S = 1_000.0
DEMAND = 1000.0


def ns(t_s: float) -> int:
    return round((T0_S + t_s) * 1e9)


def produced(sequence: int, sent_s: float, outcome: Outcome = Outcome.CONFIRMED, session: int = 1) -> ProducerRecord:
    return ProducerRecord(session, sequence, outcome, ns(sent_s - 0.5), ns(sent_s), ns(sent_s + 0.001))


def consumed(
    sequence: int,
    done_s: float,
    wait_s: float = 0.02,
    outcome: Outcome = Outcome.PROCESSED,
    session: int = 1,
    *,
    redelivered: bool = False,
) -> ConsumerRecord:
    start_s = done_s - 0.01
    sent_s = start_s - wait_s
    times = (ns(sent_s - 0.5), ns(sent_s), ns(sent_s), ns(start_s), ns(done_s))
    return ConsumerRecord(session, sequence, outcome, *times, redelivered=redelivered)


def at_rate(rate: float, from_s: float, to_s: float) -> list[float]:
    return [from_s + (n + 0.5) / rate for n in range(round((to_s - from_s) * rate))]


def load(at_s: float, capacity: float, demand: float = DEMAND, cv: float = 0.0) -> LoadChanged:
    return LoadChanged(at_ns=ns(at_s), capacity_per_s=capacity, demand_per_s=demand, service_cv=cv)


def recording(
    done_s: Iterable[float] = (),
    *,
    phases: Iterable[tuple[str, float, float]] = (("only", 0.0, 10.0),),
    loads: Iterable[LoadChanged] = (),
    accounts: Accounts | None = None,
    **changes: Any,
) -> Recording:
    accounts = accounts or Accounts()
    done = list(done_s)
    accounts.add_producer("producer-1", [produced(n, t - 0.03) for n, t in enumerate(done)])
    accounts.add_consumer(consumed(n, t) for n, t in enumerate(done))
    values: dict[str, Any] = {
        "scenario": "s",
        "strategy": "pace",
        "broker": "b",
        "broker_version": "1",
        "started_at": "2026-01-01T00:00:00+00:00",
        "expectations": (),
        "phases": [RecordedPhase(name, ns(start), ns(end)) for name, start, end in phases],
        "loads": list(loads),
        "processes": [RecordedProcess("producer", "producer-1", 1, ns(-1), ns(11))],
        "samples": (),
        "outcome": "finished",
        "queues_read": True,
        "accounts": accounts,
    }
    return Recording(**(values | changes))


def only_phase(summary: Summary) -> PhaseSummary:
    [phase] = summary.phases
    return phase


def test_percentiles_are_exact_nearest_rank() -> None:
    milliseconds = list(range(1, 201))
    random.Random(1).shuffle(milliseconds)
    figures = percentiles([value * 1_000_000 for value in milliseconds])
    assert (figures.p50, figures.p95, figures.p99, figures.max) == (100, 190, 198, 200)


def test_nothing_measured_is_none_and_not_zero() -> None:
    summary = summarise(recording())
    assert summary.wait_ms.p99 is None
    assert summary.depth.max is None
    assert summary.utilisation is None
    assert summary.fairness_jain is None
    assert summary.totals.processed == 0


def test_wait_runs_from_sent_to_started_and_end_to_end_from_intended_to_done() -> None:
    summary = summarise(recording([1.0, 2.0, 3.0]))
    assert summary.wait_ms.p50 == pytest.approx(20)
    assert summary.end_to_end_ms.max == pytest.approx(530)
    assert summary.confirm_ms.p99 == pytest.approx(1)


def test_each_phase_has_its_own_rates_and_waits() -> None:
    done = [*at_rate(100, 0, 10), *at_rate(20, 10, 20)]
    phases = [("fast", 0.0, 10.0), ("slow", 10.0, 20.0)]
    fast, slow = summarise(recording(done, phases=phases)).phases
    assert (fast.start_s, fast.end_s, slow.start_s, slow.end_s) == (0, 10, 10, 20)
    assert (fast.process_rate, slow.process_rate) == (100, 20)
    assert slow.publish_rate == pytest.approx(20, abs=0.2)
    assert slow.wait_ms.p50 == pytest.approx(20)


def test_utilisation_counts_only_while_more_is_offered_than_can_be_done() -> None:
    done = [*at_rate(90, 0, 10), *at_rate(50, 10, 20)]
    loads = [load(0, 100), load(10, 100, demand=50)]
    phases = [("over", 0.0, 10.0), ("under", 10.0, 20.0)]
    summary = summarise(recording(done, phases=phases, loads=loads))
    assert summary.utilisation == pytest.approx(0.9)
    assert [phase.utilisation for phase in summary.phases] == [pytest.approx(0.9), None]


def test_utilisation_without_capacity_is_not_defined() -> None:
    summary = summarise(recording([0.1], loads=[load(0, 100), load(0.5, 0)]))
    assert only_phase(summary).utilisation is None


def test_capacity_counts_from_the_moment_a_consumer_is_ready() -> None:
    summary = summarise(recording(at_rate(100, 2, 10), loads=[load(0, 0), load(2, 100)]))
    assert summary.utilisation == pytest.approx(1.0)


def test_a_rate_at_capacity_from_the_start_has_settled_at_once() -> None:
    assert only_phase(summarise(recording(at_rate(100, 0, 10), loads=[load(0, 100)]))).settle_s == 0


def test_settling_is_the_first_moment_from_which_the_rate_stays_near_capacity() -> None:
    done = [*at_rate(50, 0, 4), *at_rate(100, 4, 10)]
    assert only_phase(summarise(recording(done, loads=[load(0, 100)]))).settle_s == pytest.approx(3.8)


def test_a_rate_that_only_passes_through_capacity_has_not_settled() -> None:
    done = [*at_rate(50, 0, 4), *at_rate(100, 4, 6), *at_rate(50, 6, 10)]
    assert only_phase(summarise(recording(done, loads=[load(0, 100)]))).settle_s is None


def test_a_hiccup_long_after_settling_does_not_unsettle() -> None:
    done = [*at_rate(50, 0, 1), *at_rate(100, 1, 7), *at_rate(50, 7, 8), *at_rate(100, 8, 10)]
    assert only_phase(summarise(recording(done, loads=[load(0, 100)]))).settle_s == pytest.approx(0.8)


def test_settling_allows_for_random_service_times() -> None:
    draw = random.Random(4)
    done, now = [], 0.0
    while now < 10:
        now += draw.expovariate(100)
        done.append(now)
    loads = [load(0, 100, cv=1.0)]
    assert only_phase(summarise(recording(done[:-1], loads=loads))).settle_s == 0


def test_nothing_settles_where_less_is_offered_than_can_be_done() -> None:
    assert only_phase(summarise(recording(at_rate(50, 0, 10), loads=[load(0, 100, demand=50)]))).settle_s is None


def test_totals_balance_and_lost_is_what_is_found_nowhere() -> None:
    accounts = Accounts()
    accounts.add_producer(
        "producer-1",
        [
            *(produced(n, 1.0) for n in range(10)),
            produced(10, 1.0, Outcome.REJECTED),
            produced(11, 1.0, Outcome.UNSETTLED),
            produced(12, 1.0, Outcome.RETURNED),
        ],
    )
    accounts.add_consumer(
        [
            consumed(0, 2.0),
            consumed(2, 2.1),
            consumed(1, 2.2, redelivered=True),
            consumed(0, 2.3, redelivered=True),
            consumed(3, 2.4, outcome=Outcome.DEAD_LETTERED),
        ]
    )
    accounts.ledger.left_in_queue.add(1, 4)
    accounts.ledger.dropped.add(1, 5)
    accounts.ledger.dead_lettered.add(1, 3)
    totals = summarise(recording(accounts=accounts)).totals
    assert (totals.published, totals.confirmed, totals.rejected, totals.returned) == (13, 10, 2, 1)
    assert (totals.processed, totals.dead_lettered, totals.dropped, totals.left_in_queue) == (3, 1, 1, 1)
    assert (totals.delivered, totals.redelivered, totals.duplicates, totals.out_of_order) == (5, 2, 1, 1)
    assert totals.lost == 4


def test_a_dead_letter_that_is_not_in_the_queue_that_was_read_is_lost() -> None:
    accounts = Accounts()
    accounts.add_producer("producer-1", [produced(n, 1.0) for n in range(2)])
    accounts.add_consumer(consumed(n, 2.0, outcome=Outcome.DEAD_LETTERED) for n in range(2))
    accounts.ledger.dead_lettered.add(1, 0)
    totals = summarise(recording(accounts=accounts)).totals
    assert (totals.published, totals.delivered, totals.dead_lettered, totals.lost) == (2, 2, 1, 1)


def test_lost_messages_belong_to_the_phase_in_which_they_were_last_seen() -> None:
    accounts = Accounts()
    produced_there = [produced(0, 1.0), produced(1, 6.0), produced(2, 1.0), produced(3, 1.0)]
    given_up = [consumed(2, 7.0, outcome=Outcome.DEAD_LETTERED)]
    accounts.add_producer("producer-1", produced_there)
    accounts.add_consumer([*given_up, consumed(3, 2.0)])
    found = recording(accounts=accounts, phases=[("early", 0, 5), ("late", 5, 6.5)])
    assert [phase.lost for phase in summarise(found).phases] == [None, None]
    accounts.add_lost(produced_there)
    accounts.add_lost(given_up)
    assert [phase.lost for phase in summarise(found).phases] == [1, 2]


def test_what_the_queues_held_being_unknown_nothing_is_called_lost() -> None:
    accounts = Accounts()
    accounts.add_producer("producer-1", [produced(0, 1.0)])
    totals = summarise(recording(accounts=accounts, queues_read=False)).totals
    assert {totals.lost, totals.left_in_queue, totals.dead_lettered, totals.dropped} == {None}


@pytest.mark.parametrize(("shares", "fairness"), [((100, 100), 1.0), ((200, 0), 0.5), ((100, 50), 0.9)])
def test_fairness_is_jains_index_over_all_producers_that_were_there(shares: tuple[int, int], fairness: float) -> None:
    accounts = Accounts()
    for session, count in enumerate(shares):
        accounts.add_producer(f"producer-{session}", [produced(n, 1.0, session=session) for n in range(count)])
    processes = [RecordedProcess("producer", f"producer-{n}", n, ns(-1), ns(11)) for n in range(2)]
    assert summarise(recording(accounts=accounts, processes=processes)).fairness_jain == fairness


def test_fairness_counts_what_was_confirmed_in_the_stretch_to_the_nanosecond() -> None:
    accounts = Accounts()
    accounts.add_producer("producer-0", [produced(n, t, session=0) for n, t in enumerate(at_rate(100, 0.0, 9.7))])
    accounts.add_producer("producer-1", [produced(n, t, session=1) for n, t in enumerate(at_rate(100, 8.9, 9.7))])
    processes = [RecordedProcess("producer", f"producer-{n}", 1, ns(at_s), ns(11)) for n, at_s in [(0, 0), (1, 8.9)]]
    phases = [("only", 0.0, 9.3)]
    assert summarise(recording(accounts=accounts, processes=processes, phases=phases)).fairness_jain == 1.0


def test_fairness_compares_rates_so_that_a_late_producer_does_not_count_as_unlucky() -> None:
    accounts = Accounts()
    accounts.add_producer("producer-0", [produced(n, 1.0, session=0) for n in range(100)])
    accounts.add_producer("producer-1", [produced(n, 6.0, session=1) for n in range(50)])
    processes = [
        RecordedProcess("producer", "producer-0", 1, ns(-1), ns(11)),
        RecordedProcess("producer", "producer-1", 2, ns(5), ns(11)),
    ]
    assert summarise(recording(accounts=accounts, processes=processes)).fairness_jain == 1.0


def test_depth_is_ready_plus_unacked_over_the_samples_of_each_phase() -> None:
    samples = [Sample(t_s=1, ready=10, unacked=2), Sample(t_s=2, ready=5), Sample(t_s=6, ready=0), Sample(t_s=7)]
    phases = [("a", 0.0, 5.0), ("b", 5.0, 10.0)]
    summary = summarise(recording(samples=samples, phases=phases))
    assert (summary.depth.mean, summary.depth.max) == (5.67, 12)
    assert [phase.depth_max for phase in summary.phases] == [12, 0]


def test_the_depth_is_that_of_littles_law_where_samples_miss_what_is_under_way() -> None:
    # 100 msg/s, each 30 ms from sent to done; the consumer holds it for 25 of them: samples see 2.5 of 3 messages.
    samples = [Sample(t_s=t / 10, ready=0, unacked=2 + t % 2) for t in range(100)]
    summary = summarise(recording(at_rate(100, 0, 10), samples=samples))
    assert summary.depth.mean == pytest.approx(100 * 0.030, rel=0.005)
    assert summary.depth.max == 3


def test_the_depth_of_a_phase_is_the_most_that_was_there_within_it() -> None:
    accounts = Accounts()
    accounts.add_consumer([*(consumed(n, 3.0, wait_s=1.0) for n in range(50)), consumed(50, 7.0, wait_s=0.01)])
    summary = summarise(recording(accounts=accounts, phases=[("a", 0, 5), ("b", 5, 10)]))
    assert [phase.depth_max for phase in summary.phases] == [50, 1]
    assert summary.depth.mean == pytest.approx((50 * 1.01 + 0.02) / 10, abs=0.005)


def test_what_is_left_in_the_queue_deepens_it_from_when_it_was_sent() -> None:
    accounts = Accounts()
    left = [produced(n, 4.0) for n in range(20)]
    accounts.add_producer("producer-1", [*left, produced(99, 1.0, Outcome.REJECTED)])
    for record in left:
        accounts.ledger.left_in_queue.add(record.session, record.sequence)
    accounts.add_left([*left, produced(99, 1.0, Outcome.REJECTED)])
    depth = summarise(recording(accounts=accounts)).depth
    assert (depth.mean, depth.max) == (pytest.approx(20 * 0.6), 20)


def test_a_message_that_was_done_twice_stays_once_and_from_its_second_delivery_again() -> None:
    accounts = Accounts()
    accounts.add_consumer([consumed(1, 2.0, wait_s=1.0)])
    accounts.add_consumer([consumed(1, 6.0, wait_s=5.0, redelivered=True)])
    first, again = 1.01, 5.01  # this delivery was received when it was sent, says the helper
    assert summarise(recording(accounts=accounts)).depth.mean == pytest.approx((first + again) / 10, abs=0.005)


@pytest.mark.parametrize(("state", "read"), [("dropped", True), ("lost", True), ("left_in_queue", False)])
def test_the_depth_is_sampled_where_nobody_knows_when_messages_left(state: str, read: bool) -> None:
    accounts = Accounts()
    accounts.add_producer("producer-1", [produced(n, 1.0) for n in range(2)])
    accounts.add_consumer([consumed(0, 2.0)])
    if state == "dropped":
        accounts.ledger.dropped.add(1, 1)
    samples = [Sample(t_s=1, ready=40), Sample(t_s=2, ready=60), Sample(t_s=11, ready=0)]  # the last one after the end
    depth = summarise(recording(accounts=accounts, samples=samples, queues_read=read)).depth
    assert (depth.mean, depth.max) == (50, 60)


def test_a_process_that_was_never_sampled_has_an_unknown_cost() -> None:
    [process] = summarise(recording()).processes
    assert (process.cpu_s, process.rss_max_mb) == (None, None)


def test_a_process_shows_its_last_cpu_time_and_its_largest_memory() -> None:
    samples = [
        Sample(t_s=1, rss_mb={"producer-1": 40}, cpu_s={"producer-1": 1.0}),
        Sample(t_s=2, rss_mb={"producer-1": 60}, cpu_s={"producer-1": 2.0}),
        Sample(t_s=3, rss_mb={"producer-1": 50}, cpu_s={"producer-1": 2.5}),
    ]
    [process] = summarise(recording(samples=samples)).processes
    assert (process.id, process.cpu_s, process.rss_max_mb) == ("producer-1", 2.5, 60)


@pytest.mark.parametrize(
    ("outcome", "limit", "verdict"),
    [("finished", 0, "passed"), ("finished", 1, "failed"), ("interrupted", 0, "interrupted"), ("error", 0, "error")],
)
def test_the_verdict_is_that_of_the_expectations_unless_the_run_did_not_finish(
    outcome: str, limit: float, verdict: str
) -> None:
    summary = summarise(recording(outcome=outcome, expectations=[Expectation("lost", "==", limit)]))
    assert summary.verdict == verdict
    assert summary.expectations[0].held is (limit == 0)


def test_percentiles_over_time_are_those_of_each_step() -> None:
    durations = Durations()
    for t_s, ms in ((0.1, 5), (0.9, 7), (2.5, 9)):
        durations.add(ns(t_s), ms * 1_000_000)
    series = [(t_s, figures.max) for t_s, figures in percentiles_over_time(durations, ns(0), 1.0)]
    assert series == [(0.5, 7), (2.5, 9)]


def test_the_fairness_of_a_phase_is_that_of_its_second_half_when_those_that_joined_have_found_their_share() -> None:
    accounts = Accounts()
    accounts.add_producer("producer-1", [produced(n, t) for n, t in enumerate(at_rate(100, 0.0, 20.0))])
    accounts.add_producer("producer-2", [produced(n, t, session=2) for n, t in enumerate(at_rate(100, 14.0, 20.0))])
    processes = [RecordedProcess("producer", f"producer-{n}", n, ns(at_s), ns(20)) for n, at_s in [(1, 0), (2, 10)]]
    phases = [("alone", 0, 10), ("joined", 10, 20)]
    summary = summarise(recording(accounts=accounts, processes=processes, phases=phases))
    assert [phase.fairness_jain for phase in summary.phases] == [1.0, 1.0]
    assert summary.fairness_jain is not None
    assert summary.fairness_jain < 0.95


def test_the_bound_of_a_phase_follows_from_its_final_load_and_the_age_of_its_signals() -> None:
    samples = [Sample(t_s=t, signal_age_ms=age) for t, age in [(1, 40.0), (2, 60.0), (12, 500.0)]]
    loads = [load(0, 100), load(5, 50, cv=1.0)]
    summary = summarise(recording(phases=[("one", 0, 10), ("two", 10, 20)], loads=loads, samples=samples))
    bounds = [phase.wait_bound_ms for phase in summary.phases]
    assert bounds == [
        pytest.approx(1000 * wait_bound_s(50, 1.0, 0.05), abs=0.1),
        pytest.approx(1000 * wait_bound_s(50, 1.0, 0.5), abs=0.1),
    ]
    assert (summary.signal_age_ms.p50, summary.signal_age_ms.max) == (60, 500)


def test_the_lateness_of_the_control_loop_is_that_of_the_samples_that_know_it() -> None:
    samples = [Sample(t_s=t, tick_lateness_ms=late) for t, late in [(1, 0.2), (2, None), (3, 40.0), (4, 0.4)]]
    lateness = summarise(recording(samples=samples)).tick_lateness_ms
    assert (lateness.p50, lateness.max) == (0.4, 40.0)
    assert summarise(recording()).tick_lateness_ms.max is None


@pytest.mark.parametrize(
    ("capacity", "ages"),
    [(100.0, []), (DEMAND, [40.0]), (0.0, [40.0])],
    ids=["no signals", "no overload", "no capacity"],
)
def test_there_is_no_bound_where_nothing_can_be_controlled(capacity: float, ages: list[float]) -> None:
    samples = [Sample(t_s=1, signal_age_ms=age) for age in ages]
    summary = summarise(recording(loads=[load(0, capacity)], samples=samples))
    assert only_phase(summary).wait_bound_ms is None
