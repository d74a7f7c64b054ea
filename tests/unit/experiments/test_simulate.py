"""Scenarios in virtual time: the included ones run, and the figures are those the model must give."""

import random
from itertools import accumulate

import pytest

from backpressure.core.plant import QueueBound, WorkQueue
from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.comparison import oracle
from backpressure.experiments.scenario import build, process_seed
from backpressure.experiments.simulate import service_times, simulate, workers_of
from backpressure.experiments.simulated_producers import MODELLED_PRODUCERS

CLUSTERS = {"leader-loss", "rolling-upgrade", "partition"}


@pytest.mark.parametrize("name", sorted(library.shipped().keys() - CLUSTERS))
def test_every_shipped_scenario_can_be_simulated_and_loses_nothing(name: str) -> None:
    scenario = library.load(name)
    if scenario.settings.producer.limit > 100_000:
        scenario = library.load(name, ("producer.limit=1000",))
    summary = summarise(simulate(scenario))
    assert summary.totals.lost == 0
    assert [phase.name for phase in summary.phases] == [phase.name for phase in scenario.phases]


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    scenario = library.load("steps", ("consumer.distribution=exponential",))
    first, again, other = (summarise(simulate(scenario, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.wait_ms != other.wait_ms


def test_an_unlimited_law_fills_the_queue_to_its_bound_and_rejects_the_rest() -> None:
    summary = summarise(simulate(library.load("normal", ("queue.max_length=200",), "unbounded")))
    assert 200 <= (summary.depth.max or 0) <= 210
    assert summary.totals.rejected == pytest.approx(20 * 900 - 200, rel=0.05)


def test_a_limit_ends_what_a_producer_sends() -> None:
    summary = summarise(simulate(library.load("normal", ("producer.limit=500",))))
    assert summary.totals.confirmed == 500


def test_a_law_that_changes_on_the_way_does_not_begin_the_limit_again() -> None:
    document = {
        "name": "t",
        "producer": {"rate": 50.0, "limit": 400},
        "phase": [
            {"name": "one", "duration_s": 4.0},
            {"name": "two", "duration_s": 60.0, "until": "consumed", "producer": {"strategy": "aimd"}},
            {"name": "three", "duration_s": 4.0, "producer": {"strategy": "pace"}},
        ],
    }
    summary = summarise(simulate(build(document, "test")))
    assert summary.totals.confirmed == 400
    assert summary.duration_s == pytest.approx(12, abs=0.5)


@pytest.mark.parametrize("durations_s", [[6.667], [0.0012], [1e-9], [0.0049] * 3, [0.1 + 0.2, 1 / 3], [0.0024] * 1000])
def test_phases_of_any_length_come_to_their_end_and_add_up(durations_s: list[float]) -> None:
    phases = [{"name": f"p{number}", "duration_s": length_s} for number, length_s in enumerate(durations_s)]
    summary = summarise(simulate(build({"name": "t", "phase": phases}, "test")))
    assert summary.duration_s == pytest.approx(sum(durations_s), abs=0.0026)


@pytest.mark.parametrize("for_s", [1e-6, 0.0024, 0.1012, 0.6667])
def test_faults_of_any_length_are_undone(for_s: float) -> None:
    document = {"name": "t", "phase": [{"name": "p", "duration_s": 0.9999, "fault": f"network-cut:for_s={for_s}"}]}
    [fault] = simulate(build(document, "test")).faults
    assert (fault.end_ns - fault.start_ns) / 1e9 == pytest.approx(for_s, abs=0.0026)


@pytest.mark.parametrize(("tick_ms", "report_ms"), [(20, 10), (33.3, 70.7), (2000, 1999.9), (100.1, 100)])
def test_ticks_and_reports_that_are_not_a_multiple_of_a_step_end_a_simulation_too(
    tick_ms: float, report_ms: float
) -> None:
    settings = {"control": {"tick_ms": tick_ms}, "feedback": {"interval_ms": report_ms}}
    phases = [{"name": "p", "duration_s": 2.0033}]
    assert summarise(simulate(build({"name": "t", **settings, "phase": phases}, "test"))).totals.processed > 0


def test_pace_holds_the_targets_of_the_step_scenario_in_the_model() -> None:
    for distribution, least, most_ms in (("fixed", 0.99, 250), ("exponential", 0.98, 450)):
        summary = summarise(simulate(library.load("steps", (f"consumer.distribution={distribution}",), "pace")))
        assert (summary.utilisation or 0) >= least
        assert (summary.wait_ms.p99 or 1e9) <= most_ms
        assert summary.totals.rejected == 0


def test_a_thousand_producers_are_modelled_as_groups_and_share_evenly() -> None:
    changes = ("producer.count=1000", "producer.rate=10", "consumer.rate=5000", "phase.normal.duration_s=5")
    recording = simulate(library.load("normal", changes))
    assert len(recording.processes) == MODELLED_PRODUCERS
    summary = summarise(recording)
    assert (summary.utilisation or 0) > 0.9
    assert (summary.fairness_jain or 0) > 0.95


def test_the_oracle_wastes_nothing_and_waits_one_service() -> None:
    summary = oracle(library.load("normal"))
    assert (summary.utilisation or 0) > 0.995
    assert summary.wait_ms.max == pytest.approx(10, abs=2.5)


def test_no_law_beats_the_oracle() -> None:
    scenario = library.load("steps")
    best = oracle(scenario)
    pace = summarise(simulate(scenario))
    assert (best.utilisation or 0) >= (pace.utilisation or 0)
    assert (best.wait_ms.p50 or 0) <= (pace.wait_ms.p50 or 0)


def test_the_model_works_as_long_on_each_message_as_the_first_real_consumer() -> None:
    settings = library.load("normal", ("consumer.distribution=exponential",)).settings
    queue = WorkQueue(service_times(7), QueueBound())
    queue.set_workers(workers_of(settings), 0.0, lambda: 0.0)
    for _ in range(5):
        queue.arrive(0.0)
    queue.advance(10.0)
    real = random.Random(process_seed(7, "consumer-1"))
    assert list(queue.done_s) == pytest.approx(list(accumulate(real.expovariate(100) for _ in range(5))))


def test_what_is_done_about_refusals_may_change_at_a_phase() -> None:
    document = {
        "name": "t",
        "producer": {"rate": 500.0, "strategy": "unbounded", "on_nack": "retry"},
        "queue": {"max_length": 10},
        "phase": [
            {"name": "kept", "duration_s": 5.0},
            {"name": "given-up", "duration_s": 5.0, "producer": {"on_nack": "reject"}},
        ],
    }
    kept, given_up = (
        summarise(simulate(build(document | {"phase": document["phase"][:number]}, "test"))) for number in (1, 2)
    )
    assert kept.totals.rejected == 0
    assert given_up.totals.rejected == pytest.approx(5 * 400, rel=0.1)


def test_strangers_are_simulated_as_the_scenario_describes_them() -> None:
    changes = ("consumer.count=2", "strangers.count=1", "strangers.prefetch=250", "producer.strategy=unbounded")
    samples = simulate(library.load("normal", changes)).samples
    assert samples[-1].unacked == pytest.approx(250, abs=10)  # and a few of the other one


def test_strangers_do_not_change_a_simulation_without_them() -> None:
    with_table = ("strangers.prefetch=5", "strangers.evidence=collected")
    first, second = (summarise(simulate(library.load("jitter", changes))) for changes in ((), with_table))
    assert first == second
