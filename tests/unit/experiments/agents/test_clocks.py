"""The error that is told of a clock is never smaller than the true one."""

from __future__ import annotations

import random

import pytest

from backpressure.experiments.agents.clocks import DRIFT, ClockComparison

MS = 1_000_000
S = 1_000 * MS


def exchange(
    clocks: ClockComparison, at_ns: int, true_ns: int, there_ns: int, back_ns: int, *, work_ns: int = MS
) -> None:
    """Do one round trip with the given delays; ``true_ns`` is ours minus theirs at that time."""
    arrives_ns = at_ns + there_ns
    returns_ns = arrives_ns + work_ns
    clocks.add(at_ns, arrives_ns - true_ns, returns_ns - true_ns, returns_ns + back_ns)


def test_equal_delays_give_the_exact_difference_and_half_the_round_trip_as_its_error() -> None:
    clocks = ClockComparison()
    exchange(clocks, 5 * S, 3 * S, 20 * MS, 20 * MS)
    assert clocks.round_trip_ns == 40 * MS
    assert clocks.uncertainty_ns == 20 * MS
    assert clocks.anchor() == 3 * S


def test_delays_that_differ_are_within_the_error() -> None:
    clocks = ClockComparison()
    exchange(clocks, 0, -7 * S, 35 * MS, 5 * MS)
    assert abs(clocks.anchor() + 7 * S) == 15 * MS
    assert clocks.uncertainty_ns == 20 * MS


def test_a_quick_round_trip_makes_all_slow_ones_unimportant() -> None:
    clocks = ClockComparison()
    exchange(clocks, 0, S, 300 * MS, 20 * MS)
    exchange(clocks, S, S, 10 * MS, 10 * MS)
    exchange(clocks, 2 * S, S, 20 * MS, 500 * MS)
    assert clocks.uncertainty_ns < 10.3 * MS
    assert abs(clocks.anchor() - S) < 0.3 * MS


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_is_always_within_the_error_that_is_told(seed: int) -> None:
    chance = random.Random(seed)
    clocks = ClockComparison()
    drift = chance.uniform(-DRIFT, DRIFT) * 0.9
    start_ns = chance.randrange(-(10**15), 10**15)
    anchor_ns = None
    for number in range(1200):
        at_ns = number * S // 2
        true_ns = start_ns + round(drift * at_ns)
        there_ns, back_ns = (round(chance.expovariate(1 / (20 * MS))) + MS for _ in range(2))
        exchange(clocks, at_ns, true_ns, there_ns, back_ns, work_ns=chance.randrange(MS))
        if number == 20:
            anchor_ns = clocks.anchor()
        if anchor_ns is not None:
            assert abs(true_ns - anchor_ns) <= clocks.uncertainty_ns + DRIFT * S
    assert clocks.anchor() == anchor_ns


def test_a_clock_that_stood_still_is_noticed() -> None:
    clocks = ClockComparison()
    exchange(clocks, 0, S, 5 * MS, 5 * MS)
    clocks.anchor()
    exchange(clocks, S, 4 * S, 5 * MS, 5 * MS)  # the other machine slept for three seconds
    assert clocks.uncertainty_ns >= 3 * S


def test_an_answer_that_cannot_be_true_is_left_out() -> None:
    clocks = ClockComparison()
    clocks.add(100, 0, 50, 120)  # it worked on it for longer than the round trip took
    assert clocks.samples == 0
