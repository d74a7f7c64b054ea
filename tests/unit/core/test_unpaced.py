"""What arrives from producers that nobody paces is told when it is certain, and no longer than it lasts."""

from __future__ import annotations

from math import inf

import pytest

from backpressure.core.signals import Decision
from backpressure.core.unpaced import UnpacedArrivals, with_unpaced


class Queue:
    """A queue that is looked at twice a second: ``own`` messages a second are confirmed, ``others`` come besides."""

    def __init__(self, *, late_s: float = 0.0, steps_s: float = 0.0) -> None:
        self.unpaced = UnpacedArrivals()
        self.now = self.entered = self.confirmed = 0.0
        self.producers = 1
        self._late_s, self._steps_s = late_s, steps_s
        self._past: list[tuple[float, float]] = []

    def passes(self, seconds: float, *, own: float = 100.0, others: float = 0.0) -> float:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.confirmed += own / 2
            self.entered += (own + others) / 2
            self._past.append((self.now, self.entered))
            until_s = self.now - self._late_s
            until_s -= until_s % self._steps_s if self._steps_s else 0.0
            told = max((total for at, total in self._past if at <= until_s), default=0.0)
            self.unpaced.update(
                told,
                self.now,
                confirmed=round(self.confirmed),
                in_flight=2,
                producers=self.producers,
                late=self._late_s > 0,
            )
        return self.unpaced.per_s


def test_nothing_is_told_of_a_queue_that_only_known_producers_use() -> None:
    queue = Queue()
    assert queue.passes(60) == 0
    assert queue.passes(30, own=1000) == 0
    assert queue.passes(30, own=0) == 0


def test_others_are_told_after_some_seconds_and_no_longer_when_they_have_gone() -> None:
    queue = Queue()
    queue.passes(20)
    assert queue.passes(20, others=300) == pytest.approx(300, rel=0.1)
    assert queue.passes(20) == 0


def test_a_few_foreign_messages_are_not_worth_a_word() -> None:
    assert Queue().passes(60, others=5) == 0


def test_late_statistics_in_steps_do_not_make_a_change_of_the_own_pace_look_like_others() -> None:
    queue = Queue(late_s=4.0, steps_s=5.0)
    seen = [queue.passes(0.5, own=1000) for _ in range(80)]
    seen += [queue.passes(0.5, own=10) for _ in range(160)]
    assert set(seen) == {0.0}


def test_by_late_statistics_others_that_take_all_are_told_too() -> None:
    queue = Queue(late_s=4.0, steps_s=5.0)
    queue.passes(40)
    assert queue.passes(60, own=1, others=120) == pytest.approx(120, rel=0.15)


def test_a_producer_that_is_new_does_not_look_like_one_that_nobody_paces() -> None:
    queue = Queue()
    queue.passes(30)
    queue.passes(2, others=500)  # it has not reported yet
    queue.producers = 2
    assert queue.passes(30, own=600) == 0


def test_a_broker_that_starts_again_begins_again() -> None:
    queue = Queue()
    queue.passes(30, others=300)
    queue.entered, queue._past = 0.0, []
    assert queue.passes(30) == 0


def test_the_reason_says_how_many_there_are_in_two_digits() -> None:
    decision = Decision(1.0, "draining the queue")
    assert with_unpaced(decision, 0.0) is decision
    assert with_unpaced(decision, inf) is decision
    assert with_unpaced(decision, 1234.5).reason == (
        "draining the queue; 1200 msg/s arrive from producers that nobody paces"
    )
