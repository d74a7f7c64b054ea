"""Timers, counters, the memory alarm and the prefetch window: small parts, each alone."""

from __future__ import annotations

from backpressure.broker.consuming import Prefetch
from backpressure.broker.meters import Counters, MemoryAlarm
from backpressure.broker.timers import Timers


def test_timers_run_in_order_of_their_time_and_then_of_their_making() -> None:
    timers, seen = Timers(), []
    for when_s, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")):
        timers.at(when_s, lambda name=name: seen.append(name))
    timers.run(2.0)
    assert seen == ["a", "b", "c"]
    assert timers.next_deadline() == 3.0


def test_a_cancelled_timer_is_not_a_deadline() -> None:
    timers = Timers()
    timers.at(1.0, lambda: None).cancel()
    assert timers.next_deadline() is None


def test_a_timer_may_add_one_that_is_due_at_once() -> None:
    timers, seen = Timers(), []
    timers.at(1.0, lambda: seen.append("outer") or (timers.at(1.0, lambda: seen.append("inner")) and None))
    timers.run(1.0)
    assert seen == ["outer", "inner"]


def test_a_rate_is_the_difference_of_totals_over_the_window() -> None:
    counters = Counters()
    for second in range(20):
        counters.sample(float(second))
        counters.totals["publish"] += 100 if second >= 10 else 0
    assert counters.rate("publish", 20.0) == 100.0
    assert counters.report(20.0) == {"publish": 1000, "publish_details": {"rate": 100.0}}


def test_there_is_no_rate_before_the_first_sample() -> None:
    assert Counters().rate("publish", 5.0) == 0.0


def test_the_alarm_starts_above_its_limit_and_ends_clearly_below() -> None:
    changes: list[bool] = []
    alarm = MemoryAlarm(1000, changes.append)
    for delta in (1000, 1, -2, -40):
        alarm.add(delta)
    assert changes == [True]
    alarm.add(-10)
    assert changes == [True, False]


def test_a_forced_alarm_needs_no_memory_and_no_limit() -> None:
    changes: list[bool] = []
    alarm = MemoryAlarm(0, changes.append)
    alarm.add(10**12)
    assert not alarm.active
    alarm.forced = True
    alarm.forced = False
    assert changes == [True, False]


def test_a_window_is_full_at_its_limit_and_never_without_one() -> None:
    window, unlimited = Prefetch(2), Prefetch()
    assert [window.full, unlimited.full] == [False, False]
    window.unacked = unlimited.unacked = 2
    assert [window.full, unlimited.full] == [True, False]


def test_a_deadline_before_all_others_is_reported_at_once_and_only_then() -> None:
    timers = Timers()
    told: list[float | None] = []
    timers.on_earlier = lambda: told.append(timers.next_deadline())
    for when_s in (3.0, 5.0, 2.0, 2.5):
        timers.at(when_s, lambda: None)
    assert told == [3.0, 2.0]


def test_deadlines_that_are_set_and_cancelled_all_the_time_are_forgotten() -> None:
    timers, ran = Timers(), []
    timers.at(7200.0, lambda: ran.append("kept"))
    for _ in range(10_000):
        timers.at(3600.0, lambda: ran.append("never")).cancel()
    assert len(timers) < 200
    timers.run(7200.0)
    assert (ran, len(timers)) == (["kept"], 0)


def test_cancelling_a_timer_that_ran_or_was_cancelled_changes_nothing() -> None:
    timers = Timers()
    timer = timers.at(1.0, lambda: None)
    timers.run(1.0)
    for _ in range(1000):
        timer.cancel()
    timers.at(2.0, lambda: None)
    assert timers.next_deadline() == 2.0
