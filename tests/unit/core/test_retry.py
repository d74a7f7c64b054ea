"""The retry policy: growing pauses with jitter, and an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.schedule import RetryPolicy

POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1000),
    backoff_min_s=st.floats(0, 10),
    backoff_max_s=st.floats(0, 100),
    multiplier=st.floats(1, 100),
    jitter=st.floats(0, 1),
)
DRAWS = st.floats(0, 1, exclude_max=True)


def test_pauses_double_up_to_the_longest_and_then_it_gives_up() -> None:
    policy = RetryPolicy(max_attempts=6, backoff_min_s=0.1, backoff_max_s=0.5, multiplier=2)
    pauses_s = [policy.pause_s(failed, draw=0.9) for failed in range(1, 7)]
    assert pauses_s[:-1] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert pauses_s[-1] is None


def test_a_single_attempt_is_never_repeated() -> None:
    assert RetryPolicy(max_attempts=1, backoff_min_s=0.1, backoff_max_s=1).pause_s(1, 0.5) is None


def test_the_draw_moves_the_pause_across_the_whole_jitter() -> None:
    policy = RetryPolicy(max_attempts=9, backoff_min_s=1, backoff_max_s=9, jitter=0.2)
    assert [policy.pause_s(1, draw) for draw in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([0.8, 0.9, 1.0, 1.1])


@given(POLICIES, st.integers(1, 1000), DRAWS)
def test_a_pause_stays_within_its_bounds(policy: RetryPolicy, failed: int, draw: float) -> None:
    pause_s = policy.pause_s(failed, draw)
    assert (pause_s is None) == (failed >= policy.max_attempts)
    if pause_s is not None:
        assert 0 <= pause_s <= policy.backoff_max_s * (1 + policy.jitter)
        assert pause_s >= min(policy.backoff_min_s, policy.backoff_max_s) * (1 - policy.jitter)


@given(POLICIES, st.integers(1, 999), DRAWS)
def test_no_pause_is_shorter_than_the_one_before(policy: RetryPolicy, failed: int, draw: float) -> None:
    earlier_s, later_s = policy.pause_s(failed, draw), policy.pause_s(failed + 1, draw)
    if earlier_s is not None and later_s is not None:
        assert later_s >= earlier_s
