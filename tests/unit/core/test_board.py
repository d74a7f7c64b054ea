"""One view of the loop from reports, readings and own state: monotonic, fair, and unknown where it is unknown."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest

from backpressure.core.board import OwnState, SignalBoard
from backpressure.core.evidence import OffsetReading, QueueStatistics
from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.core.sharing import fair_share
from backpressure.core.signals import Decision, Signals
from backpressure.core.sums import FleetSum, SumNews, decode_sum, encode_sum

OWN = OwnState(confirmed=10, demand_per_s=1000.0)

CONSUMER = ConsumerReport(
    id="c", pid=1, host="h", at_ns=0, queue="q", delivered=0, processed=0, failed=0, retried=0, dead_lettered=0,
    redelivered=0, duplicates=0, out_of_order=0, held=0, prefetch=3, paused=False, capacity_per_s=None, busy_s=0.0,
    service_sum_s=0.0, service_sum_s2=0.0, rss_bytes=0, cpu_s=0.0,
)  # fmt: skip

PRODUCER = ProducerReport(
    id="p", session=2, pid=2, host="h", at_ns=0, queue="q", offered=0, published=0, confirmed=0, nacked=0, rejected=0,
    returned=0, republished=0, in_flight=0, window=0, target_rate_per_s=1000.0, pacing_rate_per_s=0.0, weight=1.0,
    application_limited=False, blocked=False, blocked_events=0, strategy="pace", reason="", rss_bytes=0, cpu_s=0.0,
)  # fmt: skip

SUM = FleetSum(
    queue="q", session=3, first=3, second=7, at_ns=0, confirmed=0, departed=0.0, observed_s=0.0, busy_s=0.0, told_s=0.0,
    reporting=200, working=200, held=400, producers=50, counted_ready=1, counted_unacked=400, counted_age_s=0.05,
    departed_age_s=1.0, newest_s=0.1, interval_s=2.0, service_mean_s=0.1, service_cv2=1.0, flow_per_s=500.0,
    left_per_s=500.0, weights=50.0, bottleneck_per_s=1000.0, extra=60.0, next_s=1.0, report_s=2.0,
)  # fmt: skip

DECISION = Decision(20.0, "", bottleneck_per_s=100.0, extra=7.0)


def consumer(at_s: float, processed: int, **changes: object) -> ConsumerReport:
    """A consumer that takes 5 ms a message."""
    report = replace(CONSUMER, at_ns=int(at_s * 1e9), processed=processed, busy_s=processed * 0.005)
    sums = {"service_sum_s": processed * 0.005, "service_sum_s2": processed * 0.005**2}
    return replace(report, **{**sums, **changes})  # type: ignore[arg-type]  # fields by name


def producer(at_s: float, **changes: object) -> ProducerReport:
    return replace(PRODUCER, at_ns=int(at_s * 1e9), **changes)  # type: ignore[arg-type]  # fields by name


def test_before_anything_is_heard_everything_is_unknown() -> None:
    signals = SignalBoard(1).signals(OWN, 0.0)
    assert (signals.ready, signals.depth, signals.unacked, signals.departed_total) == (None, None, None, None)
    assert (signals.consumers, signals.service_mean_s, signals.depth_age_s, signals.feedback_age_s) == (
        None, None, inf, inf,
    )  # fmt: skip
    assert (signals.producers, signals.share, signals.confirmed_total) == (1, 1.0, 10)


def test_a_reading_is_aged_and_depth_adds_what_the_consumers_hold() -> None:
    board = SignalBoard(1)
    board.on_reading(7, None, 1, 5.0)
    board.on_report(consumer(5.0, 100, held=3), 5.02)
    signals = board.signals(OWN, 5.1)
    assert (signals.ready, signals.unacked, signals.depth) == (7, 3, 10)
    assert signals.depth_age_s == pytest.approx(0.1)
    assert signals.feedback_age_s == pytest.approx(0.08)


def test_an_unacked_count_of_the_broker_is_used() -> None:
    board = SignalBoard(1)
    board.on_report(consumer(0.0, 0, held=3), 0.0)
    board.on_reading(7, 5, 1, 0.0)
    assert board.signals(OWN, 0.0).depth == 12


def test_departures_are_differences_from_the_first_report_on() -> None:
    board = SignalBoard(1)
    board.on_report(consumer(100.0, 1000), 0.0)
    assert board.signals(OWN, 0.0).departed_total == 0
    board.on_report(consumer(100.1, 1008, dead_lettered=2), 0.1)
    signals = board.signals(OWN, 0.1)
    assert signals.departed_total == 10
    assert signals.observed_total_s == pytest.approx(0.1)
    assert signals.busy_total_s == pytest.approx(0.04)


def test_a_report_that_overtook_another_is_dropped() -> None:
    board = SignalBoard(1)
    for at_s, processed in [(0.0, 0), (0.2, 20), (0.1, 10), (0.3, 30)]:
        board.on_report(consumer(at_s, processed), at_s)
    signals = board.signals(OWN, 0.3)
    assert signals.departed_total == 30
    assert signals.observed_total_s == pytest.approx(0.3)


def test_totals_stay_monotonic_when_a_consumer_restarts_vanishes_or_joins() -> None:
    board = SignalBoard(1, timeout_s=2.0)
    totals = []
    for tick in range(60):
        now = tick / 10
        board.on_reading(0, None, None, now)
        if tick < 20:
            board.on_report(consumer(now, 10 * tick), now)
        elif tick < 40:
            board.on_report(consumer(now, 10 * (tick - 20)), now)  # the same name, counting from zero
        if tick >= 30:
            board.on_report(consumer(now, 5000 + 10 * tick, pid=9), now)
        totals.append(board.signals(OWN, now).departed_total or 0)
    assert totals == sorted(totals)
    assert totals[-1] == 190 + 190 + 290


def test_reports_of_consumers_out_of_step_give_the_exact_rate_of_one() -> None:
    board = SignalBoard(1)
    for tick in range(30):
        now = tick / 20
        board.on_report(consumer(now, 5 * tick, pid=1 + tick % 2), now)  # each at 10 Hz, 100 msg/s, in turn
        signals = board.signals(OWN, now)
        if signals.observed_total_s:
            assert signals.departed_total == pytest.approx(100 * signals.observed_total_s)
    assert signals.consumers == 2
    assert signals.departed_age_s == pytest.approx(0.025)


def test_a_silent_consumer_stops_counting_as_a_worker_soon_and_as_present_later() -> None:
    board = SignalBoard(1, timeout_s=2.0)
    board.on_report(consumer(0.0, 0, held=3), 0.0)
    board.on_report(consumer(0.0, 0, pid=2, held=3), 0.0)
    board.on_report(consumer(1.0, 100, pid=2, held=3), 1.0)
    signals = board.signals(OWN, 1.1)
    assert (signals.consumers, signals.unacked) == (1, 6)
    assert board.signals(OWN, 2.1).unacked == 3


def test_when_the_broker_counts_fewer_consumers_the_longest_silent_are_gone() -> None:
    board = SignalBoard(1)
    board.on_report(consumer(0.0, 0, held=3), 0.0)
    board.on_report(consumer(0.1, 0, pid=2, held=2), 0.1)
    board.on_reading(5, None, 1, 0.15)
    signals = board.signals(OWN, 0.2)
    assert (signals.consumers, signals.unacked) == (1, 2)
    board.on_reading(5, None, 0, 0.25)
    assert board.signals(OWN, 0.3).consumers == 0


def test_paused_consumers_do_not_count_as_workers() -> None:
    board = SignalBoard(1)
    board.on_report(consumer(0.0, 0, paused=True), 0.0)
    board.on_report(consumer(0.0, 0, pid=2), 0.0)
    board.on_reading(0, None, 2, 0.0)
    assert board.signals(OWN, 0.0).consumers == 1


def test_strangers_among_the_consumers_make_departures_and_unacked_unknown_once_they_stay() -> None:
    board = SignalBoard(1, timeout_s=2.0)
    for tick in range(30):
        now = tick / 10
        board.on_report(consumer(now, 10 * tick), now)
        board.on_reading(3, None, 2, now)
        signals = board.signals(OWN, now)
        assert (signals.departed_total is None) == (tick > 10)
        assert (signals.unacked is None) == (tick > 10)
        assert signals.consumers == 2
    board.on_reading(3, None, 1, 3.0)
    assert board.signals(OWN, 3.0).departed_total == 290


def test_with_foreign_consumers_alone_the_probe_is_all_there_is() -> None:
    board = SignalBoard(1)
    board.on_reading(3, None, 2, 0.0)
    signals = board.signals(OWN, 0.0)
    assert (signals.consumers, signals.departed_total, signals.depth) == (2, None, 3)


def test_service_statistics_are_those_of_the_recent_past() -> None:
    board = SignalBoard(1)
    count, total, squares = 0, 0.0, 0.0
    for tick in range(100):
        now = tick / 10
        for service_s in (0.002, 0.006) if tick < 50 else (0.010, 0.010):
            count, total, squares = count + 1, total + service_s, squares + service_s**2
        board.on_report(consumer(now, count, service_sum_s=total, service_sum_s2=squares), now)
        signals = board.signals(OWN, now)
        if tick == 49:
            assert signals.service_mean_s == pytest.approx(0.004)
            assert signals.service_cv2 == pytest.approx(0.25)
    assert signals.service_mean_s == pytest.approx(0.010)
    assert signals.service_cv2 == pytest.approx(0.0, abs=1e-9)


def test_confirmed_adds_what_the_others_confirmed_since_they_were_first_heard() -> None:
    board = SignalBoard(1)
    board.on_report(producer(0.0, confirmed=500), 0.0)
    board.on_report(producer(0.1, confirmed=520), 0.1)
    board.on_report(producer(0.1, session=3, confirmed=7), 0.1)
    board.on_report(producer(0.2, session=3, confirmed=9), 0.2)
    assert board.signals(OWN, 0.2).confirmed_total == 10 + 20 + 2


def test_the_own_report_is_not_a_rival() -> None:
    board = SignalBoard(2)
    board.on_report(producer(0.0, confirmed=500), 0.0)
    board.on_report(producer(0.1, confirmed=600), 0.1)
    signals = board.signals(OWN, 0.1)
    assert (signals.producers, signals.share, signals.confirmed_total) == (1, 1.0, 10)


def test_a_rival_takes_its_weight_and_gives_it_back_when_it_falls_silent() -> None:
    board = SignalBoard(1, timeout_s=2.0)
    board.on_report(producer(0.0, weight=3.0), 0.0)
    assert board.signals(OWN, 0.1).share == pytest.approx(0.25)
    assert board.signals(replace(OWN, weight=3.0), 0.1).share == pytest.approx(0.5)
    board.on_report(producer(0.5, session=1), 0.5)  # its own: reports do arrive
    silent = board.signals(OWN, 0.5)
    assert (silent.share, silent.producers) == (1.0, 1)


def test_when_nothing_at_all_is_heard_no_rival_is_taken_for_gone() -> None:
    board = SignalBoard(1, timeout_s=2.0)
    board.on_report(producer(0.0), 0.0)
    assert board.signals(OWN, 1.9).share == pytest.approx(0.5)


def test_a_rival_needs_no_more_than_its_own_settings_let_it_use() -> None:
    board = SignalBoard(1)
    for tick in range(21):
        now = tick / 10
        board.on_report(producer(now, confirmed=2 * tick, usable_rate_per_s=20.0), now)
        signals = board.signals(replace(OWN, confirmed=8 * tick), now)
    assert signals.share == pytest.approx(0.8)


def test_a_rival_that_is_application_limited_keeps_what_it_needs_and_no_more() -> None:
    board = SignalBoard(1)
    for tick in range(21):  # it offers 20 msg/s of a common 100
        now = tick / 10
        board.on_report(producer(now, offered=2 * tick, confirmed=2 * tick, application_limited=True), now)
        signals = board.signals(replace(OWN, confirmed=8 * tick), now)
    assert signals.share == pytest.approx(0.8)
    board.on_report(producer(2.1, offered=42, confirmed=42, application_limited=False), 2.1)
    assert board.signals(replace(OWN, confirmed=168), 2.1).share == pytest.approx(0.5, rel=0.05)


def test_what_a_rival_has_sent_since_its_last_report_is_reckoned_by_its_pace() -> None:
    board = SignalBoard(1)
    board.on_report(producer(0.0, confirmed=0, pacing_rate_per_s=100.0), 0.0)
    assert board.signals(OWN, 0.2).confirmed_total == OWN.confirmed + 20
    board.on_report(producer(0.2, confirmed=15, pacing_rate_per_s=100.0), 0.2)
    assert board.signals(OWN, 0.2).confirmed_total == OWN.confirmed + 15
    board.on_report(producer(0.3, confirmed=15, pacing_rate_per_s=100.0, blocked=True), 0.3)
    assert board.signals(OWN, 0.5).confirmed_total == OWN.confirmed + 15


def shares_of_a_producer_that_gets(rate_per_s: int, seconds: int, **own: object) -> list[float]:
    """Beside a rival that gets 50 msg/s."""
    board = SignalBoard(1)
    shares = []
    for tick in range(10 * seconds):
        now = tick / 10
        board.on_report(producer(now, confirmed=5 * tick), now)
        state = replace(OWN, confirmed=rate_per_s * tick // 10, **own)  # type: ignore[arg-type]  # fields by name
        shares.append(board.signals(state, now).share)
    return shares


def test_a_producer_with_more_than_its_part_takes_less_and_one_with_less_takes_more() -> None:
    assert shares_of_a_producer_that_gets(50, 5)[-1] == pytest.approx(0.5, rel=0.01)
    assert shares_of_a_producer_that_gets(60, 5)[-1] < 0.47
    assert shares_of_a_producer_that_gets(40, 5)[-1] > 0.53


def test_the_correction_is_bounded_and_a_producer_that_sends_less_than_it_may_makes_none() -> None:
    assert shares_of_a_producer_that_gets(1, 60)[-1] == pytest.approx(0.75)
    assert shares_of_a_producer_that_gets(40, 5, application_limited=True)[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("weight", "total", "rivals", "share"),
    [
        (1.0, 100.0, [], 1.0),
        (1.0, 100.0, [(1.0, inf)], 0.5),
        (1.0, 100.0, [(1.0, 10.0)], 0.9),
        (1.0, 90.0, [(1.0, 60.0), (1.0, inf)], 1 / 3),  # needs more than its part: no less for it than for the others
        (1.0, 100.0, [(1.0, 10.0), (1.0, 30.0), (1.0, inf)], 0.3),
        (2.0, 100.0, [(1.0, 10.0), (1.0, inf)], 0.6),
        (1.0, 0.0, [(1.0, 10.0), (2.0, inf)], 0.25),
    ],
)
def test_shares_are_max_min_fair_by_weight(
    weight: float, total: float, rivals: list[tuple[float, float]], share: float
) -> None:
    assert fair_share(weight, total, rivals) == pytest.approx(share)


def test_the_shares_of_all_add_up_to_the_whole() -> None:
    needs = [(1.0, inf), (2.0, inf), (3.0, 5.0), (0.5, 1.0), (1.0, inf)]
    shares = [fair_share(*needs[i][:1], 100.0, needs[:i] + needs[i + 1 :]) for i in (0, 1, 4)]
    assert sum(shares) * 100 + 5.0 + 1.0 == pytest.approx(100.0)
    assert shares[1] == pytest.approx(2 * shares[0])


def test_processes_that_are_long_gone_are_forgotten() -> None:
    board = SignalBoard(1, timeout_s=1.0)
    for pid in range(100):
        board.on_report(consumer(0.0, 0, pid=pid), 0.0)
        board.on_report(producer(0.0, session=pid + 2), 0.0)
    board.signals(OWN, 301.0)
    assert not board._consumers
    assert not board._producers


# --- reports of other programs, and hostile ones ---


def told(board: SignalBoard, reports: list[tuple[float, ConsumerReport]], now: float) -> Signals:
    for arrived, report in reports:
        board.on_report(report, arrived)
    return board.signals(OWN, now)


def test_a_consumer_whose_clock_is_years_off_counts_as_any_other() -> None:
    shifts = [0.0, -1.7e9, 4e9]
    seen = [
        told(SignalBoard(1), [(0.1 * n, consumer(1.75e9 + shift + 0.1 * n, 20 * n)) for n in range(11)], 1.0)
        for shift in shifts
    ]
    assert [signals.departed_total for signals in seen] == [200] * 3
    assert [signals.observed_total_s for signals in seen] == pytest.approx([1.0] * 3)


@pytest.mark.parametrize("step_s", [-3600.0, -10.0, 10.0, 3600.0, 3e9])
def test_a_clock_that_is_set_costs_one_report(step_s: float) -> None:
    board = SignalBoard(1)
    reports = [(0.1 * n, consumer(1e6 + 0.1 * n + (step_s if n > 5 else 0), 10 * n)) for n in range(11)]
    signals = told(board, reports, 1.0)
    assert signals.departed_total == 90
    assert signals.observed_total_s == pytest.approx(0.9, rel=1e-4)
    assert signals.departed_age_s == pytest.approx(0.0)


ABSURD: dict[str, dict[str, object]] = {
    "messages that nobody can do": {"processed": 1 << 62},
    "dead letters that nobody can write": {"dead_lettered": 1 << 62},
    "fewer messages": {"processed": 3},
    "more work than there was time for": {"busy_s": 1e12},
    "less work": {"busy_s": -1e9},
    "less service": {"service_sum_s": -1.0},
    "another century": {"at_ns": 1 << 62},
    "the year 1970": {"at_ns": 0},
}


@pytest.mark.parametrize("absurd", ABSURD.values(), ids=ABSURD)
def test_a_report_that_cannot_be_true_costs_nothing(absurd: dict[str, object]) -> None:
    reports = [(0.1 * n, consumer(1e6 + 0.1 * n, 10 * n)) for n in range(21)]
    reports[10] = reports[10][0], replace(reports[10][1], **absurd)  # type: ignore[arg-type]  # fields by name
    signals = told(SignalBoard(1), reports, 2.0)
    assert signals.departed_total == 200
    assert signals.observed_total_s == pytest.approx(2.0)
    assert signals.busy_total_s == pytest.approx(1.0)
    assert signals.service_mean_s == pytest.approx(0.005)


def test_a_consumer_holds_no_more_than_its_prefetch_ever_allowed() -> None:
    board = SignalBoard(1)
    board.on_reading(0, None, 1, 0.0)
    board.on_report(consumer(0.0, 0, held=40, prefetch=40), 0.0)
    board.on_report(consumer(0.1, 5, held=35, prefetch=4), 0.1)
    assert board.signals(OWN, 0.1).unacked == 35  # it lowered its prefetch: what it was given, it still has
    board.on_report(consumer(0.2, 10, held=1 << 62, prefetch=4), 0.2)
    assert board.signals(OWN, 0.2).unacked == 40


def test_a_job_that_is_counted_when_it_ends_may_be_longer_than_an_interval() -> None:
    board = SignalBoard(1)
    for n in range(61):
        done = n // 20
        board.on_report(consumer(0.1 * n, done, busy_s=2.0 * done, prefetch=1), 0.1 * n)
    signals = board.signals(OWN, 6.0)
    assert (signals.departed_total, signals.busy_total_s) == (3, pytest.approx(6.0))


def test_a_consumer_that_does_not_tell_its_service_times_leaves_the_others_statistics_alone() -> None:
    board = SignalBoard(1)
    for n in range(11):
        board.on_report(consumer(0.1 * n, 10 * n), 0.1 * n)
        silent = consumer(0.1 * n, 500 * n, id="other", busy_s=0.1 * n, service_sum_s=0.0, service_sum_s2=0.0)
        board.on_report(silent, 0.1 * n)
    signals = board.signals(OWN, 1.0)
    assert signals.departed_total == 5100
    assert signals.service_mean_s == pytest.approx(0.005)


def test_squares_that_cannot_belong_to_the_sum_are_not_used() -> None:
    board = SignalBoard(1)
    for n in range(11):
        board.on_report(consumer(0.1 * n, 10 * n, service_sum_s2=1e15 * n), 0.1 * n)
    signals = board.signals(OWN, 1.0)
    assert (signals.service_cv2, signals.departed_total) == (None, 100)


def test_two_consumers_under_one_name_are_not_taken_for_one_that_is_fast() -> None:
    board = SignalBoard(1)
    for n in range(41):
        done = 100_000 + 5 * n if n % 2 else 5 * n
        board.on_report(consumer(1e6 + 0.1 * n, done), 0.1 * n)
    assert board.signals(OWN, 4.0).departed_total == 200


@pytest.mark.parametrize(
    "absurd",
    [{"confirmed": 1 << 62}, {"at_ns": 1 << 62}, {"at_ns": 0}, {"pacing_rate_per_s": 1e300}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_producer_that_reports_nonsense_is_counted_as_before_once_it_stops(absurd: dict[str, object]) -> None:
    board = SignalBoard(1)
    for n in range(21):
        report = producer(1e6 + 0.1 * n, confirmed=10 * n)
        board.on_report(replace(report, **absurd) if n == 10 else report, 0.1 * n)  # type: ignore[arg-type]  # by name
        assert board.signals(OWN, 0.1 * n).confirmed_total <= OWN.confirmed + 10 * n
    signals = board.signals(OWN, 2.0)
    assert signals.confirmed_total == OWN.confirmed + 200
    assert signals.producers == 2


def test_what_waits_in_a_client_library_is_seen_beside_the_reports_that_do_not_know_of_it() -> None:
    board = SignalBoard(1)
    for tick in range(30):
        now = tick / 10
        board.on_report(consumer(now, tick, held=1, prefetch=20), now)
        board.on_reading(0, None, 1, now)
        board.on_statistics(QueueStatistics(ready=0, unacked=17, arrived_s=now, fresh=True))
    signals = board.signals(OWN, 2.9)
    assert signals.departed_total == 29
    assert signals.unacked == 17
    assert board.has_guests is not bool(CONSUMER.rss_bytes)


def test_a_count_from_before_the_reports_is_not_taken_for_the_backlog_when_they_stop() -> None:
    board = SignalBoard(1)
    board.on_reading(100, 20, 1, 0.0)
    for tick in range(1, 600):
        board.on_report(consumer(tick / 10, tick), tick / 10)
        board.on_reading(0, None, 1, tick / 10)
    for tick in range(600, 640):  # the management API does not answer any more
        board.on_reading(0, None, 1, tick / 10)
    signals = board.signals(OWN, 64.0)
    assert (signals.departed_total, signals.backlog, signals.depth) == (None, None, 0)


def test_what_waits_in_a_client_library_is_forgotten_when_nothing_tells_of_it_any_more() -> None:
    board = SignalBoard(1)
    for tick in range(500):
        now = tick / 10
        board.on_report(consumer(now, tick, held=1, prefetch=20), now)
        board.on_reading(0, None, 1, now)
        if now < 3:
            board.on_statistics(QueueStatistics(ready=0, unacked=17, arrived_s=now, fresh=True))
    assert board.signals(OWN, 50.0).unacked == 1


def test_what_is_on_its_way_to_a_consumer_and_back_does_not_wait_in_its_client_library() -> None:
    board = SignalBoard(1)
    for tick in range(30):  # 100 messages a second, 0.2 s there and back
        now = tick / 10
        board.on_report(consumer(now, 10 * tick, held=1, prefetch=200), now)
        board.on_reading(0, None, 1, now)
        board.on_statistics(QueueStatistics(ready=0, unacked=21, arrived_s=now, fresh=True))
        signals = board.signals(replace(OWN, way_s=0.2), now)
    assert signals.unacked == 1


def test_a_consumer_without_work_has_nothing_that_waits_in_its_client_library() -> None:
    """Where counts are rare, what was true once would keep an empty queue closed."""
    board = SignalBoard(1)
    for tick in range(30):
        now = tick / 10
        board.on_report(consumer(now, min(tick, 20), held=tick < 20, prefetch=200, busy_s=min(now, 2.0)), now)
        board.on_reading(0, None, 1, now)
        if now < 2:
            board.on_statistics(QueueStatistics(ready=0, unacked=17, arrived_s=now, fresh=True))
            assert tick < 10 or (board.signals(OWN, now).unacked or 0) >= 15
    assert board.signals(OWN, 2.9).unacked == 0


@pytest.mark.parametrize(("busy", "unacked"), [(0.5, 1), (1.0, 14)])
def test_a_consumer_that_lacks_work_at_times_has_more_on_its_way_and_not_in_its_client_library(
    busy: float, unacked: int
) -> None:
    board = SignalBoard(1)
    for tick in range(40):  # 100 messages a second, 0.2 s there and back
        now = tick / 10
        board.on_report(consumer(now, 10 * tick, held=1, prefetch=200, busy_s=busy * now), now)
        board.on_reading(0, None, 1, now)
        board.on_statistics(QueueStatistics(ready=0, unacked=38, arrived_s=now, fresh=True))
        signals = board.signals(replace(OWN, way_s=0.2), now)
    assert signals.unacked == unacked


def test_what_consumers_hold_before_their_first_reports_after_an_outage_is_not_hidden() -> None:
    for rss_bytes in (0, 1):
        board = SignalBoard(1)
        board.on_report(consumer(0.0, 0, rss_bytes=rss_bytes), 0.0)
        board.on_reading(0, None, 1, 0.0)
        board.on_reading(0, None, 1, 4.0)
        board.on_statistics(QueueStatistics(ready=0, unacked=17, arrived_s=4.0, fresh=True))
        board.on_report(consumer(4.1, 17, rss_bytes=rss_bytes), 4.1)
        board.on_reading(0, None, 1, 4.1)
        assert board.signals(OWN, 4.1).unacked == 0


def test_of_a_consumer_that_reports_rarely_counts_what_it_did_lately() -> None:
    board = SignalBoard(session=1)
    rare = {"interval_s": 6.0, "recent_s": 1.0}
    board.on_report(consumer(0.0, 0, **rare, recent=50, recent_busy_s=0.5), 0.0)
    board.on_report(consumer(6.0, 600, **rare, recent=20, recent_busy_s=0.2, busy_s=6.0), 6.0)
    signals = board.signals(OwnState(), 6.0)
    assert signals.report_interval_s == 6.0
    assert signals.departed_total == 50 + 6 * 20  # the average of the time since its last report was 100 a second
    assert signals.observed_total_s == 1.0 + 6.0
    assert signals.busy_total_s == pytest.approx(0.5 + 1.2)


def test_a_process_of_a_fleet_is_there_until_it_has_missed_its_own_intervals() -> None:
    board = SignalBoard(session=1, timeout_s=2.0)
    board.on_report(consumer(0.0, 0, interval_s=6.0), 0.0)
    board.on_report(producer(0.0, session=2, interval_s=6.0), 0.0)
    for now, there in ((14.0, 1), (16.0, 0)):
        board.on_report(producer(now, session=1), now)  # its own report: others can be heard
        signals = board.signals(OwnState(), now)
        assert (signals.consumers or 0, signals.producers) == (there, 1 + there)


def test_who_joins_a_fleet_takes_the_share_that_the_first_report_tells() -> None:
    board = SignalBoard(session=1)
    board.on_report(producer(0.0, session=2, interval_s=6.0, producers=50), 0.0)
    assert board.signals(OwnState(), 0.1).share == pytest.approx(1 / 50)


def test_what_was_done_lately_and_cannot_be_true_is_not_counted() -> None:
    board = SignalBoard(session=1)
    board.on_report(consumer(0.0, 0, interval_s=6.0), 0.0)
    board.on_report(consumer(6.0, 600, interval_s=6.0, recent_s=0.001, recent=10**9), 6.0)
    assert board.signals(OwnState(), 6.0).departed_total == 0


def test_reports_tell_what_consumers_of_a_topic_have_done_since_their_last_commit() -> None:
    board = SignalBoard(1)
    for tick in range(100):  # 200 a second come, 100 are done, and commits tell of it every two seconds
        now = tick / 10
        board.on_report(consumer(now, round(100 * now), held=1), now)
        committed = 100 * 2 * (tick // 20)
        board.on_offsets(OffsetReading(ends=(round(200 * now),), committed=(committed,), arrived_s=now), 1)
    assert board.signals(OWN, now).depth == pytest.approx(
        100 * now, abs=11
    )  # the moment of a commit is known to a tick
    assert board.signals(OWN, now).depth_age_s == 0


def test_what_others_have_sent_since_reports_older_than_all_it_remembers_is_not_underestimated() -> None:
    board = SignalBoard(session=1)
    rival = {"session": 2, "interval_s": 60.0, "pacing_rate_per_s": 10.0, "usable_rate_per_s": 100.0, "weight": 1.0}
    board.on_report(producer(0.0, **rival, application_limited=False, confirmed=0), 0.0)
    for tick in range(601):
        now = tick / 10
        board.on_report(producer(now, session=1), now)
        signals = board.signals(OwnState(confirmed=int(10 * now), pace_per_s=10.0, demand_per_s=100.0), now)
    assert signals.confirmed_total == pytest.approx(1200, abs=15)


def test_a_sum_can_be_told_when_the_estimate_of_what_others_send_has_been_corrected_downwards() -> None:
    board = SignalBoard(session=1)
    board.fleet.possible = True
    told = []
    for tick in range(12):
        now = tick / 10
        for number in range(30):
            board.on_report(replace(consumer(now, tick), id=f"consumer-{number}"), now)
        for session in range(2, 40):
            board.on_report(producer(now, session=session, knows_sums=True, confirmed=10 * tick), now)
        board._flow.append((now, 1000 - 10 * tick))
        board.signals(OwnState(), now)
        board._flow[-1] = (now, board._flow[0][1] - 1)
        if (one := board.due_sum("orders", now, DECISION)) is not None:
            told.append(decode_sum(encode_sum(one)))
    assert told
    assert all(one.flow_per_s == 0 for one in told)


def test_statistics_that_were_told_before_count_once() -> None:
    board = SignalBoard(session=1)
    for now in (1.0, 1.1, 1.2):
        board.on_reading(0, None, 1, now)
        board.on_statistics(QueueStatistics(ready=0, unacked=5, arrived_s=1.0, fresh=True))
        signals = board.signals(OwnState(confirmed=10), now)
        assert signals.backlog == 5
        assert signals.backlog_age_s == pytest.approx(now - 1.0)


def test_a_sum_that_tells_of_another_rate_is_news_for_those_who_go_by_it() -> None:
    board = SignalBoard(session=9)
    board.fleet.possible = True
    meant = []
    for tick, (session, rate_per_s) in enumerate([(3, 1000.0)] * 20 + [(3, 1090.0), (7, 2000.0), (9, 1.0), (3, 950.0)]):
        now = tick / 10
        told = replace(SUM, at_ns=tick, session=session, bottleneck_per_s=rate_per_s, next_s=0.1)
        meant.append(board.on_sum(told, now))
        board.signals(OwnState(), now)
    assert meant[15:] == [*[SumNews.USUAL] * 6, SumNews.NONE, SumNews.NONE, SumNews.CHANGE]


def test_a_sum_that_corrects_what_others_have_sent_says_that_it_was_before() -> None:
    """Otherwise it would seem to have come since the broker was last asked, and the queue to be that much longer."""
    board = SignalBoard(session=9)
    board.fleet.possible = True
    seen = []
    for tick in range(60):
        now = tick / 10
        if tick % 10 == 0:  # others send twice as much as this one takes them to do
            board.on_sum(replace(SUM, at_ns=tick, confirmed=2000 * tick // 10), now)
        own = OwnState(confirmed=int(10 * now), pace_per_s=10.0, demand_per_s=100.0)
        signals = board.signals(own, now)
        seen.append(signals.confirmed_total - signals.corrected_total)
    steps = [after - before for before, after in pairwise(seen[20:])]
    assert signals.confirmed_total > 9000
    assert signals.told_rate_per_s == 1000.0
    assert signals.told_extra == 60.0
    assert max(steps) - min(steps) <= 12
