"""Where a queue is heading: growth that is more than noise, from counts that come late and in steps."""

from __future__ import annotations

import random

import pytest

from backpressure.core.snapshot import QueueState
from backpressure.engines.observer_queues import Balance, QueueTrend, QueueWatch, StepRate, ToldRate
from backpressure.engines.observer_view import Listing, Reading
from backpressure.transports.base import QueueReading
from backpressure.transports.management_models import QueueInfo


def queue(**changes: object) -> QueueState:
    values = {"ready": 500, "unacked": 0, "consumers": 1, "age_s": 0.0, "published_per_s": 30.0, "acked_per_s": 20.0}
    return QueueState(name="orders", **(values | changes))  # type: ignore[arg-type]  # the values of a test


def rising(watch: QueueWatch, per_s: float, start: int = 500) -> Reading:
    """Tell ``watch`` of a queue of others that grows, by statistics that are taken every five seconds."""
    for second in range(31):
        step = second // 5 * 5
        info = QueueInfo.model_validate(
            {
                "name": "orders",
                "messages_ready": round(start + per_s * step),
                "message_stats": {"publish": 1000 + 30 * step},
            }
        )
        watch.listed(info, counted=True, now=float(second), known_better=False)
    return Reading(30.0, QueueReading(ready=round(start + per_s * 30), unacked=None, consumers=1))


@pytest.mark.parametrize("per_s", [10.0, -10.0])
def test_growth_is_dated_to_when_the_statistics_change(per_s: float) -> None:
    watch = QueueWatch("orders")
    reading = rising(watch, per_s)
    outlook = watch.judged(queue(), reading, queue(), fresh=False).outlook
    assert outlook is not None
    assert outlook.growth_per_s == pytest.approx(per_s)
    assert outlook.statistics_age_s == 10.0  # two intervals of the five seconds that were seen
    assert outlook.wait_s == 25.0


def test_a_growing_queue_is_full_when_its_ready_messages_reach_the_bound() -> None:
    watch = QueueWatch("orders")
    reading = rising(watch, 10.0)
    full = watch.judged(queue(ready=800, fill=0.8, max_length=1000), reading, queue(), fresh=False).outlook
    assert full is not None
    assert full.full_in_s == pytest.approx(20.0)
    assert full.empty_in_s is None


def test_a_shrinking_queue_is_empty_when_its_backlog_is_gone() -> None:
    watch = QueueWatch("orders")
    reading = rising(watch, -10.0)
    outlook = watch.judged(queue(fill=0.8), reading, queue(ready=200), fresh=False).outlook
    assert outlook is not None
    assert (outlook.empty_in_s, outlook.full_in_s) == (pytest.approx(20.0), None)


def test_that_consumers_acknowledge_nothing_is_told_when_it_was_seen_for_longer_than_statistics_are_old() -> None:
    watch = QueueWatch("orders")
    waits_s = []
    for second in range(14):
        left, per_s = (90, 0.0) if second < 2 else (100, 0.0)  # the rate is that of an interval without a change
        stats = {"ack": left, "ack_details": {"rate": per_s}}
        info = QueueInfo.model_validate({"name": "orders", "messages_ready": 500, "message_stats": stats})
        watch.listed(info, counted=True, now=float(second), known_better=False)
        outlook = watch.judged(queue(acked_per_s=0.0), None, queue(), fresh=False).outlook
        assert outlook is not None
        waits_s.append(outlook.wait_s)
    assert waits_s == [None] * 12 + [float("inf")] * 2
    empty = watch.judged(queue(acked_per_s=0.0, ready=0), None, queue(ready=0), fresh=False).outlook
    assert empty is not None
    assert empty.wait_s == 0.0


def test_what_is_counted_of_a_queue_with_automatic_acknowledgement_is_not_all() -> None:
    watch = QueueWatch("orders")
    for hidden in (True, False):
        outlook = watch.judged(queue(), None, queue(), fresh=False, hidden=hidden).outlook
        assert outlook is not None
        assert outlook.hidden is hidden


def test_an_even_queue_with_random_traffic_is_steady() -> None:
    rng = random.Random(15)
    trend, depth, told = QueueTrend(), 200, []
    for second in range(600):
        depth = max(0, depth + round(rng.gauss(0, 100**0.5)) + (200 - depth) // 20)  # 50 in and 50 out a second
        trend.take(depth, float(second))
        if second > 5:
            told.append(trend.growth_per_s(100.0))
    assert sum(growth != 0 for growth in told) < 0.03 * len(told)


def test_slow_growth_of_even_traffic_is_seen_within_a_quarter_of_a_minute() -> None:
    trend = QueueTrend()
    for second in range(16):
        trend.take(1000 + 2 * second, float(second))
    assert trend.growth_per_s(1000.0) == pytest.approx(2.0)


def test_a_single_jump_is_not_growth() -> None:
    trend = QueueTrend()
    for second in range(61):
        trend.take(1000 if second < 45 else 3000, float(second))
    assert trend.growth_per_s(100.0) == 0.0


def test_growth_is_unknown_before_there_is_enough_to_tell() -> None:
    trend = QueueTrend()
    assert trend.growth_per_s(100.0) is None
    for second in range(3):
        trend.take(100, float(second))
    assert trend.growth_per_s(None) is None
    for second in range(3, 9):
        trend.take(100, float(second))
    assert trend.growth_per_s(None) == 0.0


def test_the_age_of_statistics_is_two_of_the_intervals_that_were_seen() -> None:
    trend = QueueTrend()
    assert trend.age_s == 10.0
    for second in range(6):
        trend.take_statistics(second, None, float(second))
    assert trend.age_s == 2.0
    trend.take_statistics(100, None, 500.0)  # after a time without traffic
    assert trend.age_s == 2.0


def test_a_rate_is_that_between_two_steps_of_a_total() -> None:
    rate = StepRate()
    assert rate.per_s(0.0) is None
    for second in range(41):
        rate.take(100 * (second // 10 * 10), float(second))
    assert rate.per_s(49.0) == 100.0
    assert rate.per_s(70.0) == pytest.approx(25.0)  # nothing has come for longer than usual
    rate.take(7, 71.0)  # created again
    assert rate.per_s(71.0) is None


def test_that_nothing_was_committed_for_a_second_does_not_mean_that_consumers_hang() -> None:
    watch = QueueWatch("orders")

    def left_per_s(left: int, now: float) -> float | None:
        reading = QueueReading(ready=50 - left, unacked=None, consumers=1, entered=50, left=left)
        return watch.took("orders", reading, None, listed=False, now=now).left_per_s

    assert [left_per_s(0, now) for now in (0.0, 1.5, 4.0)] == [None, None, None]
    assert left_per_s(10, 5.0) is None  # it was counted for how long?
    assert left_per_s(50, 10.0) == pytest.approx(8.0)
    still = QueueWatch("orders")
    for now in range(13):
        reading = QueueReading(ready=50, unacked=None, consumers=1, entered=50, left=0)
        told = still.took("orders", reading, None, listed=False, now=float(now))
    assert told.left_per_s == 0.0


def test_a_name_with_a_bracket_is_not_a_class_of_characters() -> None:
    watch = QueueWatch("a[1]*,b,b, ")
    listing = Listing(1.0, {name: queue() for name in ("a[1].x", "a1", "b")})
    assert watch.names(listing) == ["a[1].x", "b"]
    assert watch.absent(Listing(), listable=False) == {
        "a[1]*": "patterns are for the queues of a RabbitMQ; name topics in full"
    }


def test_what_the_broker_says_about_growth_is_told_until_enough_was_seen() -> None:
    trend = QueueTrend()
    trend.take_statistics(1, 20.0, 0.0)
    trend.take(100, 0.0)
    trend.take(120, 1.0)
    assert trend.growth_per_s(400.0) == 0.0  # within its noise
    trend.take_statistics(1, 80.0, 1.0)
    assert trend.growth_per_s(400.0) == 80.0


def test_a_stream_is_heading_nowhere() -> None:
    assert QueueWatch("orders").judged(queue(kind="stream"), None, queue(), fresh=False).outlook is None


def test_consumers_that_report_hang_only_if_they_are_silent_for_longer_than_their_work_takes() -> None:
    watch = QueueWatch("orders")

    def told(done: int, now: float, work_s: float | None, out: float = 0.0) -> tuple[float | None, float]:
        state, still_s = watch.settled(queue(acked_per_s=out), done, work_s, now)
        return state.acked_per_s, still_s

    assert told(0, 0.0, None) == (None, 0.0)
    assert told(0, 2.9, None) == (None, 0.0)
    assert told(1, 3.0, 3.0, out=1.0) == (pytest.approx(1 / 3), 0.0)  # not what the last second says
    for now in range(4, 60):
        rate, still_s = told(now // 3, float(now), 3.0)
        assert (rate, still_s) == (pytest.approx(1 / 3, rel=0.5), 0.0)
    assert told(19, 68.0, 3.0)[1] == 0.0
    assert told(19, 70.0, 3.0)[1] == 13.0  # four times the usual time
    assert told(500, 71.0, 3.0, out=481.0)[0] == 481.0
    assert told(500, 80.0, 3.0)[1] == 0.0


def test_work_that_takes_long_is_no_sign_of_hanging_from_the_first_message_on() -> None:
    watch = QueueWatch("orders")
    assert watch.settled(queue(acked_per_s=0.0), 7, 20.0, 0.0) == (queue(acked_per_s=0.05), 0.0)
    assert watch.settled(queue(acked_per_s=0.0), 7, 20.0, 70.0)[1] == 0.0
    assert watch.settled(queue(acked_per_s=0.0), 7, 20.0, 81.0)[1] == 81.0


def told(*rates: float) -> ToldRate:
    rate = ToldRate()
    for second, per_s in enumerate(rates):
        rate.take(per_s, per_s, float(second))
    return rate


def test_a_count_of_some_seconds_ago_is_explained_by_reports_of_that_time() -> None:
    assert ToldRate().explains(150.0, 10.0)  # nothing was told yet
    cut = told(*[150.0] * 8, *[10.0] * 8)
    assert cut.explains(150.0, 10.0)
    assert cut.explains(60.0, 10.0)  # an average that lies across the change
    assert not cut.explains(300.0, 10.0)
    assert not told(*[150.0] * 8, *[10.0] * 21).explains(150.0, 10.0)  # that was too long ago
    assert told(*[100.0] * 20).explains(110.0, 10.0)
    assert not told(*[100.0] * 20).explains(120.0, 10.0)
    assert not told(*[100.0] * 20).explains(80.0, 10.0)


def test_what_entered_is_unknown_until_a_balance_was_kept_for_some_seconds() -> None:
    balance = Balance()
    known = []
    for second in range(20):
        balance.take(1000 + 150 * second, float(second))
        known.append(balance.per_s())
    assert known[:5] == [None] * 5
    assert known[5:] == [pytest.approx(150.0)] * 15
    balance.forget()
    assert balance.per_s() is None


def test_what_other_queues_dead_letter_enters_a_queue_though_the_broker_does_not_count_it_as_published() -> None:
    watch = QueueWatch("orders")
    reading = rising(watch, 10.0)
    seen = watch.judged(queue(published_per_s=0.0, acked_per_s=3.0), reading, queue(), fresh=False, late=True)
    assert seen.published_per_s == pytest.approx(13.0)
    for published_per_s, late in ((13.0, True), (0.0, False)):  # reports of this moment know better
        counted = queue(published_per_s=published_per_s, acked_per_s=3.0)
        assert watch.judged(counted, reading, queue(), fresh=False, late=late).published_per_s == published_per_s
