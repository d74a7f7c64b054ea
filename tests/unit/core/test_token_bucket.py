"""The token bucket in virtual time: an exact mean, bounded bursts, and what a change of rate means."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.limiters import TokenBucket


def take_all(bucket: TokenBucket, now: float) -> int:
    """Take every whole token there is and return how many that were."""
    count = int(bucket.available(now))
    bucket.take(count, now)
    return count


@pytest.mark.parametrize("rate_per_s", [1000.0, 997.3, 100.0, 3.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_mean_over_thirty_seconds_is_exact_however_late_the_wake_ups_are(rate_per_s: float, seed: int) -> None:
    timer = Random(seed)
    bucket = TokenBucket(rate_per_s, burst_s=0.1, now=0.0)
    now, sent = 0.0, 0
    while now < 30:
        sent += take_all(bucket, now)
        now += bucket.wait_s(now) + timer.choice([0.0, 1e-9, 0.0003, 0.004, 0.08])
    sent += take_all(bucket, now)
    assert sent == pytest.approx(rate_per_s * now, rel=0.001, abs=1)


@given(st.floats(1, 1e5), st.floats(0.001, 1), st.lists(st.floats(0, 5), max_size=40), st.data())
def test_no_interval_holds_more_than_the_bucket_and_what_accrues_in_it(
    rate_per_s: float, burst_s: float, gaps_s: list[float], data: st.DataObject
) -> None:
    bucket = TokenBucket(rate_per_s, burst_s, now=0.0)
    now = 0.0
    taken = [(now, take_all(bucket, now))]
    for gap_s in gaps_s:
        now += gap_s
        taken.append((now, take_all(bucket, now)))
    first = data.draw(st.integers(0, len(taken) - 1))
    last = data.draw(st.integers(first, len(taken) - 1))
    within = sum(count for _, count in taken[first : last + 1])
    elapsed_s = taken[last][0] - taken[first][0]
    assert within <= bucket.capacity + rate_per_s * elapsed_s + 1e-6


def test_after_a_stall_the_message_due_and_the_depth_of_the_bucket_go_out_and_then_the_pace_holds() -> None:
    bucket = TokenBucket(1000, burst_s=0.1, now=0.0)
    assert take_all(bucket, now=60.0) == 101
    assert take_all(bucket, now=60.0) == 0
    assert take_all(bucket, now=60.0055) == 5


def test_the_first_message_need_not_wait_and_the_second_does() -> None:
    bucket = TokenBucket(10, burst_s=1.0, now=5.0)
    assert bucket.wait_s(5.0) == 0
    bucket.take(1, 5.0)
    assert bucket.wait_s(5.0) == pytest.approx(0.1)


def test_a_slow_rate_still_gets_whole_tokens_from_a_shallow_bucket() -> None:
    bucket = TokenBucket(0.5, burst_s=0.001, now=0.0)
    assert [take_all(bucket, float(second)) for second in range(7)] == [1, 0, 1, 0, 1, 0, 1]


def test_tokens_earned_before_a_rate_change_are_kept() -> None:
    bucket = TokenBucket(100, burst_s=1.0, now=0.0)
    bucket.take(1, 0.0)
    bucket.set_rate(1000, now=0.2)
    assert bucket.available(0.2) == pytest.approx(20)


def test_a_lower_rate_leaves_no_more_than_its_own_bucket_holds() -> None:
    bucket = TokenBucket(1000, burst_s=0.1, now=0.0)
    bucket.set_rate(50, now=10.0)
    assert bucket.available(10.0) == 1 + 5


def test_half_a_token_under_way_carries_over_to_the_new_rate() -> None:
    bucket = TokenBucket(1, burst_s=1.0, now=0.0)
    bucket.take(1, 0.0)
    bucket.set_rate(10, now=0.5)
    assert bucket.wait_s(0.5) == pytest.approx(0.05)


def test_the_new_rate_counts_from_the_moment_it_was_set() -> None:
    bucket = TokenBucket(10, burst_s=10.0, now=0.0)
    bucket.take(1, 0.0)
    bucket.set_rate(20, now=1.0)
    bucket.set_rate(40, now=2.0)
    assert bucket.available(3.0) == pytest.approx(10 + 20 + 40)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2000)), min_size=1, max_size=30))
def test_changing_the_rate_often_neither_makes_nor_loses_tokens(changes: list[tuple[float, float]]) -> None:
    bucket = TokenBucket(100, burst_s=1e6, now=0.0)
    now, earned, rate_per_s = 0.0, 1.0, 100.0
    for gap_s, new_rate_per_s in changes:
        now += gap_s
        earned = min(earned + gap_s * rate_per_s, 1 + min(rate_per_s, new_rate_per_s) * 1e6)  # what it can hold
        bucket.set_rate(new_rate_per_s, now)
        rate_per_s = new_rate_per_s
    assert bucket.available(now) == pytest.approx(earned, rel=1e-9)


def test_at_rate_zero_the_bucket_is_closed_forever() -> None:
    bucket = TokenBucket(0, burst_s=1.0, now=0.0)
    bucket.take(1, 0.0)
    assert bucket.wait_s(1e9) == inf
    assert bucket.available(1e9) == 0


def test_an_infinite_rate_never_waits_and_leaves_one_full_bucket_behind() -> None:
    bucket = TokenBucket(inf, burst_s=0.1, now=0.0)
    bucket.take(1_000_000, 0.0)
    assert bucket.wait_s(0.0) == 0
    bucket.set_rate(1000, now=1.0)
    assert bucket.available(1.0) == 1 + 100


def test_a_clock_that_seems_to_run_backwards_earns_nothing() -> None:
    bucket = TokenBucket(100, burst_s=1.0, now=10.0)
    bucket.take(1, 10.0)
    assert bucket.available(9.0) == 0
    assert bucket.available(10.5) == pytest.approx(50)


def test_draining_throws_away_what_accrued_but_one() -> None:
    bucket = TokenBucket(1000, burst_s=1.0, now=0.0)
    bucket.drain(5.0)
    assert bucket.available(5.0) == 1


def test_each_token_knows_when_it_was_earned() -> None:
    bucket = TokenBucket(10, burst_s=1.0, now=0.0)
    bucket.take(1, 0.0)
    assert [bucket.accrued_at(ahead, 0.35) for ahead in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert TokenBucket(inf, burst_s=1.0, now=0.0).accrued_at(3, 0.35) == 0.35


def test_a_shallower_bucket_keeps_no_more_than_it_holds() -> None:
    bucket = TokenBucket(100.0, 1.0, 0.0)
    assert bucket.available(10.0) == pytest.approx(101)
    bucket.set_burst(0.1, 10.0)
    assert bucket.available(10.0) == pytest.approx(11)
    bucket.set_burst(1.0, 10.0)
    assert bucket.available(20.0) == pytest.approx(101)
