"""The law `pace` under real loads: calm before a surge, slow consumers, no signals, producers that use too little."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import pytest

from backpressure.core.board import SignalBoard
from backpressure.core.controllers import LawConfig, create
from backpressure.core.plant import Network, Plant, Workers
from backpressure.core.reports import Report


def p99(waits_s: Any) -> float:
    return sorted(waits_s)[int(0.99 * len(waits_s))]


def deepest(plant: Plant, since: int) -> int:
    return max(sample.depth for sample in plant.samples[since:])


@pytest.mark.parametrize("calm", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_surge_after_calm_finds_a_short_queue_and_leaves_one(
    lab: Any, calm: float, distribution: str, count: int
) -> None:
    plant = lab.plant(1, workers=Workers(count=count, rate_per_s=100 / count, distribution=distribution))
    producer = lab.join(plant, "pace", 100 * calm)
    plant.run(30)
    before, served, busy_s = len(plant.samples), len(plant.queue.waits_s), plant.queue.busy_s
    producer.demand_per_s = 1000.0
    plant.run(20)
    assert plant.queue.busy_s - busy_s >= 0.97 * 20 * count
    assert deepest(plant, before) <= 75
    assert p99(plant.queue.waits_s[served:]) <= 0.6


@pytest.mark.parametrize(("rate_per_s", "most"), [(0.2, 6), (1.0, 8), (5.0, 12)])
def test_a_slow_consumer_is_not_flooded_at_the_start(lab: Any, rate_per_s: float, most: int) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=rate_per_s, prefetch=1))
    lab.join(plant, "pace")
    plant.run(200)
    assert deepest(plant, 0) <= most
    assert plant.queue.busy_s >= 0.97 * 200 - 1


@pytest.mark.parametrize(("rate_per_s", "longest_s"), [(20.0, 0.09), (50.0, 0.04), (100.0, 0.025)])
def test_a_cold_start_takes_a_regular_consumer_for_one_at_once(lab: Any, rate_per_s: float, longest_s: float) -> None:
    longest = []
    for seed in range(1, 7):
        plant = lab.plant(seed, workers=Workers(rate_per_s=rate_per_s))
        lab.join(plant, "pace")
        plant.run(3)
        longest.append(max(plant.queue.waits_s))
    assert sum(longest) / len(longest) <= longest_s


def test_when_all_producers_lose_all_signals_they_do_not_all_take_everything(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=300))
    for _ in range(16):
        lab.join(plant, "pace")
    plant.run(15)
    before = len(plant.samples)
    plant.network = Network(report_loss=1.0, probe=False)
    plant.run(10)
    assert deepest(plant, before) <= 300


@pytest.mark.parametrize("interval_s", [0.25, 1.0])
def test_rare_reports_cost_wait_and_no_stability(lab: Any, interval_s: float) -> None:
    network = Network(report_interval_s=interval_s, timeout_s=max(2.0, 5 * interval_s))
    plant = lab.plant(1, network=network)
    lab.join(plant, "pace", report_interval_s=interval_s)
    plant.run(10)
    before, busy_s = len(plant.samples), plant.queue.busy_s
    plant.run(50)
    assert plant.queue.busy_s - busy_s >= 0.97 * 50
    assert deepest(plant, before) <= 60


def test_what_a_rival_may_not_use_is_used_by_the_others(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=300))
    lab.join(plant, "pace")
    capped = lab.join(plant, "pace", ceiling_per_s=30.0)
    fixed = lab.join(plant, "rate_limited", parameters={"rate_per_s": 20.0})
    plant.run(15)
    before, busy_s = [capped.arrived, fixed.arrived], plant.queue.busy_s
    plant.run(20)
    assert plant.queue.busy_s - busy_s >= 0.98 * 20
    assert capped.arrived - before[0] == pytest.approx(600, rel=0.05)
    assert fixed.arrived - before[1] == pytest.approx(400, rel=0.05)


def test_producers_that_join_in_stages_waste_nothing_between_them(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=300))
    for wanted in (2, 4, 8, 16):
        while len(plant.producers) < wanted:
            lab.join(plant, "pace", 300.0)
        plant.run(10)
        busy_s = plant.queue.busy_s
        plant.run(10)
        assert plant.queue.busy_s - busy_s >= 0.99 * 10


def test_a_weight_that_changes_moves_the_shares(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=300))
    heavier, other = lab.join(plant, "pace"), lab.join(plant, "pace")
    plant.run(10)
    heavier.change(weight=2.0, retry=True, burst_s=0.1, now=plant.now)
    plant.run(10)
    before = heavier.arrived, other.arrived
    plant.run(20)
    assert heavier.arrived - before[0] == pytest.approx(4000, rel=0.03)
    assert other.arrived - before[1] == pytest.approx(2000, rel=0.03)


@pytest.mark.parametrize("rate_per_s", [100.0, 500.0, 5000.0])
@pytest.mark.parametrize("still_s", [0.05, 0.12, 0.3])
def test_a_hanging_broker_costs_that_time_and_leaves_no_queue(lab: Any, rate_per_s: float, still_s: float) -> None:
    times, prefetch = 5, 3 + int(0.02 * rate_per_s)
    plant = lab.plant(1, workers=Workers(rate_per_s=rate_per_s, prefetch=prefetch))
    lab.join(plant, "pace", 10 * rate_per_s)
    plant.run(10)
    served, processed = len(plant.queue.waits_s), plant.queue.processed
    for _ in range(times):
        plant.stand_still()
        plant.run(still_s)
        plant.go_on()
        plant.run(2 - still_s)
    lost_s = 2 - (plant.queue.processed - processed) / times / rate_per_s
    assert lost_s <= still_s
    late = sum(wait_s > 0.03 + 2 / rate_per_s for wait_s in plant.queue.waits_s[served:]) / times
    assert late <= 5 + rate_per_s * (0.03 + 0.3 * still_s)  # what was sent meanwhile, and not what is sent in a second


@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
@pytest.mark.parametrize("later_s", [0.0, 0.4, 1.0, 2.0])
def test_consumers_that_come_back_later_than_producers_after_an_outage_are_busy_at_once(
    lab: Any, distribution: str, later_s: float
) -> None:
    """As after a Kafka broker was cut off: each client finds the new leader at a time of its own."""
    lost_s = []
    for seed in range(1, 6):
        workers = Workers(rate_per_s=200, prefetch=7, distribution=distribution)  # type: ignore[arg-type]  # a literal
        plant = lab.plant(seed, workers=workers)
        lab.join(plant, "pace", 300.0)
        plant.run(10)
        plant.cut()
        plant.run(2.7)
        plant.connect(0.0)
        away = plant.queue.hang(1)
        plant.run(later_s)
        waiting, busy_s = len(plant.samples), plant.queue.busy_s
        plant.queue.go_on(away, plant.now)
        plant.run(3)
        lost_s.append(3 - plant.queue.busy_s + busy_s)
        assert deepest(plant, waiting) <= 75
    assert median(lost_s) <= 0.1


class HesitantCommits(Plant):
    """Its queue is a topic whose commits are not taken while ``left``, what was committed before, is not None."""

    left: int | None = None

    def _reading(self, board: SignalBoard) -> Callable[[], None]:
        queue = self.queue
        left = queue.left if self.left is None else self.left
        ready = len(queue.ready) + queue.left - left
        return partial(board.on_reading, ready, queue.unacked, len(queue.consumers), self.now, left=left)


@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
@pytest.mark.parametrize(("still_s", "later_s"), [(0.4, 0.3), (0.4, 1.0), (0.0, 0.5), (0.0, 3.0)])
def test_commits_that_stall_do_not_look_like_a_growing_queue(distribution: str, still_s: float, later_s: float) -> None:
    """As when a Kafka broker joins the others again, or the one that takes the commits is replaced."""
    lost_s = []
    for seed in range(1, 8):
        workers = Workers(rate_per_s=200, prefetch=7, distribution=distribution)  # type: ignore[arg-type]  # a literal
        plant = HesitantCommits(random.Random(seed).random, workers=workers)
        plant.add_producer(create("pace", LawConfig()), 300.0)
        plant.run(10)
        plant.left = plant.queue.left
        plant.stand_still()
        plant.run(still_s)
        plant.go_on()
        busy_s = plant.queue.busy_s
        plant.run(later_s)
        plant.left = None
        plant.run(2)
        lost_s.append(later_s + 2 - plant.queue.busy_s + busy_s)
    assert median(lost_s) <= 0.1 * (1 + later_s)


def test_a_consumer_that_hangs_while_its_commits_stall_gets_no_more() -> None:
    plant = HesitantCommits(random.Random(1).random, workers=Workers(rate_per_s=200, prefetch=7))
    plant.add_producer(create("pace", LawConfig()), 300.0)
    plant.run(10)
    plant.left = plant.queue.left
    plant.run(0.5)
    before = len(plant.samples)
    plant.queue.hang(1)
    plant.run(5)
    assert deepest(plant, before) <= 75


class Answering(Plant):
    """Its consumers know all that they hold; the broker tells what they hold whenever a producer wants to know."""

    def _post(self, report: Report) -> None:
        super()._post(replace(report, rss_bytes=1))

    def _reading(self, board: SignalBoard) -> Callable[[], None]:
        tell_ready, tell_held = super()._reading(board), self._counting(board)

        def tell() -> None:
            tell_ready()
            if board.wants_counts(1, 1):
                tell_held()

        return tell


@pytest.mark.parametrize(("prefetch", "slow_per_s", "unheard_s"), [(11, 40.0, 0.6), (20, 100.0, 0.3), (30, 20.0, 0.6)])
def test_what_consumers_held_before_their_first_reports_after_an_outage_does_not_stop_the_producer(
    prefetch: int, slow_per_s: float, unheard_s: float
) -> None:
    """The broker told it; while it was taken for hidden from the reports, an idle consumer seemed to have work."""
    workers = Workers(rate_per_s=400, prefetch=prefetch)
    plant = Answering(random.Random(1).random, workers=workers)
    producer = plant.add_producer(create("pace", LawConfig()), 200.0)
    plant.run(8)
    plant.cut()
    plant.run(3)
    plant.connect(0.0)
    plant.network = Network(report_loss=1.0)
    plant.set_workers(replace(workers, rate_per_s=slow_per_s))
    plant.run(unheard_s)
    plant.network = Network()
    plant.set_workers(workers)
    before = producer.arrived
    plant.run(8)
    assert producer.arrived - before >= 0.95 * 8 * 200


def test_far_from_the_broker_the_first_messages_do_not_wait_for_those_that_are_on_their_way(lab: Any) -> None:
    """Of the first half second nothing can be known: a report takes 0.2 s, and so does what it makes the law send."""
    lost_s = []
    for seed in range(1, 6):
        workers = Workers(rate_per_s=200, prefetch=200)
        plant = lab.plant(seed, workers=workers, network=Network(way_s=0.1))
        lab.join(plant, "pace")
        plant.run(5)
        lost_s.append(5 - plant.queue.busy_s)
    assert sum(lost_s) / len(lost_s) <= 0.7


@pytest.mark.parametrize(("distribution", "used", "p99_s"), [("fixed", 0.97, 0.87), ("exponential", 0.96, 1.24)])
def test_far_from_the_broker_a_slower_consumer_gets_what_was_on_its_way_and_no_more(
    lab: Any, distribution: str, used: float, p99_s: float
) -> None:
    """Half a second passes until messages come at the new rate, whatever the law: 70 of them are too many."""
    outcomes = []
    for seed in range(1, 9):
        workers = Workers(distribution=distribution, prefetch=100)  # type: ignore[arg-type]  # a literal
        plant = lab.plant(seed, workers=workers, network=Network(way_s=0.1))
        lab.join(plant, "pace", 2000.0)
        outcomes.append(lab.phases(plant, [(200.0, 20.0), (60.0, 20.0)], workers))
    assert median(outcome.utilisation for outcome in outcomes) >= used
    assert median(outcome.p99_s for outcome in outcomes) <= p99_s
    assert median(outcome.settle_s[0] for outcome in outcomes) <= 1
    assert median(outcome.settle_s[1] for outcome in outcomes) <= 2
