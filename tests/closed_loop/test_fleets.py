"""Fleets: reports of a queue cost a bounded number of deliveries, and the pace is kept and shared all the same."""

from __future__ import annotations

from backpressure.core.plant import Workers
from backpressure.core.plant.loop import Plant
from backpressure.core.reports import Report

from .conftest import Lab

CAPACITY_PER_S = 2000.0
CONSUMERS, PRODUCERS = 60, 30


def rate_of(workers: int, capacity_per_s: float) -> Workers:
    return Workers(count=workers, rate_per_s=capacity_per_s / workers)


def paced(lab: Lab, consumers: int, producers: int) -> list[tuple[float, float]]:
    """Return utilisation and p99 wait of a cold start, of what follows, and after a fall to a fifth."""
    plant = lab.plant(1, workers=rate_of(consumers, CAPACITY_PER_S), step_s=0.01)
    for _ in range(producers):
        lab.join(plant, "pace", demand_per_s=4 * CAPACITY_PER_S / producers)
    found = []
    for seconds, capacity_per_s in ((4.0, CAPACITY_PER_S), (6.0, CAPACITY_PER_S), (8.0, CAPACITY_PER_S / 5)):
        plant.set_workers(rate_of(consumers, capacity_per_s))
        busy_s, begun = plant.queue.busy_s, len(plant.queue.waits_s)
        plant.run(seconds)
        waits = sorted(plant.queue.waits_s[begun:])
        found.append(((plant.queue.busy_s - busy_s) / consumers / seconds, waits[int(0.99 * len(waits))]))
    return found


def test_a_fleet_whose_reports_are_seconds_old_finds_and_keeps_the_pace(lab: Lab) -> None:
    """It asks the broker what consumers hold, and takes others to send as it does; neither idles nor floods."""
    start, steady, down = paced(lab, CONSUMERS, PRODUCERS)
    assert start[0] >= 0.93
    assert steady[0] >= 0.97
    assert steady[1] <= 0.1
    assert down[0] >= 0.98
    assert down[1] <= 2.0


def test_a_fleet_of_ninety_keeps_the_pace_and_shares_it_with_few_reports(lab: Lab) -> None:
    reports: list[Report] = []

    class Counting(Plant):
        def _post(self, report: Report) -> None:
            reports.append(report)
            super()._post(report)

    plant = Counting(lab.plant(1)._uniform, workers=Workers(count=CONSUMERS, rate_per_s=CAPACITY_PER_S / CONSUMERS))
    fleet = [lab.join(plant, "pace", demand_per_s=2 * CAPACITY_PER_S / PRODUCERS) for _ in range(PRODUCERS)]
    plant.run(5.0)
    settled, sent, begun = len(reports), [each.arrived for each in fleet], plant.samples[-1].processed
    plant.run(10.0)
    shares = [each.arrived - before for each, before in zip(fleet, sent, strict=True)]
    assert (len(reports) - settled) / 10 * (PRODUCERS + 1) <= 2200  # about 2000, from intervals that vary
    assert (plant.samples[-1].processed - begun) / 10 >= 0.9 * CAPACITY_PER_S
    assert max(sample.depth for sample in plant.samples[-100:]) <= 0.3 * CAPACITY_PER_S
    assert sum(shares) ** 2 / len(shares) / sum(share * share for share in shares) >= 0.98
