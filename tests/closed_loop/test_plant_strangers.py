"""Consumers that report nothing: what they hold, and what the broker tells of it in the model."""

from __future__ import annotations

import random
from typing import Any

import pytest

from backpressure.core.board import SignalBoard
from backpressure.core.evidence import ConsumerTerms, OffsetReading, QueueStatistics
from backpressure.core.plant import Network, Plant, QueueBound, Strangers, Workers, WorkQueue
from backpressure.core.reports import ConsumerReport, Report


class NotingBoard(SignalBoard):
    """Keeps all it is told."""

    def __init__(self) -> None:
        super().__init__(1)
        self.reporters: set[str] = set()
        self.readings: list[tuple[int, int | None, float]] = []
        self.told: list[QueueStatistics] = []
        self.terms: list[ConsumerTerms] = []
        self.offsets: list[OffsetReading] = []

    def on_report(self, report: Report, now: float) -> None:
        if isinstance(report, ConsumerReport):
            self.reporters.add(report.id)
        super().on_report(report, now)

    def on_reading(  # type: ignore[override]  # as much as is needed
        self, ready: int | None, unacked: int | None, consumers: int | None, now: float
    ) -> None:
        self.readings.append((ready, unacked, now))
        super().on_reading(ready, unacked, consumers, now)

    def on_statistics(self, statistics: QueueStatistics) -> None:
        self.told.append(statistics)
        super().on_statistics(statistics)

    def on_terms(self, terms: ConsumerTerms, now: float) -> None:
        self.terms.append(terms)
        super().on_terms(terms, now)

    def on_offsets(self, offsets: OffsetReading, consumers: int | None) -> None:
        self.offsets.append(offsets)
        super().on_offsets(offsets, consumers)


def observed(
    lab: Any, workers: Workers, *, seconds: float, demand_per_s: float = 150.0, **network: Any
) -> tuple[Plant, NotingBoard]:
    """Let a producer send at a fixed rate, and keep what it is told."""
    plant: Plant = lab.plant(1, workers=workers, network=Network(**network))
    producer = lab.join(plant, "unbounded", demand_per_s)
    producer.board = board = NotingBoard()
    plant.run(seconds)
    return plant, board


def strangers(count: int = 1, **terms: Any) -> Workers:
    return Workers(count=count, strangers=Strangers(count=count, **terms))


@pytest.mark.parametrize(("prefetch", "ready"), [(1, 499), (20, 480), (100, 400), (0, 0)])
def test_a_stranger_holds_what_its_prefetch_allows_and_everything_without_one(
    lab: Any, prefetch: int, ready: int
) -> None:
    plant, board = observed(lab, strangers(prefetch=prefetch), seconds=10)
    assert len(plant.queue.ready) == pytest.approx(ready, abs=4)
    assert plant.queue.depth == pytest.approx(500, abs=4)
    assert board.reporters == set()
    assert board.readings[-1][:2] == (pytest.approx(ready, abs=20), None)


def test_of_a_mixture_only_those_report_that_are_no_strangers(lab: Any) -> None:
    workers = Workers(count=3, rate_per_s=30, prefetch=2, strangers=Strangers(count=2, prefetch=50))
    plant, board = observed(lab, workers, seconds=10, consumer_list=True)
    assert board.reporters == {"consumer-3"}
    assert [len(one.held) for one in plant.queue.consumers] == [50, 50, 2]
    assert board.terms[-1] == ConsumerTerms(count=3, prefetch=102)


def test_fresh_counts_are_of_the_moment_of_the_reading(lab: Any) -> None:
    plant, board = observed(lab, strangers(prefetch=20), seconds=10, totals=True)
    ready, unacked, at_s = board.readings[-1]
    assert unacked == 20
    assert ready + unacked == pytest.approx(50 * at_s, abs=6)
    assert plant.now - at_s <= 0.2


@pytest.mark.parametrize(("collected", "oldest_s"), [(False, 5.3), (True, 10.3)])
def test_late_counts_come_in_steps_and_are_up_to_one_or_two_intervals_old(
    lab: Any, collected: bool, oldest_s: float
) -> None:
    """The queue grows by 50 messages a second, so its length tells when it was counted."""
    _, board = observed(lab, strangers(), seconds=60, statistics_interval_s=5.0, collected=collected)
    counted = [told for told in board.told if told.ready + told.unacked]  # the rest is of before
    values = [told.ready + told.unacked for told in counted]
    ages_s = [told.arrived_s - depth / 50 for told, depth in zip(counted, values, strict=True)]
    assert 0 <= min(ages_s) < max(ages_s) <= oldest_s
    assert max(ages_s) - min(ages_s) == pytest.approx(5, abs=0.3)
    assert len(set(values)) == pytest.approx(11, abs=1)
    assert all(told.ready == 0 and told.collected is collected for told in board.told)


def test_what_needs_no_acknowledgement_is_never_unacked_and_dies_with_its_consumer(lab: Any) -> None:
    plant, board = observed(lab, strangers(acks="auto", prefetch=10), seconds=10, totals=True, consumer_list=True)
    assert plant.queue.depth == pytest.approx(500, abs=4)
    assert {reading[:2] for reading in board.readings} == {(0, 0)}
    assert board.terms[-1] == ConsumerTerms(count=1, prefetch=None, auto_ack=1)
    held = plant.queue.depth
    plant.queue.kill(1, plant.now)
    assert plant.queue.dropped == held
    assert plant.queue.depth == 0


def test_messages_of_a_stranger_that_dies_come_back(lab: Any) -> None:
    plant, _ = observed(lab, strangers(count=2), seconds=10, demand_per_s=300)
    held = plant.queue.depth
    plant.queue.kill(1, plant.now)
    assert plant.queue.depth == held
    assert plant.queue.dropped == 0


@pytest.mark.parametrize("interval_s", [0.1, 5.0])
def test_commits_come_in_steps_and_cover_what_was_handed_to_the_application(lab: Any, interval_s: float) -> None:
    workers = strangers(acks="commit", commit_interval_s=interval_s)
    plant, board = observed(lab, workers, seconds=61, demand_per_s=50)
    committed = [offsets.committed[0] for offsets in board.offsets]
    behind = [offsets.ends[0] - offsets.committed[0] for offsets in board.offsets]
    assert committed == sorted(committed)
    assert min(behind) >= 0
    assert max(behind) == pytest.approx(50 * interval_s, abs=6)
    assert len(set(committed)) == pytest.approx(60 / interval_s, rel=0.2)
    assert plant.queue.depth <= 2


def test_a_consumer_that_stays_away_commits_nothing() -> None:
    queue = WorkQueue(random.Random(1).random, QueueBound())
    queue.set_workers(strangers(acks="commit", commit_interval_s=1.0), 0.0, lambda: 0.0)
    queue.arrive(0.0)
    queue.arrive(0.0)
    queue.advance(0.011)  # one is done, the other in work
    assert queue.uncommitted == 2
    queue.commit(1.1)
    assert queue.uncommitted == 0
    queue.arrive(1.2)
    queue.hang(1)
    queue.commit(2.2)
    assert queue.uncommitted == 1
