"""Profiles of the offered load, and schedules that follow them."""

from __future__ import annotations

from math import inf

import pytest

from backpressure.core.profiles import Bursts, Day, Profile, parse_profile, read_rates
from backpressure.core.schedule import ArrivalSchedule


def offered(profile: Profile, peak_per_s: float, length_s: float) -> int:
    """Return how many messages a schedule offers that follows the profile, as a producer does."""
    schedule = ArrivalSchedule(0.0, 10.0, 0.0)
    now = 0.0
    while now < length_s:
        schedule.set_rate(peak_per_s * profile.share(now), now)
        now = min(profile.next_change_s(now), length_s)
        schedule.pending(now)
    return schedule.offered


def test_bursts_offer_the_peak_and_then_nothing() -> None:
    bursts = parse_profile("bursts:on_s=1,off_s=4", 100)
    assert [bursts.share(at_s) for at_s in (0, 0.99, 1, 4.99, 5, 6)] == [1, 1, 0, 0, 1, 0]
    assert [bursts.next_change_s(at_s) for at_s in (0, 0.5, 1, 4, 5)] == [1, 1, 5, 5, 6]
    assert offered(bursts, 100, 20) == pytest.approx(400, abs=8)
    assert Bursts(1, 1, low=0.5).share(1.5) == 0.5


def test_a_day_is_quiet_at_night_and_comes_again() -> None:
    day = Day(length_s=60)
    night, evening = day.share(60 * 3 / 24), day.share(60 * 18 / 24)
    assert night < 0.15
    assert evening == 1.0
    assert day.share(7.5) == day.share(67.5)
    assert offered(day, 100, 60) == pytest.approx(6000 * 0.59, rel=0.05)


def test_a_table_holds_each_rate_until_the_next_one_faster_if_asked() -> None:
    table = read_rates("t_s,rate\n10,50\n# lunch\n20,200\n40,0\n", speed=10, peak_per_s=200)
    assert [table.share(at_s) for at_s in (0, 0.99, 1, 2.99, 3, 99)] == [0.25, 0.25, 1, 1, 0, 0]
    assert [table.next_change_s(at_s) for at_s in (0, 1, 3)] == [1, 3, inf]
    assert table.peak_per_s() == 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [("t,r\n", "no rate above 0"), ("1,5\n1,6\n", "line 2: times have to rise"), ("1,5\n2,x\n", "line 2: expected"),
     ("1,-5\n", "cannot be negative")],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_refused_by_its_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_rates(text, 1, 100)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("wave", "expected steady, bursts"), ("bursts:on=1", "bursts takes on_s"), ("day:length_s=0", "above 0"),
     ("table", "needs file"), ("bursts:on_s=x", "above 0"), ("steady:x=1", "expected steady")],
)  # fmt: skip
def test_a_profile_that_is_none_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_profile(text, 100)


def test_recorded_messages_come_at_their_times_and_then_no_more() -> None:
    schedule = ArrivalSchedule(1000.0, 0.1, 5.0, times_s=[0.0, 0.5, 0.5, 2.0])
    schedule.restart(10.0)
    assert schedule.pending(10.0) == 1
    assert schedule.wait_s(10.0) == 0
    assert schedule.take() == 10.0
    assert schedule.wait_s(10.1) == pytest.approx(0.4)
    assert schedule.pending(11.0) == 2
    assert [schedule.take(), schedule.take()] == [10.5, 10.5]
    assert not schedule.exhausted
    assert schedule.pending(20.0) == 1
    assert schedule.take() == 12.0
    assert schedule.exhausted
    assert schedule.wait_s(20.0) == inf


def test_nothing_comes_at_rate_0_and_the_first_message_after_it_is_a_gap_away() -> None:
    schedule = ArrivalSchedule(10.0, 10.0, 0.0)
    assert schedule.pending(0.0) == 1
    schedule.set_rate(0.0, 0.0)
    assert schedule.pending(100.0) == 1
    schedule.set_rate(10.0, 100.0)
    assert schedule.pending(100.05) == 1
    assert schedule.pending(100.15) == 2
