"""When a producer decides, and how often it reports."""

from __future__ import annotations

import pytest

from backpressure.core.reports import decision_window, report_interval_s, ticks_per_report, told_interval_s, uneven_s


def test_a_decision_waits_a_little_for_the_next_report_where_reports_come() -> None:
    assert decision_window(10.0, 0.1, feedback_age_s=0.05) == pytest.approx((10.09, 10.12))
    assert decision_window(10.0, 0.1, feedback_age_s=3.0) == pytest.approx((10.09, 10.1))


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
    assert (consumers + producers) / interval_s * (producers + 1) == pytest.approx(2000)


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
