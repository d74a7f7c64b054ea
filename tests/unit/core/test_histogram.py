"""Histograms: quantiles within their promised error, and totals whose difference is again a histogram."""

from __future__ import annotations

from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.histogram import MAX_BUCKET, Histogram

DURATIONS_S = st.floats(1e-6, 1e6)


def histogram(durations_s: list[float]) -> Histogram:
    result = Histogram()
    for duration_s in durations_s:
        result.record(duration_s)
    return result


@given(st.lists(DURATIONS_S, min_size=1), st.floats(0, 1))
def test_a_quantile_is_within_four_and_a_half_percent_of_the_true_one(durations_s: list[float], q: float) -> None:
    true_s = sorted(durations_s)[max(1, ceil(q * len(durations_s))) - 1]
    assert histogram(durations_s).quantile_s(q) == pytest.approx(true_s, rel=0.045)


@given(st.lists(DURATIONS_S, min_size=1), st.floats(0, 1))
def test_a_quantile_is_never_beyond_the_shortest_and_the_longest_and_exact_there(
    durations_s: list[float], q: float
) -> None:
    subject = histogram(durations_s)
    for one in (subject, subject.copy(), Histogram.merged([histogram(durations_s[:1]), histogram(durations_s[1:])])):
        value = one.quantile_s(q)
        assert value is not None
        assert min(durations_s) <= value <= max(durations_s)
        assert one.quantile_s(0) == min(durations_s)
        assert one.quantile_s(1) == max(durations_s)


def test_the_median_of_equal_waits_is_that_wait() -> None:
    assert histogram([0.0101] * 3).quantile_s(0.5) == 0.0101


def test_where_only_buckets_are_known_a_quantile_is_as_good_as_they_are() -> None:
    whole = histogram([0.1, 0.2, 0.4])
    later = whole.since(histogram([0.1]))
    assert (later.least_s, later.most_s) == (None, None)
    assert later.quantile_s(1) == pytest.approx(0.4, rel=0.045)
    mixed = whole + later
    assert (mixed.least_s, mixed.quantile_s(0)) == (None, pytest.approx(0.1, rel=0.045))


@given(st.lists(DURATIONS_S, min_size=1))
def test_the_mean_is_exact(durations_s: list[float]) -> None:
    assert histogram(durations_s).mean_s() == pytest.approx(sum(durations_s) / len(durations_s), rel=1e-9)


@given(st.lists(DURATIONS_S), st.lists(DURATIONS_S))
def test_adding_up_and_taking_the_difference_are_inverse(first: list[float], second: list[float]) -> None:
    both = histogram(first) + histogram(second)
    assert both.counts == histogram(first + second).counts
    later = both.since(histogram(first))
    assert (later.counts, later.total) == (histogram(second).counts, len(second))


@given(st.lists(st.lists(DURATIONS_S, max_size=5), max_size=5))
def test_merging_the_processes_gives_the_histogram_of_all(parts: list[list[float]]) -> None:
    merged = Histogram.merged(histogram(part) for part in parts)
    assert merged.counts == histogram([duration_s for part in parts for duration_s in part]).counts
    assert merged.total == sum(len(part) for part in parts)


def test_an_empty_histogram_knows_neither_quantile_nor_mean() -> None:
    assert Histogram().quantile_s(0.99) is None
    assert Histogram().mean_s() is None


def test_durations_beyond_either_end_count_at_that_end() -> None:
    assert histogram([0.0, -1.0, 1e-9]).counts == {0: 3}
    assert histogram([-1.0]).sum_s == 0
    assert histogram([1e30, inf]).counts == {MAX_BUCKET: 2}


def test_a_snapshot_does_not_change_with_its_original() -> None:
    subject = histogram([0.1])
    snapshot = subject.copy()
    subject.record(0.2)
    assert (snapshot.total, snapshot.sum_s) == (1, 0.1)
    assert subject.since(snapshot).total == 1
