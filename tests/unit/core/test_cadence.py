"""When a producer decides, and how often it reports."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from backpressure.core.reports import (
    ConsumerReport,
    Early,
    Lately,
    decision_window,
    report_interval_s,
    ticks_per_report,
    told_interval_s,
    uneven_s,
)


def test_a_decision_waits_a_little_for_the_next_report_where_reports_come() -> None:
    assert decision_window(10.0, 0.1, feedback_age_s=0.05) == pytest.approx((10.025, 10.09, 10.12))
    assert decision_window(10.0, 0.1, feedback_age_s=3.0) == pytest.approx((10.025, 10.09, 10.1))


@pytest.mark.parametrize(("producers", "ticks"), [(1, 1), (6, 1), (7, 2), (12, 2), (16, 3), (1000, 3)])
def test_the_more_producers_there_are_the_less_often_each_reports(producers: int, ticks: int) -> None:
    assert ticks_per_report(producers, tick_s=0.1, timeout_s=2.0) == ticks


def test_no_producer_is_silent_for_so_long_that_it_is_missed() -> None:
    assert ticks_per_report(100, tick_s=0.1, timeout_s=1.0) == 1
    assert ticks_per_report(100, tick_s=0.5, timeout_s=2.0) == 1
    assert ticks_per_report(100, tick_s=0.1, timeout_s=0.1) == 1


@pytest.mark.parametrize(("consumers", "producers"), [(15, 10), (200, 50), (1000, 1000), (100_000, 1)])
def test_the_reports_of_a_fleet_cost_two_thousand_deliveries_a_second_at_any_size(
    consumers: int, producers: int
) -> None:
    interval_s = report_interval_s(consumers, producers, 0.1)
    answers = consumers / interval_s / 10
    assert (consumers + producers) / interval_s * (producers + 1) + answers == pytest.approx(2000)


def test_those_that_begin_together_report_one_after_the_other_and_then_never_all_at_once() -> None:
    assert [uneven_s(6.0, chance, first=True) for chance in (0.0, 0.5, 0.9)] == pytest.approx([0.0, 3.0, 5.4])
    assert [uneven_s(6.0, chance, first=False) for chance in (0.0, 0.5, 0.9)] == pytest.approx([3.0, 6.0, 8.4])


def test_few_processes_report_as_often_as_usual() -> None:
    assert report_interval_s(5, 5, 0.1) == 0.1


@pytest.mark.parametrize(
    ("value", "interval_s"),
    [(6400, 6.4), (0, None), (-1, None), (True, None), ("6400", None), (1 << 40, None), (None, None)],
)
def test_a_message_tells_consumers_how_often_to_report_if_it_makes_sense(
    value: object, interval_s: float | None
) -> None:
    assert told_interval_s(value) == interval_s


def looks(service_s: Iterator[float], seconds: float) -> Iterator[ConsumerReport]:
    """Look ten times a second at a consumer that always has work, which takes as long as it says when it begins."""
    ends, begun, done, squares = 0.0, 0.0, 0, 0.0
    for tick in range(1, round(10 * seconds)):
        now = tick / 10
        while ends <= now:
            if ends:
                done, squares = done + 1, squares + (ends - begun) ** 2
            begun, ends = ends, ends + next(service_s)
        yield ConsumerReport(
            id="c", queue="q", at_ns=round(1e9 * now), processed=done, held=1, prefetch=3, busy_s=now,
            service_sum_s=begun, service_sum_s2=squares,
        )  # fmt: skip


@pytest.mark.parametrize(("before", "after", "within_s"), [(0.05, 0.0167, 0.2), (0.02, 0.1, 0.3), (0.02, 2.0, 0.3)])
def test_a_consumer_of_a_fleet_notices_soon_that_it_has_become_faster_or_slower(
    before: float, after: float, within_s: float
) -> None:
    lately, begun, changes, told = Lately(), 0.0, [], []

    def service_s() -> Iterator[float]:
        nonlocal begun
        while True:
            taken_s = before if begun < 5 else after
            begun += taken_s
            yield taken_s

    for look in looks(service_s(), 12.0):
        report = lately.added(look, 4.0)
        if lately.changed:
            changes.append(report.at_ns / 1e9)
            told.append((report.recent_s, report.recent))
    assert len([at for at in changes if at < 5]) == 0
    assert 5 < changes[0] <= 5 + before + within_s
    recent_s, recent = told[0]
    assert recent_s <= within_s + 0.1
    assert abs(recent - recent_s / after) <= 2


def test_work_at_hand_counts_as_far_as_it_usually_is_and_no_further() -> None:
    """Whole messages would tell the phase of work that takes longer than the time that is looked at, not its pace."""
    lately, told = Lately(), []
    for look in looks(iter([0.5] * 20 + [2.5] * 20), 25.0):
        report = lately.added(look, 0.5, look.busy_s - look.service_sum_s)
        told.append((report.at_ns / 1e9, report.recent / report.recent_s if report.recent_s else 0.0))
    usual = [per_s for at, per_s in told if 2 < at <= 10]
    longer = [per_s for at, per_s in told if 11 < at < 12.4]
    known = [per_s for at, per_s in told if at > 15.5]
    assert usual == pytest.approx([2.0] * len(usual), abs=0.01)
    assert longer == pytest.approx([0.0] * len(longer), abs=0.01)
    assert known == pytest.approx([0.4] * len(known), abs=0.01)


def test_whole_messages_of_regular_work_are_not_taken_for_a_change() -> None:
    """Where the work at hand is not known, a count may be one message more or less."""
    lately, changes = Lately(), 0
    for look in looks(iter([0.17] * 400), 60.0):
        lately.added(look, 4.0)
        changes += lately.changed
    assert changes == 0


def test_irregular_work_is_seldom_taken_for_a_change() -> None:
    draw, lately, changes = random.Random(7), Lately(), 0
    service_s = iter(lambda: draw.expovariate(50.0), None)
    for look in looks(service_s, 300.0):
        lately.added(look, 4.0)
        changes += lately.changed
    assert changes <= 10


def test_consumers_that_report_ten_times_a_second_look_for_no_change() -> None:
    lately = Lately()
    for look in looks(iter([0.05] * 100 + [0.5] * 100), 10.0):
        lately.added(look)
        assert not lately.changed


def test_whoever_speaks_before_its_turn_speaks_no_more_often_in_the_long_run() -> None:
    early, now, due_s, told = Early(2), 0.0, 1.0, 0
    for step in range(10_000):
        now = step / 10
        if now >= due_s or early.take(due_s - now, 1.0):  # there is news all the time
            told += 1
            due_s = now + early.next_s(1.0)
    assert told == pytest.approx(1000, rel=0.01)
