"""Fleets: reports of a queue cost a bounded number of deliveries, and the pace is kept and shared all the same."""

from __future__ import annotations

import pytest

from backpressure.core.plant import Network, Workers
from backpressure.core.plant.loop import Plant
from backpressure.core.reports import Report
from backpressure.core.sums import FleetSum

from .conftest import Lab

CAPACITY_PER_S = 2000.0
CONSUMERS, PRODUCERS = 60, 30


def rate_of(workers: int, capacity_per_s: float) -> Workers:
    return Workers(count=workers, rate_per_s=capacity_per_s / workers)


def test_a_fleet_whose_reports_are_seconds_old_finds_and_keeps_the_pace(lab: Lab) -> None:
    """It asks the broker what consumers hold, and takes others to send as it does; neither idles nor floods."""
    consumers, capacity_per_s = 40, 400.0
    plant = lab.plant(1, workers=rate_of(consumers, capacity_per_s), step_s=0.01)
    for _ in range(30):
        lab.join(plant, "pace", demand_per_s=100.0)
    found = []
    for seconds, rate_per_s in ((3.0, capacity_per_s), (4.0, capacity_per_s), (5.0, capacity_per_s / 5)):
        plant.set_workers(rate_of(consumers, rate_per_s))
        busy_s = plant.queue.busy_s
        plant.run(seconds)
        used = (plant.queue.busy_s - busy_s) / consumers / seconds
        found.append((used, max(sample.depth for sample in plant.samples if sample.at_s > plant.now - seconds)))
    (start, _), (steady, deepest), (down, left) = found
    assert start >= 0.9
    assert steady >= 0.97
    assert deepest <= 0.5 * capacity_per_s
    assert down >= 0.98
    assert left <= 1.0 * capacity_per_s


def test_a_fleet_of_ninety_keeps_the_pace_and_shares_it_with_few_reports(lab: Lab) -> None:
    reports: list[Report | FleetSum] = []

    class Counting(Plant):
        def _post(self, report: Report | FleetSum) -> None:
            reports.append(report)
            super()._post(report)

    plant = Counting(lab.plant(1)._uniform, workers=Workers(count=CONSUMERS, rate_per_s=CAPACITY_PER_S / CONSUMERS))
    fleet = [lab.join(plant, "pace", demand_per_s=2 * CAPACITY_PER_S / PRODUCERS) for _ in range(PRODUCERS)]
    plant.run(5.0)
    reports.clear()
    heard, sent, begun = (
        sum(each.heard for each in fleet),
        [each.arrived for each in fleet],
        plant.samples[-1].processed,
    )
    plant.run(10.0)
    shares = [each.arrived - before for each, before in zip(fleet, sent, strict=True)]
    monitored = sum(not isinstance(report, FleetSum) for report in reports)
    assert (sum(each.heard for each in fleet) - heard + monitored) / 10 <= 2000
    assert (plant.samples[-1].processed - begun) / 10 >= 0.98 * CAPACITY_PER_S
    assert max(sample.depth for sample in plant.samples[-100:]) <= 0.1 * CAPACITY_PER_S
    assert sum(shares) ** 2 / len(shares) / sum(share * share for share in shares) >= 0.99


def test_a_fleet_does_not_miss_those_who_added_up_for_it(lab: Lab) -> None:
    plant = lab.plant(1, workers=rate_of(40, 400.0), step_s=0.01)
    fleet = [lab.join(plant, "pace", demand_per_s=100.0) for _ in range(30)]
    plant.run(4.0)
    assert [each.board.fleet.adds_up for each in fleet] == [True, True, *[False] * 28]
    for _ in range(2):
        plant.remove_producer(plant.producers[0], silently=True)
        busy_s = plant.queue.busy_s
        plant.run(4.0)
        assert (plant.queue.busy_s - busy_s) / 40 / 4.0 >= 0.975
        assert max(sample.depth for sample in plant.samples[-40:]) <= 150
        assert sum(each.board.fleet.listens for each in plant.producers) == 2
        assert plant.producers[0].board.fleet.adds_up


def test_when_both_who_added_up_are_gone_nobody_takes_itself_for_alone(lab: Lab) -> None:
    """All others listen then, and have heard of nobody for a moment."""
    plant = lab.plant(1, workers=rate_of(40, 400.0), step_s=0.01)
    for _ in range(30):
        lab.join(plant, "pace", demand_per_s=100.0)
    plant.run(8.0)
    for gone in [each for each in plant.producers if each.board.fleet.adds_up]:
        plant.remove_producer(gone, silently=True)
    busy_s = plant.queue.busy_s
    plant.run(4.0)
    assert (plant.queue.busy_s - busy_s) / 40 / 4.0 >= 0.95
    assert max(sample.depth for sample in plant.samples[-40:]) <= 150
    assert sum(each.board.fleet.adds_up for each in plant.producers) == 2


@pytest.mark.parametrize("counted", [True, False])
def test_a_fleet_paces_slow_consumers_that_are_in_step_evenly(lab: Lab, counted: bool) -> None:
    """All take half a second for a message, and begin together; neither rate nor depth is taken from the phase."""
    consumers, capacity_per_s = 200, 400.0
    plant = lab.plant(1, workers=rate_of(consumers, capacity_per_s), network=Network(counted=counted), step_s=0.02)
    for _ in range(50):
        lab.join(plant, "pace", demand_per_s=80.0)
    told: list[list[float]] = []
    for seconds, factor in ((6.0, 1.0), (6.0, 1.0), (4.0, 0.2), (2.0, 0.2)):
        plant.set_workers(rate_of(consumers, factor * capacity_per_s))
        told.append([])
        for _ in range(round(10 * seconds)):
            plant.run(0.1)
            rates = [each.decision.bottleneck_per_s or 0.0 for each in plant.producers]
            told[-1].append(sum(rates) / len(rates))
    _, steady, _, down = told
    assert steady == pytest.approx([capacity_per_s] * len(steady), rel=0.1)
    assert down == pytest.approx([capacity_per_s / 5] * len(down), rel=0.1)


def test_a_fleet_whose_sums_are_rare_follows_a_fall_and_a_rise_at_once(lab: Lab) -> None:
    """Consumers that see the change report before their turn, and what is learnt from them is told without delay."""
    consumers, capacity_per_s = 60, 6000.0
    plant = lab.plant(1, workers=rate_of(consumers, capacity_per_s), step_s=0.02)
    fleet = [lab.join(plant, "pace", demand_per_s=100.0) for _ in range(300)]
    plant.run(7.0)
    assert sum(each.board.fleet.listens for each in fleet) == 2
    plant.set_workers(rate_of(consumers, capacity_per_s / 5))
    plant.run(3.0)
    deepest = max(sample.depth for sample in plant.samples[-30:])
    plant.set_workers(rate_of(consumers, capacity_per_s / 5 * 3))
    served = plant.samples[-1].processed
    plant.run(3.0)
    assert deepest <= 0.25 * capacity_per_s
    assert plant.samples[-1].processed - served >= 0.85 * 3 * capacity_per_s / 5 * 3
