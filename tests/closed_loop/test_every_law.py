"""Every law under every kind of stress: it never starves forever, never diverges, and respects floor and ceiling."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from backpressure.core.controllers import LAWS
from backpressure.core.plant import Network, Plant, QueueBound, Strangers, Workers

BOUND = 2000
CONTROLLED = [law for law in LAWS if law not in {"unbounded", "bounded", "rate_limited"}]


def processed_per_s(plant: Plant, duration_s: float) -> float:
    before = plant.queue.processed
    plant.run(duration_s)
    return (plant.queue.processed - before) / duration_s


@pytest.fixture(params=CONTROLLED)
def law(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_steps_up_and_down_are_followed_and_the_queue_comes_back(lab: Any, law: str) -> None:
    plant = lab.plant(1, workers=Workers(distribution="exponential"), queue=QueueBound(max_length=BOUND))
    lab.join(plant, law)
    for capacity in (100, 150, 300, 120):
        plant.set_workers(Workers(rate_per_s=capacity, distribution="exponential"))
        plant.run(60)
        assert processed_per_s(plant, 20) == pytest.approx(capacity, rel=0.2)
    assert plant.queue.depth < BOUND


def test_a_ramp_is_followed(lab: Any, law: str) -> None:
    plant = lab.plant(2, queue=QueueBound(max_length=BOUND))
    lab.join(plant, law)
    plant.run(20)
    for second in range(100):
        plant.set_workers(Workers(rate_per_s=100.0 + 2 * second))
        plant.run(1)
    assert processed_per_s(plant, 5) > 0.5 * 298


def test_after_a_stop_it_sends_again(lab: Any, law: str) -> None:
    plant = lab.plant(3, queue=QueueBound(max_length=BOUND))
    lab.join(plant, law)
    plant.run(10)
    plant.set_workers(Workers(state="frozen"))
    plant.run(10)
    plant.set_workers(Workers())
    plant.run(60)
    assert processed_per_s(plant, 20) > 80


@pytest.mark.parametrize(
    "trouble", [{"report_loss": 0.5}, {"report_delay_s": 0.5, "probe_delay_s": 0.5}, {"probe": False}]
)
def test_late_and_lost_signals_cost_wait_but_not_the_loop(lab: Any, law: str, trouble: dict[str, Any]) -> None:
    plant = lab.plant(4, workers=Workers(distribution="exponential"), queue=QueueBound(max_length=BOUND))
    plant.network = Network(**trouble)
    lab.join(plant, law)
    plant.run(60)
    # Without depth, the laws that know nothing but depth cannot be held to anything but going on.
    least = 20 if not plant.network.probe and law not in {"pace", "pid"} else 60 if law == "vegas" else 70
    assert processed_per_s(plant, 30) > least
    assert plant.queue.depth <= BOUND + 3


def test_with_every_signal_gone_it_stays_finite_and_recovers_when_they_return(lab: Any, law: str) -> None:
    plant = lab.plant(5, queue=QueueBound(max_length=BOUND))
    lab.join(plant, law)
    plant.run(20)
    plant.network = Network(report_loss=1.0, probe=False)
    plant.run(20)
    assert plant.queue.depth <= BOUND + 3
    plant.network = Network()
    plant.producers[0].next_reading_s = plant.now
    plant.run(40)
    assert processed_per_s(plant, 20) > 70


def test_a_blocked_broker_is_waited_out(lab: Any, law: str) -> None:
    plant = lab.plant(6, queue=QueueBound(max_length=BOUND))
    lab.join(plant, law)
    plant.run(30)
    plant.set_queue(QueueBound(max_length=BOUND, blocked=True))
    plant.run(10)
    assert plant.queue.depth == 0 or law == "threshold"
    plant.set_queue(QueueBound(max_length=BOUND))
    plant.run(30)
    assert processed_per_s(plant, 20) > 70


def test_foreign_consumers_are_followed_by_the_probe_alone(lab: Any, law: str) -> None:
    plant = lab.plant(7, workers=Workers(strangers=Strangers(count=1, prefetch=3)), queue=QueueBound(max_length=BOUND))
    lab.join(plant, law)
    plant.run(60)
    least = 0.5 if law == "pid" else 80  # without busy times PID follows what it sends itself: it lives at its floor
    assert processed_per_s(plant, 30) > least
    assert plant.queue.depth < BOUND


def test_several_producers_join_and_leave_and_the_queue_stays_in_use(lab: Any, law: str) -> None:
    plant = lab.plant(8, workers=Workers(rate_per_s=400), queue=QueueBound(max_length=BOUND))
    crowd = [lab.join(plant, law) for _ in range(2)]
    plant.run(20)
    crowd += [lab.join(plant, law) for _ in range(4)]
    plant.run(30)
    for producer in crowd[:3]:
        plant.remove_producer(producer)
    plant.run(30)
    assert processed_per_s(plant, 20) > 320
    assert plant.queue.depth <= BOUND + 3


@pytest.mark.parametrize("name", LAWS)
def test_no_decision_ever_leaves_floor_and_ceiling(lab: Any, name: str) -> None:
    plant = lab.plant(9, queue=QueueBound(max_length=50))
    lab.join(plant, name, floor_per_s=40.0, ceiling_per_s=150.0)
    rates = []
    for workers in (
        Workers(),
        Workers(rate_per_s=10),
        Workers(state="paused"),
        Workers(count=0),
        Workers(rate_per_s=500),
    ):
        plant.set_workers(workers)
        plant.run(10)
        rates += [rate for sample in plant.samples for rate in sample.rates_per_s]
    assert rates
    assert all(40.0 <= rate <= 150.0 for rate in rates if rate > 0)


def test_unbounded_grows_forever_and_bounded_up_to_the_bound(lab: Any) -> None:
    depths = {}
    for name in ("unbounded", "bounded"):
        plant = lab.plant(10, queue=QueueBound(max_length=None if name == "unbounded" else 500))
        lab.join(plant, name)
        plant.run(10)
        depths[name] = plant.queue.depth
    assert depths["unbounded"] == pytest.approx(9000, rel=0.05)
    assert depths["bounded"] == pytest.approx(503, abs=1)


def test_the_fixed_rate_is_right_for_one_capacity_only(lab: Any) -> None:
    plant = lab.plant(11, workers=Workers(rate_per_s=200))
    lab.join(plant, "rate_limited", parameters={"rate_per_s": 120.0})
    assert processed_per_s(plant, 20) == pytest.approx(120, rel=0.02)
    plant.set_workers(Workers(rate_per_s=60))
    plant.run(20)
    assert plant.queue.depth == pytest.approx(20 * 60, rel=0.05)


def test_without_a_limit_the_rate_is_infinite(lab: Any) -> None:
    plant = lab.plant(12)
    producer = lab.join(plant, "unbounded")
    plant.run(1)
    assert producer.decision.rate_per_s == inf
