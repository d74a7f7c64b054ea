"""Rates and totals of other processes, from reports that are late, lost, or from a restarted process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport
from backpressure.engines.rates import ReportSeries, Roster

BASE = ConsumerReport(
    id="slow", pid=7, host="lab", at_ns=0, queue="work.queue", delivered=0, processed=0, failed=0, retried=0,
    dead_lettered=0, redelivered=0, duplicates=0, out_of_order=0, held=0, prefetch=5, paused=False,
    capacity_per_s=100.0, busy_s=0.0, service_sum_s=0.0, service_sum_s2=0.0, rss_bytes=1 << 20, cpu_s=0.0,
)  # fmt: skip


def report(at_s: float, processed: int, **changes: object) -> ConsumerReport:
    return replace(BASE, at_ns=round(at_s * 1e9), processed=processed, **changes)


def series_of(*samples: tuple[float, int], latency_s: float = 0.0) -> ReportSeries[ConsumerReport]:
    series = ReportSeries[ConsumerReport](interval_s=0.1)
    for at_s, processed in samples:
        series.add(report(at_s, processed), at_s + latency_s)
    return series


def roster(limit: int = 10_000) -> Roster[ConsumerReport]:
    return Roster[ConsumerReport](
        ("processed", "delivered"), ("queue_wait",), interval_s=0.1, timeout_s=2.0, limit=limit
    )


def test_a_rate_is_the_difference_of_two_counters_over_the_senders_own_time() -> None:
    series = series_of(*((0.1 * tick, 10 * tick) for tick in range(31)))
    assert series.span(1.0, 3.0).rate_per_s("processed") == pytest.approx(100.0)


def test_reports_delayed_on_their_way_do_not_distort_a_rate() -> None:
    series = ReportSeries[ConsumerReport](interval_s=0.1)
    for tick, delay_s in enumerate((0.0, 0.09, 0.01, 0.15, 0.05)):
        series.add(report(0.1 * tick, 10 * tick), 0.1 * tick + delay_s)
    assert series.span(1.0, 0.45).rate_per_s("processed") == pytest.approx(100.0)


def test_lost_reports_cost_freshness_and_not_correctness() -> None:
    series = series_of((0.0, 0), (0.1, 10), (1.5, 150), (1.6, 160))
    assert series.span(1.0, 1.6).rate_per_s("processed") == pytest.approx(100.0)


def test_the_first_report_of_a_process_that_ran_for_long_is_not_a_rate() -> None:
    assert series_of((0.0, 1_000_000)).span(1.0, 0.0).rate_per_s("processed") == 0.0


def test_a_report_older_than_the_latest_is_ignored() -> None:
    series = series_of((0.0, 0), (1.0, 100))
    series.add(report(0.5, 50), 1.1)
    assert series.latest.processed == 100


def test_the_rate_of_a_process_that_was_killed_falls_to_zero_within_the_window() -> None:
    series = series_of(*((0.1 * tick, 10 * tick) for tick in range(21)))
    falling = [series.span(1.0, 2.0 + silence).rate_per_s("processed") for silence in (0.1, 0.4, 0.7, 1.0, 1.2)]
    assert falling[0] == pytest.approx(100.0)
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == 0.0


def test_only_what_was_recorded_within_the_window_counts_for_percentiles() -> None:
    early, late = Histogram(), Histogram()
    early.record(10.0)
    late.record(10.0)
    late.record(0.010)
    series = ReportSeries[ConsumerReport](interval_s=0.1)
    series.add(report(0.0, 1, queue_wait=early), 0.0)
    series.add(report(1.0, 2, queue_wait=late), 1.0)
    recent = series.span(2.0, 1.0).recorded("queue_wait")
    assert recent.total == 1
    assert recent.quantile_s(0.99) == pytest.approx(0.010, rel=0.05)


def test_a_long_run_keeps_only_the_reports_that_the_windows_need() -> None:
    series = series_of(*((0.1 * tick, tick) for tick in range(1000)))
    assert len(series._reports) <= 22


def test_totals_keep_what_vanished_processes_counted() -> None:
    all_of_them = roster()
    all_of_them.add(report(0.0, 40, id="gone"), 0.0)
    all_of_them.add(report(5.0, 2), 5.0)
    assert [series.latest.id for series in all_of_them.live(5.0).values()] == ["slow"]
    assert all_of_them.totals() == {"processed": 42, "delivered": 0}


def test_counters_that_begin_again_add_to_what_was_counted_before() -> None:
    all_of_them = roster()
    for at_s, processed in ((0.0, 100), (1.0, 200), (2.0, 5), (3.0, 15)):
        all_of_them.add(report(at_s, processed), at_s)
    (series,) = all_of_them.live(3.0).values()
    assert all_of_them.totals()["processed"] == 215
    assert series.span(1.0, 3.0).rate_per_s("processed") == pytest.approx(10.0)


def test_durations_recorded_before_a_restart_are_kept() -> None:
    wait = Histogram()
    wait.record(0.5)
    all_of_them = roster()
    all_of_them.add(report(0.0, 100, queue_wait=wait), 0.0)
    all_of_them.add(report(1.0, 1, queue_wait=wait), 1.0)
    assert all_of_them.recorded("queue_wait").total == 2


def test_a_process_that_falls_silent_and_returns_is_counted_once() -> None:
    all_of_them = roster()
    for at_s, processed in ((0.0, 100), (10.0, 200)):
        all_of_them.add(report(at_s, processed), at_s)
        assert all_of_them.live(at_s)
        assert not all_of_them.live(at_s + 2.5)
    assert all_of_them.totals()["processed"] == 200


def test_ever_new_names_do_not_fill_the_memory_and_do_not_change_the_totals() -> None:
    all_of_them = roster(limit=3)
    for number in range(10):
        all_of_them.add(report(number, 1, id=f"stranger-{number}"), float(number))
    assert len(all_of_them._series) == 3
    assert all_of_them.totals()["processed"] == 10


def test_a_role_without_reports_is_unseen() -> None:
    all_of_them = roster()
    assert not all_of_them.seen
    all_of_them.add(report(0.0, 0), 0.0)
    assert all_of_them.seen


def test_a_clock_that_is_set_back_begins_a_new_series_and_totals_stay() -> None:
    known = roster()
    for tick in range(10):
        known.add(report(5000 + 0.1 * tick, 10 * tick), 0.1 * tick)
    for tick in range(10, 20):
        known.add(report(0.1 * tick, 10 * tick), 0.1 * tick)
    [series] = known.live(1.9).values()
    assert series.span(1.0, 1.9).rate_per_s("processed") == pytest.approx(100.0)
    assert known.totals()["processed"] == 190
