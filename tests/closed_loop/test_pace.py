"""The law `pace` reaches its documented figures in simulation."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.core.controllers.pace import wait_bound_s
from backpressure.core.plant import Network, Plant, QueueBound, Strangers, Workers


def jain(values: list[float]) -> float:
    return sum(values) ** 2 / len(values) / sum(value**2 for value in values)


def rates(plant: Plant, duration_s: float) -> list[float]:
    before = [producer.arrived for producer in plant.producers]
    plant.run(duration_s)
    return [(producer.arrived - start) / duration_s for producer, start in zip(plant.producers, before, strict=True)]


def test_steps_with_fixed_service(lab: Any) -> None:
    outcome = lab.median_of_three(lambda seed: lab.steps("pace", "fixed", seed))
    assert outcome.utilisation >= 0.99
    assert outcome.p99_s <= 0.1
    assert outcome.settle_s[1] <= 2.0
    assert outcome.settle_s[2] <= 1.0
    assert outcome.rejected == 0


def test_steps_with_exponential_service(lab: Any) -> None:
    outcome = lab.median_of_three(lambda seed: lab.steps("pace", "exponential", seed))
    assert outcome.utilisation >= 0.985
    assert outcome.p99_s <= 0.45
    assert outcome.settle_s[1] <= 3.0
    assert outcome.settle_s[2] <= 2.0
    assert outcome.rejected == 0


@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
def test_steps_seen_by_the_probe_alone(lab: Any, distribution: str) -> None:
    def run(seed: int) -> Any:
        workers = Workers(distribution=distribution, strangers=Strangers(count=1, prefetch=1))
        plant = lab.plant(seed, workers=workers)
        lab.join(plant, "pace")
        return lab.phases(plant, [(100, 20), (20, 20), (100, 20), (300, 20), (100, 20)], workers)

    outcome = lab.median_of_three(run)
    assert outcome.utilisation >= 0.98
    assert outcome.p99_s <= 0.45


@pytest.mark.parametrize("distribution", ["fixed", "exponential", "uniform"])
@pytest.mark.parametrize("capacity_per_s", [50, 500, 5000])
def test_at_any_capacity_the_wait_is_near_its_bound(lab: Any, capacity_per_s: float, distribution: str) -> None:
    """Prints the second table of docs/pace-law.md."""

    def run(seed: int) -> Any:
        workers = Workers(rate_per_s=capacity_per_s, distribution=distribution)  # type: ignore[arg-type]  # a literal
        plant = lab.plant(seed, workers=workers)
        lab.join(plant, "pace", 10 * capacity_per_s)
        plant.run(5)
        return lab.phases(plant, [(capacity_per_s, min(30, 50_000 / capacity_per_s))], workers)

    outcome = lab.median_of_three(run)
    cv2 = {"fixed": 0.0, "uniform": 0.25 / 3, "exponential": 1.0}[distribution]
    bound_s = wait_bound_s(capacity_per_s, cv2, feedback_age_s=0.005)  # decided right after a report, 5 ms on the way
    wait_s = outcome.phase_p99_s[0]
    print(  # noqa: T201 - a table for the page
        f"\n{distribution:<12}{capacity_per_s:5.0f}/s  utilisation {outcome.utilisation:.3f}"
        f"  p99 {wait_s * 1e3:4.0f} ms  bound {bound_s * 1e3:4.0f} ms"
    )
    assert outcome.utilisation >= 0.99
    assert wait_s <= 1.5 * bound_s


@pytest.mark.parametrize("state", ["paused", "frozen", "gone"])
@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
def test_a_stop_queues_at_most_half_a_second_and_the_return_takes_one(lab: Any, state: str, distribution: str) -> None:
    plant = lab.plant(2, workers=Workers(distribution=distribution))
    lab.join(plant, "pace")
    plant.run(20)
    stopped = Workers(count=0) if state == "gone" else Workers(distribution=distribution, state=state)  # type: ignore[arg-type]  # a literal
    plant.set_workers(stopped)
    plant.run(5)
    assert plant.queue.depth <= 50
    plant.set_workers(Workers(distribution=distribution))
    plant.run(1)
    busy_s = plant.queue.busy_s
    plant.run(3)
    assert plant.queue.busy_s - busy_s >= 0.9 * 3


@pytest.mark.parametrize("count", [2, 4, 8, 16])
@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
@pytest.mark.parametrize("silently", [False, True], ids=["leave", "vanish"])
def test_producers_that_join_and_leave_end_with_equal_shares(
    lab: Any, count: int, distribution: str, silently: bool
) -> None:
    plant = lab.plant(count, workers=Workers(rate_per_s=300, distribution=distribution))
    first = [lab.join(plant, "pace") for _ in range(count // 2)]
    plant.run(10)
    for _ in range(count - count // 2):
        lab.join(plant, "pace")
    plant.run(5)
    assert jain(rates(plant, 5)) >= 0.98
    for producer in first:
        plant.remove_producer(producer, silently=silently)
    plant.run(5)
    busy_s = plant.queue.busy_s
    assert jain(rates(plant, 5)) >= 0.98
    assert plant.queue.busy_s - busy_s >= 0.98 * 5


def test_what_a_producer_leaves_is_used_by_the_others_at_once(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=300))
    leaving = [lab.join(plant, "pace") for _ in range(8)][2:]
    plant.run(10)
    for producer in leaving:
        plant.remove_producer(producer)
    busy_s = plant.queue.busy_s
    plant.run(2)
    assert plant.queue.busy_s - busy_s >= 0.98 * 2


def test_shares_follow_weights_and_the_application_limited_keep_what_they_need(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=300))
    for demand_per_s, weight in [(1000, 1), (1000, 2), (30, 1), (1000, 3)]:
        lab.join(plant, "pace", demand_per_s, weight=weight)
    plant.run(10)
    assert rates(plant, 20) == pytest.approx([45, 90, 30, 135], rel=0.03)


def test_when_all_are_application_limited_all_get_what_they_ask_for(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=300))
    for demand_per_s in (30, 50, 100):
        lab.join(plant, "pace", demand_per_s)
    plant.run(5)
    assert rates(plant, 20) == pytest.approx([30, 50, 100], rel=0.03)
    assert max(plant.queue.waits_s) < 0.1


def test_after_an_idle_time_it_does_not_burst(lab: Any) -> None:
    plant = lab.plant(1)
    producer = lab.join(plant, "pace")
    plant.run(10)
    producer.demand_per_s = 5.0
    plant.run(30)
    producer.demand_per_s = 1000.0
    before = len(plant.samples)
    plant.run(10)
    assert max(sample.depth for sample in plant.samples[before:]) <= 30


@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_lost_reports_cost_little(lab: Any, loss: float) -> None:
    outcome = lab.median_of_three(lambda seed: lab.steps("pace", "fixed", seed, network=Network(report_loss=loss)))
    assert outcome.utilisation >= 0.985
    assert outcome.p99_s <= 0.25


@pytest.mark.parametrize(("age_s", "p99_s"), [(0.1, 0.65), (0.2, 1.2)])
def test_older_signals_cost_wait_in_proportion(lab: Any, age_s: float, p99_s: float) -> None:
    network = Network(report_delay_s=age_s, probe_delay_s=age_s)
    outcome = lab.median_of_three(lambda seed: lab.steps("pace", "exponential", seed, network=network))
    assert outcome.utilisation >= 0.97
    assert outcome.p99_s <= p99_s


@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
def test_consumers_that_come_and_go_are_followed(lab: Any, distribution: str) -> None:
    plant = lab.plant(3, workers=Workers(count=4, distribution=distribution))
    lab.join(plant, "pace", 5000.0)
    for count in (4, 1, 16, 2):
        plant.set_workers(Workers(count=count, distribution=distribution))
        plant.run(10)
        busy_s = plant.queue.busy_s
        plant.run(10)
        assert plant.queue.busy_s - busy_s >= 0.95 * 10 * count
    waits = sorted(plant.queue.waits_s)
    assert waits[int(0.99 * len(waits))] <= 1.5


def test_a_small_bound_is_respected_without_refusals_forever(lab: Any) -> None:
    plant = lab.plant(4, queue=QueueBound(max_length=10), workers=Workers(distribution="exponential"))
    producer = lab.join(plant, "pace")
    plant.run(60)
    nacked, processed = producer.nacked, plant.queue.processed
    plant.run(60)
    assert plant.queue.processed - processed >= 0.85 * 6000
    assert producer.nacked - nacked <= 0.01 * 6000


def test_a_producer_that_does_not_report_is_left_room(lab: Any) -> None:
    plant = lab.plant(5)
    lab.join(plant, "pace")
    stranger = lab.join(plant, "rate_limited", parameters={"rate_per_s": 50.0})
    stranger.next_report_s = float("inf")
    plant.run(30)
    warm = len(plant.queue.waits_s)
    own, foreign = rates(plant, 30)
    assert foreign == pytest.approx(50, rel=0.02)
    assert own == pytest.approx(50, rel=0.05)
    assert sorted(plant.queue.waits_s[warm:])[-20] <= 0.3
