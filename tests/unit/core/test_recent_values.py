"""The values of the last seconds."""

from __future__ import annotations

from backpressure.core.histogram import RecentValues


def test_what_is_older_than_the_window_is_forgotten() -> None:
    values = RecentValues(10.0)
    for now, value in [(0.0, 1.0), (5.0, 9.0), (8.0, 4.0)]:
        values.add(value, now)
    assert (values.least(0.0), values.greatest(0.0)) == (1.0, 9.0)
    values.add(5.0, 11.0)
    assert (values.least(0.0), values.greatest(0.0)) == (4.0, 9.0)


def test_the_last_value_is_kept_and_without_any_the_default_stands_in() -> None:
    values = RecentValues(10.0)
    assert (values.least(3.0), values.greatest(3.0)) == (3.0, 3.0)
    values.add(7.0, 0.0)
    values.add(8.0, 100.0)
    assert (values.least(3.0), values.greatest(3.0)) == (8.0, 8.0)
