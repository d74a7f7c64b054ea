"""Fleets: reports of a queue cost a bounded number of deliveries, and the pace is kept and shared all the same."""

from __future__ import annotations

from backpressure.core.plant import Workers
from backpressure.core.plant.loop import Plant
from backpressure.core.reports import Report

from .conftest import Lab

CAPACITY_PER_S = 2000.0
CONSUMERS, PRODUCERS = 60, 30


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
