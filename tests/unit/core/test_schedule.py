"""Schedules: late timers delay single messages, never the mean."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.schedule import ArrivalSchedule, ServiceSchedule


def poll(schedule: ArrivalSchedule, until: float, step_s: float) -> Iterator[float]:
    """Yield the arrivals taken when looking every ``step_s``."""
    now = 0.0
    while now <= until:
        for _ in range(schedule.pending(now)):
            yield schedule.take()
        now += step_s


def test_even_arrivals_come_at_multiples_of_the_gap_with_no_drift() -> None:
    arrivals = list(poll(ArrivalSchedule(1000, room_s=1.0, now=0.0), until=30.0, step_s=0.0137))
    assert arrivals == [number / 1000 for number in range(len(arrivals))]
    assert len(arrivals) == pytest.approx(30_000, abs=14)


def test_random_arrivals_have_the_same_mean() -> None:
    random = Random(4)
    schedule = ArrivalSchedule(1000, room_s=1.0, now=0.0, gap=lambda: random.expovariate(1))
    arrivals = list(poll(schedule, until=30.0, step_s=0.01))
    assert len(arrivals) == pytest.approx(30_000, rel=0.02)
    assert arrivals == sorted(arrivals)


@given(st.floats(0.1, 1e4), st.floats(0.001, 2), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 500)), max_size=30))
def test_every_arrival_is_offered_once_and_waits_was_taken_or_was_held_back(
    rate_per_s: float, room_s: float, looks: list[tuple[float, int]]
) -> None:
    schedule = ArrivalSchedule(rate_per_s, room_s, now=0.0)
    now, taken = 0.0, 0
    for gap_s, wanted in looks:
        now += gap_s
        waiting = schedule.pending(now)
        assert waiting <= max(1, int(rate_per_s * room_s))
        assert schedule.offered == taken + waiting + schedule.held_back
        assert schedule.offered == pytest.approx(now * rate_per_s + 1, abs=1.01)
        for _ in range(min(wanted, waiting)):
            assert schedule.take() <= now
            taken += 1


def test_a_throttled_source_keeps_no_hidden_queue() -> None:
    schedule = ArrivalSchedule(1000, room_s=0.1, now=0.0)
    assert schedule.pending(60.0) == 100
    assert (schedule.offered, schedule.held_back) == (60_001, 59_901)


def test_random_arrivals_without_room_are_held_back_too() -> None:
    schedule = ArrivalSchedule(10, room_s=0.2, now=0.0, gap=lambda: 1.0)
    assert schedule.pending(0.95) == 2
    assert (schedule.offered, schedule.held_back) == (10, 8)


def test_taking_makes_room_for_the_arrivals_that_follow() -> None:
    schedule = ArrivalSchedule(10, room_s=0.2, now=0.0)
    schedule.pending(1.05)
    assert [schedule.take(), schedule.take()] == [0.0, 0.1]
    assert schedule.pending(1.15) == 1
    assert schedule.take() == pytest.approx(1.1)


def test_the_wait_ends_with_the_next_arrival() -> None:
    schedule = ArrivalSchedule(10, room_s=1.0, now=0.0)
    assert schedule.wait_s(0.0) == 0
    schedule.take()
    assert schedule.wait_s(0.04) == pytest.approx(0.06)


def test_a_new_rate_shortens_what_remains_of_the_current_gap() -> None:
    schedule = ArrivalSchedule(1, room_s=1.0, now=0.0)
    assert (schedule.pending(0.0), schedule.take()) == (1, 0.0)
    schedule.set_rate(10, now=0.5)  # half a gap remains: 0.05 s at the new rate
    assert schedule.wait_s(0.5) == pytest.approx(0.05)
    assert schedule.pending(0.56) == 1
    assert schedule.wait_s(0.56) == 0


def test_setting_the_same_rate_changes_nothing() -> None:
    often, never = (ArrivalSchedule(7, room_s=9.0, now=0.0) for _ in range(2))
    for tenth in range(50):
        often.set_rate(7, now=tenth / 10)
    assert often.pending(5.0) == never.pending(5.0)
    assert [often.take() for _ in range(30)] == [never.take() for _ in range(30)]


def test_arrivals_before_a_change_of_rate_belong_to_the_old_one() -> None:
    schedule = ArrivalSchedule(100, room_s=100.0, now=0.0)
    schedule.set_rate(10, now=1.005)  # half a gap remains: the next arrival is at 1.055
    assert schedule.pending(1.005) == 101
    assert schedule.pending(2.06) == 101 + 11


def test_a_restart_forgets_what_waited_and_offers_again() -> None:
    schedule = ArrivalSchedule(100, room_s=1.0, now=0.0)
    schedule.pending(0.5)
    schedule.restart(10.0)
    assert schedule.pending(10.0) == 1
    assert schedule.take() == 10.0


def test_work_that_wakes_up_late_every_time_still_reaches_its_exact_rate() -> None:
    random = Random(5)
    work = ServiceSchedule(catch_up_s=0.1)
    now = 100.0
    _, first_end = work.begin(available_at=now, service_s=0.01, now=now)
    end = first_end
    for _ in range(3000):
        now = end + random.choice([0.0, 0.0002, 0.003, 0.02])
        _, end = work.begin(available_at=0.0, service_s=0.01, now=now)
    assert end - first_end == pytest.approx(30.0, abs=1e-6)


def test_work_starts_when_both_message_and_worker_are_there() -> None:
    work = ServiceSchedule()
    assert work.begin(available_at=10.0, service_s=1.0, now=10.0) == (10.0, 11.0)
    assert work.begin(available_at=10.5, service_s=1.0, now=11.0) == (11.0, 12.0)
    assert work.begin(available_at=20.0, service_s=1.0, now=20.0) == (20.0, 21.0)


def test_a_real_stall_costs_its_capacity_but_for_the_little_that_is_caught_up() -> None:
    work = ServiceSchedule(catch_up_s=0.1)
    work.begin(available_at=0.0, service_s=0.01, now=0.0)
    start, end = work.begin(available_at=0.0, service_s=0.01, now=60.0)
    assert (start, end) == pytest.approx((59.9, 59.91))


def test_arrivals_that_become_random_keep_their_mean_and_what_was_offered() -> None:
    source = Random(3)
    schedule = ArrivalSchedule(100.0, 1000.0, 0.0)
    assert schedule.pending(10.0) == 1001
    schedule.reshape(1000.0, lambda: source.expovariate(1.0), 10.0)
    assert schedule.pending(110.0) == pytest.approx(11_000, rel=0.03)
    schedule.reshape(0.1, None, 110.0)
    assert schedule.offered == pytest.approx(11_000, rel=0.03)
    while schedule.pending(110.0):
        schedule.take()
    assert schedule.pending(120.0) == 10  # a tenth of a second's worth, the rest is held back


def test_at_an_infinite_rate_one_arrival_always_waits_and_none_is_held_back() -> None:
    schedule = ArrivalSchedule(inf, room_s=0.1, now=0.0)
    assert [schedule.pending(5.0), schedule.pending(6.0)] == [1, 1]
    assert (schedule.take(), schedule.wait_s(7.0), schedule.take()) == (5.0, 0.0, 7.0)
    assert (schedule.offered, schedule.held_back) == (2, 0)


def test_a_rate_becomes_infinite_and_finite_again_at_the_moment_it_is_changed() -> None:
    schedule = ArrivalSchedule(10, room_s=1.0, now=0.0)
    assert schedule.pending(0.45) == 5
    schedule.set_rate(inf, 0.5)
    assert [schedule.take() for _ in range(schedule.pending(0.6))] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert (schedule.pending(3.0), schedule.take()) == (1, 3.0)
    schedule.set_rate(10, 4.0)
    assert [schedule.take() for _ in range(schedule.pending(4.25))] == pytest.approx([4.0, 4.1, 4.2])
