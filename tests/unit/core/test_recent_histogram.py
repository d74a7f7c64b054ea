"""A window over a growing histogram."""

from __future__ import annotations

import pytest

from backpressure.core.histogram import Histogram, RecentHistogram


def test_what_is_older_than_the_window_is_forgotten_and_the_rest_is_not() -> None:
    growing, recent = Histogram(), RecentHistogram(10)
    recent.mark(growing, 0)
    for tenth in range(1, 301):
        growing.record(tenth / 10)
        recent.mark(growing, tenth / 10)
        assert recent.of(growing).total == pytest.approx(min(tenth, 100), abs=10)
    assert recent.of(growing).quantile_s(0.01) == pytest.approx(20, rel=0.06)
    assert growing.total == 300


def test_a_silent_stretch_as_long_as_the_window_leaves_nothing() -> None:
    growing, recent = Histogram(), RecentHistogram(10)
    growing.record(1.0)
    for now in range(12):
        recent.mark(growing, now)
    assert recent.of(growing).total == 0
    assert recent.of(growing).quantile_s(0.5) is None


def test_before_the_first_mark_everything_is_recent() -> None:
    growing = Histogram({7: 3})
    assert RecentHistogram(10).of(growing).total == 3
