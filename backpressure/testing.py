"""A test kit for rate-control laws of your own: a model queue in virtual time, and checks that every law should pass.

It needs no broker, no clock and no network, so a check of an hour takes seconds, and the same seed gives the same
result. With pytest::

    import pytest
    from backpressure.testing import CONFORMANCE, ModelQueue

    @pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
    def test_conforms(check):
        check("my_laws:LeaveRoom")

    def test_uses_the_consumer():
        assert ModelQueue("my_laws:LeaveRoom", capacity_per_s=100).run(60).utilisation > 0.9
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan
from typing import Literal

from backpressure.core.controllers import LawConfig
from backpressure.core.plant import Network, Plant, QueueBound, Workers
from backpressure.core.signals import Decision, Law, Signals
from backpressure.laws import create

__all__ = ["CONFORMANCE", "ModelOutcome", "ModelQueue"]


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What happened since the run before.

    Attributes:
        utilisation: the share of the consumers' capacity that was used.
        p50_wait_s, p99_wait_s: waits in the queue, seconds; 0 where nothing was processed.
        deepest: the most messages in the queue and in work.
        processed: messages.
        decisions: what the law decided, in order.
    """

    utilisation: float
    p50_wait_s: float
    p99_wait_s: float
    deepest: int
    processed: int
    decisions: tuple[Decision, ...]


class _Recorded:
    """Passes everything on to a law, and keeps what it decides."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.decisions: list[Decision] = []

    def update(self, signals: Signals, now: float) -> Decision:
        decision = self.law.update(signals, now)
        self.decisions.append(decision)
        return decision


class ModelQueue:
    """One producer with the law to be tested, one queue, and its consumers, in virtual time.

    Attributes:
        plant: the model, for what these methods do not do.
    """

    def __init__(
        self,
        law: str | Law,
        *,
        capacity_per_s: float = 100.0,
        demand_per_s: float = 1000.0,
        consumers: int = 1,
        service: Literal["fixed", "exponential", "uniform"] = "exponential",
        config: LawConfig | None = None,
        seed: int = 1,
    ) -> None:
        """Begin at time 0.

        Args:
            law: its name, its path (``module:Class``), or the law itself.
            capacity_per_s: what the consumers do together, messages per second.
            demand_per_s: what the producer is offered.
            consumers: how many there are.
            service: how the times of their work are distributed.
            config: what the law is made with, if it is named.
            seed: of the random numbers.
        """
        self._workers = Workers(count=consumers, rate_per_s=capacity_per_s / consumers, distribution=service)
        self.plant = Plant(random.Random(seed).random, workers=self._workers)  # noqa: S311 - a model
        self._law = _Recorded(create(law, config) if isinstance(law, str) else law)
        self.plant.add_producer(self._law, demand_per_s)

    def set_capacity(self, capacity_per_s: float) -> None:
        """Let the consumers work faster or slower from now on; 0: they pause."""
        if capacity_per_s > 0:
            self._workers = replace(self._workers, rate_per_s=capacity_per_s / self._workers.count)
            self.plant.set_workers(self._workers)
        else:
            self.plant.set_workers(replace(self._workers, state="paused"))

    def silence(self) -> None:
        """Let no report and no reading arrive from now on."""
        self.plant.network = Network(report_loss=1.0, probe=False)

    def block(self, *, blocked: bool) -> None:
        """Let the broker stop publishing, as an alarm does, or take messages again."""
        self.plant.set_queue(QueueBound(blocked=blocked))

    def run(self, seconds: float) -> ModelOutcome:
        """Let virtual time pass, and return what happened."""
        queue, samples = self.plant.queue, len(self.plant.samples)
        done, capacity, waits, decided = queue.processed, self.plant.capacity, len(queue.waits_s), self._decided()
        self.plant.run(seconds)
        possible = self.plant.capacity - capacity
        waited = sorted(queue.waits_s[waits:]) or [0.0]
        return ModelOutcome(
            utilisation=(queue.processed - done) / possible if possible else 0.0,
            p50_wait_s=waited[len(waited) // 2],
            p99_wait_s=waited[int(0.99 * len(waited))],
            deepest=max((sample.depth for sample in self.plant.samples[samples:]), default=0),
            processed=queue.processed - done,
            decisions=tuple(self._law.decisions[decided:]),
        )

    def _decided(self) -> int:
        return len(self._law.decisions)


def decides_numbers(law: str) -> None:
    """Check that every rate is a number, not negative, and comes with a reason; whatever happens."""
    queue = ModelQueue(law)
    for capacity_per_s in (100, 5, 0, 300, 100):
        queue.set_capacity(capacity_per_s)
        _check(queue.run(10).decisions)
    queue.silence()
    _check(queue.run(10).decisions)


def keeps_the_limits(law: str) -> None:
    """Check that floor and ceiling of the `LawConfig` are kept."""
    queue = ModelQueue(law, config=LawConfig(floor_per_s=40.0, ceiling_per_s=150.0))
    for capacity_per_s in (100, 10, 500):
        queue.set_capacity(capacity_per_s)
        for decision in queue.run(10).decisions:
            assert 40.0 <= decision.rate_per_s <= 150.0, f"{decision.rate_per_s}/s is outside 40 … 150: clamp the rate"


def follows_the_consumers(law: str) -> None:
    """Check that a change of the consumers' pace is followed within a minute, up and down, without a growing queue."""
    queue = ModelQueue(law)
    for capacity_per_s in (100, 300, 50):
        queue.set_capacity(capacity_per_s)
        queue.run(60)
        settled = queue.run(30)
        assert settled.utilisation > 0.7, f"{settled.utilisation:.0%} of {capacity_per_s}/s is used after a minute"
        assert settled.p50_wait_s < 5, f"half of the messages wait {settled.p50_wait_s:.1f} s at {capacity_per_s}/s"


def comes_back_after_a_stop(law: str) -> None:
    """Check that it sends again when the consumers do, and when an alarm is over."""
    queue = ModelQueue(law)
    queue.run(20)
    queue.set_capacity(0)
    queue.run(20)
    queue.set_capacity(100)
    queue.run(60)
    assert queue.run(20).utilisation > 0.7, "it does not come back after the consumers have paused"
    queue.block(blocked=True)
    queue.run(10)
    queue.block(blocked=False)
    queue.run(60)
    assert queue.run(20).utilisation > 0.7, "it does not come back after an alarm of the broker"


def is_deterministic(law: str) -> None:
    """Check that the same signals lead to the same decisions: no clock, no randomness of its own, no shared state."""
    first, second = (ModelQueue(law).run(20).decisions for _ in range(2))
    assert first == second, "two runs with the same signals differ"


CONFORMANCE: tuple[Callable[[str], None], ...] = (
    decides_numbers,
    keeps_the_limits,
    follows_the_consumers,
    comes_back_after_a_stop,
    is_deterministic,
)
"""Checks to call with the name or the path of a law; each raises an `AssertionError` that says what is wrong."""


def _check(decisions: tuple[Decision, ...]) -> None:
    assert decisions, "the law was never asked"
    for decision in decisions:
        assert not isnan(decision.rate_per_s), "a rate is no number"
        assert decision.rate_per_s >= 0, f"a rate is negative: {decision.rate_per_s}"
        assert decision.reason, "a decision has no reason"
