"""The law pace, one regime at a time; tests/closed_loop shows it at work."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from math import inf, sqrt

import pytest

from backpressure.core.controllers import LawConfig, create
from backpressure.core.controllers.pace import inverse_loss
from backpressure.core.signals import Law, SignalQuality, Signals

Steady = Callable[..., Signals]


def settled(steady: Steady, *, depth: int = 3, ticks: int = 50, **changes: float) -> Law:
    """Return a law that has watched 100 msg/s and an even queue up to time ``ticks``/10."""
    law = create("pace")
    for tick in range(ticks + 1):
        law.update(steady(tick / 10, depth=depth, **changes), tick / 10)
    return law


def test_a_step_worked_out_by_hand(steady: Steady) -> None:
    law = create("pace")
    law.update(steady(0.0, depth=3, service_cv2=0.0), 0.0)
    decision = law.update(steady(0.1, depth=3, service_cv2=0.0), 0.1)
    dispersion = 1 / 11  # a cv² of 0 seen over 10 messages, against a prior of one message with 1
    bottleneck = 100 * 10 / (10 + 2 * dispersion)
    passing = bottleneck * 0.1 / (0.6 * 1.4)  # gain 0.6, signals of age 0
    sigma = sqrt(dispersion * passing)
    spread = inverse_loss(0.001 * passing / sigma) * sigma
    setpoint = 1 + max(0.02 * bottleneck, spread)
    assert decision.bottleneck_per_s == pytest.approx(bottleneck)
    assert decision.rate_per_s == pytest.approx(bottleneck + 0.6 / 0.1 * (setpoint - 3))
    assert decision.reason == "holding the queue"


def test_it_settles_at_the_bottleneck_rate_with_the_queue_at_its_setpoint(steady: Steady) -> None:
    decision = settled(steady).update(steady(5.1, depth=3), 5.1)
    assert decision.rate_per_s == pytest.approx(100, rel=0.1)
    assert decision.bottleneck_per_s == pytest.approx(100, rel=0.01)


def test_a_deep_queue_is_drained_and_a_shallow_one_filled(steady: Steady) -> None:
    deep = settled(steady).update(steady(5.1, depth=60), 5.1)
    assert (deep.rate_per_s, deep.reason) == (0.0, "draining the queue")
    assert settled(steady).update(steady(5.1, depth=0), 5.1).rate_per_s > 100


def test_consumers_that_say_they_are_gone_stop_it_at_once_and_their_return_restores_the_rate(steady: Steady) -> None:
    law = settled(steady)
    gone = law.update(steady(5.0, depth=9, depth_age_s=0.0, consumers=0, confirmed_total=509), 5.1)
    assert (gone.rate_per_s, gone.reason) == (0.0, "nobody consumes")
    back = law.update(steady(5.2, depth=3), 5.2)
    assert back.rate_per_s == pytest.approx(100, rel=0.2)


def test_consumers_that_pause_and_go_on_reporting_are_not_forgotten_for_good(steady: Steady) -> None:
    law = settled(steady)
    for tick in (51, 52, 53):  # the broker counts none of them, so no counters have an age
        law.update(steady(tick / 10, depth=3, consumers=0, departed_age_s=inf), tick / 10)
    back = law.update(steady(5.4, depth=3), 5.4)
    assert back.rate_per_s == pytest.approx(100, rel=0.3)


def test_a_stop_without_a_word_is_seen_from_the_first_interval_without_departures(steady: Steady) -> None:
    law = settled(steady)
    frozen = {"departed_total": 500, "busy_total_s": 5.0, "confirmed_total": 513}
    decision = law.update(steady(5.1, depth=13, **frozen), 5.1)
    assert decision.bottleneck_per_s == pytest.approx(0.0, abs=6.0)
    assert decision.rate_per_s == 0.0


def test_before_anybody_consumes_it_queues_a_few_messages_and_no_more(steady: Steady) -> None:
    law = create("pace")
    sent = 0.0
    for tick in range(100):
        signals = steady(0.0, depth=int(sent), consumers=0, confirmed_total=int(sent), observed_total_s=tick / 10)
        decision = law.update(signals, tick / 10)
        sent += decision.rate_per_s / 10
        assert decision.reason == "nobody consumes"
    assert 2 <= sent <= 4


def test_before_a_group_consumes_whose_progress_shows_late_it_queues_a_few_messages_and_no_more() -> None:
    law = create("pace")
    sent = 0.0
    for tick in range(100):  # as Kafka's offsets tell: what is there, never what waits
        signals = Signals(
            ready=None,
            backlog=int(sent),
            backlog_age_s=0.0,
            depth_age_s=0.0,
            confirmed_total=int(sent),
            consumers=0,
            demand_per_s=1000.0,
            quality=SignalQuality.LATE,
        )
        sent += law.update(signals, tick / 10).rate_per_s / 10
    assert 2 <= sent <= 4


def test_while_stopped_it_sends_nothing_more(steady: Steady) -> None:
    law = settled(steady)
    sent = 0.0
    for tick in range(51, 150):
        stopped = {"departed_total": 500, "observed_total_s": tick / 10, "busy_total_s": 5.0}
        signals = steady(5.0, depth=3 + int(sent), **{**stopped, "confirmed_total": 503 + int(sent)})
        sent += law.update(signals, tick / 10).rate_per_s / 10
    assert sent < 10  # what went out in the tick before the stop was seen
    assert law.update(signals, 15.0).rate_per_s == 0.0


def test_capacity_is_known_from_busy_time_even_while_starved(steady: Steady) -> None:
    law = create("pace")
    for tick in range(30):  # 50 msg/s, and the consumer was busy for a quarter of the time: it can do 200
        now = tick / 10
        decision = law.update(steady(now, depth=0, rate_per_s=50.0, busy_total_s=now / 4), now)
    assert decision.bottleneck_per_s == pytest.approx(200, rel=0.02)


def test_without_busy_times_it_doubles_at_most_once_in_a_loop_time(steady: Steady) -> None:
    law = create("pace")
    rates = []
    for tick in range(20):
        now = tick / 10
        unknown = {"departed_total": None, "observed_total_s": None, "busy_total_s": None, "feedback_age_s": 1e9}
        rates.append(law.update(steady(now, depth=0, rate_per_s=0.0, unacked=None, **unknown), now).rate_per_s)
    growth = [after / before for before, after in pairwise(rates)]
    assert max(growth) <= 2.0 * 1.05
    assert rates[-1] > 16 * rates[0]


def test_it_never_grows_while_application_limited(steady: Steady) -> None:
    law = create("pace")
    for tick in range(100):
        now = tick / 10
        unknown = {"departed_total": None, "observed_total_s": None, "busy_total_s": None, "feedback_age_s": 1e9}
        signals = steady(now, depth=0, rate_per_s=20.0, unacked=None, application_limited=True, **unknown)
        decision = law.update(signals, now)
    assert decision.rate_per_s < 100


def test_a_blocked_connection_freezes_the_estimate(steady: Steady) -> None:
    law = settled(steady)
    before = law.update(steady(5.1, depth=3), 5.1).rate_per_s
    for tick in range(52, 100):
        blocked = steady(5.1, depth=0, blocked=True)
        decision = law.update(blocked, tick / 10)
    assert decision.rate_per_s == before
    assert decision.bottleneck_per_s == pytest.approx(100, rel=0.01)


def test_a_refusal_halves_the_rate_for_one_loop_time_and_lowers_the_setpoint(steady: Steady) -> None:
    law = settled(steady)
    usual = law.update(steady(5.1, depth=3), 5.1).rate_per_s
    cut = law.update(steady(5.2, depth=3, nacked_total=7), 5.2)
    assert cut.rate_per_s < 0.55 * usual
    after = law.update(steady(5.5, depth=3, nacked_total=7), 5.5)
    assert after.reason != cut.reason
    assert 0.5 * usual < after.rate_per_s < usual


def test_more_refusals_within_the_loop_time_do_not_cut_again(steady: Steady) -> None:
    law = settled(steady)
    law.update(steady(5.1, depth=10, nacked_total=1), 5.1)
    once = law._cap  # type: ignore[attr-defined]  # the setpoint shows only through the rate
    law.update(steady(5.2, depth=10, nacked_total=2), 5.2)
    assert law._cap >= once  # type: ignore[attr-defined]


def test_without_fresh_signals_it_decays_to_the_floor(steady: Steady) -> None:
    law = settled(steady)
    stale = {"depth_age_s": 1.0, "feedback_age_s": 1.0}
    rates = [law.update(steady(5.0, depth=3, **stale), 5.0 + tick / 10).rate_per_s for tick in range(1, 100)]
    assert all(after <= before for before, after in pairwise(rates))
    assert rates[4] == pytest.approx(rates[0] * 0.5 ** (0.4 / 0.5))
    assert rates[-1] == 1.0


def test_with_reports_alone_the_depth_is_counted(steady: Steady) -> None:
    law = create("pace")
    for tick in range(51):
        now = tick / 10
        decision = law.update(steady(now, depth=3, ready=None, depth_age_s=1e9), now)
    assert decision.bottleneck_per_s == pytest.approx(100, rel=0.01)
    deeper = law.update(steady(5.1, depth=3, ready=None, depth_age_s=1e9, confirmed_total=600), 5.1)
    assert deeper.rate_per_s == 0.0


def test_a_producer_takes_its_share_of_the_rate(steady: Steady) -> None:
    whole = settled(steady).update(steady(5.1, depth=3), 5.1).rate_per_s
    part = settled(steady, share=0.25).update(steady(5.1, depth=3, share=0.25), 5.1).rate_per_s
    assert part == pytest.approx(whole / 4)


def test_room_is_left_for_unreported_arrivals(steady: Steady) -> None:
    law = create("pace")
    for tick in range(200):  # 100 msg/s leave, 60 of ours come, and the depth stays: 40 are a stranger's
        now = tick / 10
        decision = law.update(steady(now, depth=4, confirmed_total=round(60 * now) + 4, departed_age_s=0.05), now)
    assert law._bottleneck.queue.unreported_per_s == pytest.approx(40, rel=0.1)  # type: ignore[attr-defined]  # the cause
    assert decision.rate_per_s < 80


def test_no_more_than_a_setpoint_may_be_unconfirmed_beyond_what_is_usual(steady: Steady) -> None:
    law = settled(steady)
    for tick in range(51, 61):
        decision = law.update(
            steady(tick / 10, depth=3, confirm_latency_s=0.01, confirm_latency_min_s=0.005), tick / 10
        )
    assert decision.window is not None
    assert decision.window == pytest.approx(1 + 3 + 2, abs=1)


def test_consumers_without_work_beside_a_broker_that_stalls_are_not_slower(steady: Steady) -> None:
    law = settled(steady)
    for tick in range(51, 61):
        law.update(steady(tick / 10, depth=3, confirm_latency_s=0.002, confirm_latency_min_s=0.001), tick / 10)
    signals = steady(6.1, depth=6, departed_total=601, busy_total_s=6.01, confirm_latency_s=0.05)
    decision = law.update(signals, 6.1)
    assert decision.bottleneck_per_s == pytest.approx(100, rel=0.02)


def test_more_consumers_are_worth_their_rate_from_the_moment_they_are_there(steady: Steady) -> None:
    law = settled(steady)
    decision = law.update(steady(5.1, depth=3, consumers=3), 5.1)
    assert decision.bottleneck_per_s == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize("target_wait_s", [0.02, 0.5])
def test_the_setpoint_follows_the_target_wait(steady: Steady, target_wait_s: float) -> None:
    law = create("pace", LawConfig(target_wait_s=target_wait_s))
    balanced = 1 + round(target_wait_s * 100)
    for tick in range(51):
        decision = law.update(steady(tick / 10, depth=balanced), tick / 10)
    assert decision.rate_per_s == pytest.approx(100, rel=0.1)


def test_an_empty_queue_that_nothing_fills_raises_the_rate_to_a_few_times_the_demand_and_no_further(
    steady: Steady,
) -> None:
    law = create("pace")
    for tick in range(6000):  # ten minutes with an empty queue, held up by something other than the law
        now = tick / 10
        departed = {"departed_total": None, "observed_total_s": None, "busy_total_s": None}
        decision = law.update(steady(now, depth=0, rate_per_s=50.0, demand_per_s=500.0, **departed), now)
    assert 500 <= decision.rate_per_s <= 4000


def test_what_a_fleet_reports_counts_for_what_it_tells_not_for_what_it_stands(steady: Steady) -> None:
    """A report of the last second that stands for seven is no seven seconds of evidence: the rate does not jump."""
    chance, departed, told_s = random.Random(1), 0.0, 0.0
    law, weight = create("pace", LawConfig()), 6.4
    estimates = []
    for tick in range(1, 300):
        for _ in range(3):  # reports in each tick, of 200 consumers; each has done some ten messages in a second
            gaps = (chance.expovariate(10.0) for _ in range(100))
            recent, at_s = 0, next(gaps)
            while at_s < 1.0:
                recent, at_s = recent + 1, at_s + next(gaps)
            departed += weight * recent
            told_s += 1.0
        signals = steady(
            weight * told_s, depth=600, departed_total=round(departed), told_total_s=told_s, consumers=200,
            report_interval_s=weight, confirmed_total=200 * tick + 600, backlog=600, backlog_age_s=0.0,
        )  # fmt: skip
        estimates.append(law.update(signals, tick / 10).bottleneck_per_s or 0.0)
    settled = estimates[50:]
    assert min(settled) >= 0.9 * 2000
    assert max(settled) <= 1.1 * 2000


def test_producers_of_a_fleet_agree_on_how_much_they_queue(steady: Steady) -> None:
    """Who has seen idle consumers queues more than who has not, and would send all the more: each follows what is."""
    law = create("pace", LawConfig())
    rates = []
    for tick in range(1, 300):
        observed_s = 20.0 * tick
        decision = law.update(
            steady(
                observed_s, depth=800, departed_total=round(10 * observed_s), told_total_s=observed_s / 6.4,
                consumers=200, report_interval_s=6.4, confirmed_total=200 * tick + 800, backlog=800, backlog_age_s=0.0,
            ),
            tick / 10,
        )  # fmt: skip
        rates.append(decision.rate_per_s)
    assert max(rates[10:20]) <= 0.3 * 2000
    assert rates[-1] >= 0.5 * 2000
