"""Runs laws in a closed loop with the model, in virtual time, and collects the results."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from statistics import median
from typing import Any

import pytest

from backpressure.core.controllers import LawConfig, create, limit_of
from backpressure.core.plant import Plant, PlantProducer, Workers

STEPS = [(100.0, 20.0), (20.0, 20.0), (100.0, 20.0), (300.0, 20.0), (100.0, 20.0)]


@dataclass
class Outcome:
    """What was measured; waits and times in seconds. Settle times are one per phase."""

    utilisation: float
    p50_s: float
    p99_s: float
    max_depth: int
    rejected: int
    settle_s: list[float] = field(default_factory=list)
    phase_depth: list[int] = field(default_factory=list)
    phase_p99_s: list[float] = field(default_factory=list)


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def settle_s(plant: Plant, start_s: float, capacity_per_s: float) -> float:
    """Time until half a second's worth was processed within 10 % (and one message) of capacity, and the queue is short.

    Short: no deeper than twice the median of the rest of the phase, plus two.
    """
    samples = [sample for sample in plant.samples if sample.at_s >= start_s]
    usual = median(sample.depth for sample in samples[len(samples) // 2 :])
    for first, last in zip(samples, samples[5:], strict=False):
        expected = capacity_per_s * (last.at_s - first.at_s)
        if abs(last.processed - first.processed - expected) <= 0.1 * expected + 1 and first.depth <= 2 * usual + 2:
            return first.at_s - start_s
    return float("inf")


class Lab:
    """Builds plants with a law in them and runs them through phases of capacity."""

    def plant(self, seed: int, **changes: object) -> Plant:
        return Plant(random.Random(seed).random, **changes)  # type: ignore[arg-type]  # keyword arguments of Plant

    def join(self, plant: Plant, law: str, demand_per_s: float = 1000.0, **changes: Any) -> PlantProducer:
        weight = changes.pop("weight", 1.0)
        created = create(law, LawConfig(**changes))
        limit = min(changes.get("ceiling_per_s", inf), limit_of(created))
        return plant.add_producer(created, demand_per_s, weight=weight, own_limit_per_s=limit)

    def phases(self, plant: Plant, phases: Sequence[tuple[float, float]], workers: Workers) -> Outcome:
        """Run ``(capacity, seconds)`` one after another; ``workers`` says everything else about the consumers."""
        outcome = Outcome(0, 0, 0, 0, 0)
        worked, possible = 0.0, 0.0
        for capacity_per_s, duration_s in phases:
            plant.set_workers(replace(workers, rate_per_s=capacity_per_s / workers.count))
            start_s, busy_s, served = plant.now, plant.queue.busy_s, len(plant.queue.waits_s)
            plant.run(duration_s)
            # Work done, not messages counted: random service times would add their own noise to the figure.
            worked += (plant.queue.busy_s - busy_s) / workers.count * capacity_per_s
            possible += capacity_per_s * duration_s
            outcome.settle_s.append(settle_s(plant, start_s, capacity_per_s))
            outcome.phase_depth.append(max(s.depth for s in plant.samples if s.at_s > start_s))
            outcome.phase_p99_s.append(quantile(plant.queue.waits_s[served:], 0.99))
        outcome.utilisation = worked / possible
        outcome.p50_s, outcome.p99_s = quantile(plant.queue.waits_s, 0.5), quantile(plant.queue.waits_s, 0.99)
        outcome.max_depth = max(sample.depth for sample in plant.samples)
        outcome.rejected = plant.samples[-1].rejected
        return outcome

    def median_of_three(self, run: Callable[[int], Outcome]) -> Outcome:
        """Return figure by figure the median of three seeds."""
        runs = [run(seed) for seed in (1, 2, 3)]
        return Outcome(
            utilisation=median(r.utilisation for r in runs),
            p50_s=median(r.p50_s for r in runs),
            p99_s=median(r.p99_s for r in runs),
            max_depth=int(median(r.max_depth for r in runs)),
            rejected=max(r.rejected for r in runs),
            settle_s=[median(times) for times in zip(*(r.settle_s for r in runs), strict=True)],
            phase_depth=[int(median(depths)) for depths in zip(*(r.phase_depth for r in runs), strict=True)],
            phase_p99_s=[median(waits) for waits in zip(*(r.phase_p99_s for r in runs), strict=True)],
        )

    def steps(self, law: str, distribution: str, seed: int, **network: object) -> Outcome:
        """The shipped scenario ``steps``: demand 1000, capacity 100 → 20 → 100 → 300 → 100 msg/s."""
        workers = Workers(distribution=distribution)  # type: ignore[arg-type]  # one of the three literals
        plant = self.plant(seed, workers=workers, **network)
        self.join(plant, law)
        return self.phases(plant, STEPS, workers)


@pytest.fixture
def lab() -> Lab:
    return Lab()
