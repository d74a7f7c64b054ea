"""Adaptive prefetch by Little's law."""

from __future__ import annotations

import pytest

from backpressure.engines.prefetch import PrefetchSizer


@pytest.mark.parametrize(
    ("rate_per_s", "round_trip_s", "prefetch"),
    [(100, 0.001, 3), (100, 0.05, 7), (5000, 0.02, 102), (1, 0.0, 2)],
)
def test_it_covers_the_round_trip_and_two_more(rate_per_s: float, round_trip_s: float, prefetch: int) -> None:
    assert PrefetchSizer().update(rate_per_s, round_trip_s, 1 / rate_per_s, 0.0) == prefetch


def test_a_starved_consumer_is_sized_by_what_it_could_do() -> None:
    assert PrefetchSizer().update(10, 0.05, 0.01, 0.0) == 7


def test_it_rises_at_once_and_falls_only_after_a_hold() -> None:
    sizer = PrefetchSizer(hold_s=5.0)
    assert sizer.update(100, 0.05, 0.01, 0.0) == 7
    assert sizer.update(100, 0.01, 0.01, 1.0) == 7
    assert sizer.update(100, 0.01, 0.01, 5.9) == 7
    assert sizer.update(100, 0.01, 0.01, 6.0) == 3
    assert sizer.update(100, 0.05, 0.01, 6.1) == 7


def test_it_falls_to_the_most_that_was_wanted_during_the_hold() -> None:
    sizer = PrefetchSizer(hold_s=5.0)
    sizer.update(100, 0.10, 0.01, 0.0)
    sizer.update(100, 0.01, 0.01, 1.0)
    sizer.update(100, 0.05, 0.01, 3.0)
    assert sizer.update(100, 0.01, 0.01, 6.0) == 7


def test_a_short_dip_does_not_lower_it() -> None:
    sizer = PrefetchSizer(hold_s=5.0)
    for second in range(20):
        round_trip_s = 0.05 if second % 3 == 0 else 0.01
        assert sizer.update(100, round_trip_s, 0.01, float(second)) == 7


def test_it_stays_within_the_protocol() -> None:
    assert PrefetchSizer().update(1e6, 10.0, 1e-6, 0.0) == 65_535


def test_irregular_work_needs_more_on_a_long_way_and_nothing_more_on_a_short_one() -> None:
    def wanted(round_trip_s: float, cv2: float) -> int:
        return PrefetchSizer().update(200, round_trip_s, 0.005, 0.0, service_cv2=cv2, cushion_s=0.02)

    assert wanted(0.2, 0.0) == 46
    assert wanted(0.2, 1.0) == 55
    assert wanted(0.002, 1.0) == wanted(0.002, 0.0) == 7
