"""The depth observer: what an empty queue says about unreported arrivals, and that a stall says nothing."""

import pytest

from backpressure.core.controllers.depth import DepthObserver
from backpressure.core.signals import Signals


def read(observer: DepthObserver, ready: int, departed: int, now: float, *, stalled: bool = False) -> None:
    signals = Signals(
        ready=ready, unacked=0, depth_age_s=0.0, confirmed_total=departed, departed_total=departed, departed_age_s=0.0
    )
    observer.read(signals, now)
    observer.count(signals, 100.0, now, busy=1.0, stalled=stalled)


def test_an_empty_queue_ends_the_belief_in_unreported_arrivals() -> None:
    observer = DepthObserver(report_interval_s=0.1)
    read(observer, 0, 0, 0.0)
    observer.unreported_per_s = 100.0
    for tick in range(1, 31):
        read(observer, 0, 0, tick * 0.1)
    assert abs(observer.unreported_per_s) < 2
    assert (observer.depth or 0.0) < 2


def test_what_is_read_about_a_standstill_moves_no_constant() -> None:
    observer = DepthObserver(report_interval_s=0.1)
    for tick in range(11):
        read(observer, 5, 10 * tick, tick * 0.1)
    settled = observer.depth
    read(observer, 40, 110, 1.1, stalled=True)
    assert observer.depth == settled
    read(observer, 40, 120, 1.2)
    assert observer.depth != settled


def test_departures_go_on_until_a_report_is_missing() -> None:
    observer = DepthObserver(report_interval_s=0.1)
    for tick in range(301):  # each report is fresh when it is used
        read(observer, 5, 10 * tick, tick * 0.1)

    def depth(sent: int, age_s: float) -> float:
        signals = Signals(confirmed_total=sent, departed_total=3000, departed_age_s=age_s, depth_age_s=age_s)
        observer.read(signals, 30 + age_s)
        observer.count(signals, 100.0, 30 + age_s, busy=1.0, stalled=False)
        return observer.depth or 0.0

    assert depth(3006, age_s=0.06) == pytest.approx(5, abs=1)  # late: six more will have gone
    assert depth(3020, age_s=0.2) == pytest.approx(5 + 20, abs=2)  # missing: none may have


def test_what_is_not_confirmed_is_in_no_reading_and_has_not_left() -> None:
    """A client holds 50 messages back for a second while the queue is empty."""
    observer = DepthObserver(report_interval_s=0.1)
    for tick in range(11):
        signals = Signals(ready=0, backlog=0, backlog_age_s=0.0, depth_age_s=0.0, in_flight=5 * tick)
        observer.read(signals, tick * 0.1)
        observer.predict(100.0, tick * 0.1)
        assert observer.left_by(tick * 0.1, 0) == 0
        assert observer.depth == pytest.approx(5 * tick)


def test_far_away_what_was_confirmed_had_arrived_half_a_round_trip_before() -> None:
    """100 messages a second are on their way for 0.2 s, and their confirms again; 7 are always in the queue."""
    observer = DepthObserver(report_interval_s=0.1)
    for tick in range(41):
        now = tick * 0.1
        sent, confirmed = 100 * now, 100 * max(0.0, now - 0.4)  # those confirmed now arrived 0.2 s ago
        signals = Signals(
            ready=7,
            backlog=7,
            backlog_age_s=0.2,  # the answer is on its way as long
            depth_age_s=0.2,
            confirmed_total=round(confirmed),
            in_flight=round(sent - confirmed),
            confirm_latency_min_s=0.4,
        )
        observer.read(signals, now)
        observer.predict(100.0, now)
        if tick > 10:
            assert observer.left_by(now - 0.2, 7) == pytest.approx(confirmed - 7, abs=1)
            assert observer.depth == pytest.approx(7 + 20, abs=1)  # and what is on its way


def test_no_less_is_there_than_is_ready_whatever_an_old_count_says() -> None:
    """The consumers were away for a second: of the 100 that should have left since the count, none has."""
    observer = DepthObserver(report_interval_s=0.1)
    for tick in range(21):
        signals = Signals(
            ready=5 * tick, backlog=0, backlog_age_s=tick * 0.1, depth_age_s=0.0, confirmed_total=5 * tick
        )
        observer.read(signals, tick * 0.1)
        observer.predict(100.0, tick * 0.1)
        observer.bound(signals, 100.0, tick * 0.1)
    assert observer.depth == 100


def far_count(observer: DepthObserver, now: float, sent: float, with_consumers: int, before: float = 0.0) -> None:
    """Tell what was counted 0.1 s ago of consumers that are 0.1 s from the broker, as the producer is.

    ``sent`` messages a second go out from the start on, ``before`` of them until then.
    """
    on_way_s = max(0.0, min(0.2, now - 0.2))  # to the consumers, or acknowledged and on the way back
    signals = Signals(
        ready=0,
        backlog=round(with_consumers + sent * on_way_s),
        backlog_age_s=0.1,
        depth_age_s=0.1,
        confirmed_total=round(before + sent * max(0.0, now - 0.2)),
        in_flight=round(sent * min(now, 0.2)),
        confirm_latency_min_s=0.2,
        way_s=0.2,
    )
    observer.read(signals, now)


def test_far_away_what_was_sent_is_on_its_way_to_consumers_whatever_their_rate() -> None:
    """Nothing of what is on the wire waits for anybody, and no message meets it: it has gone by then."""
    observer = DepthObserver(report_interval_s=0.1)
    for tick in range(41):
        far_count(observer, tick * 0.1, sent=100.0, with_consumers=7)
        observer.predict(100.0, tick * 0.1)
    assert observer.far
    assert observer.there == pytest.approx(7, abs=1)
    assert observer.lowest == pytest.approx(7, abs=1)
    assert observer.depth == pytest.approx(7, abs=1)
    for rate_per_s in (25.0, 400.0):  # an estimate that is wrong makes no message wait or go that is on its way
        observer.predict(rate_per_s, 4.0)
        assert observer.there == pytest.approx(7, abs=1)


@pytest.mark.parametrize(("gap_s", "idle"), [(0.0, False), (0.3, True)])
def test_far_away_consumers_were_idle_between_two_counts_if_less_came_than_they_did(gap_s: float, idle: bool) -> None:
    """At either count 2 messages were with the consumer; in between none may have come for a while."""
    observer = DepthObserver(report_interval_s=0.1)

    def sent(moment: float) -> float:
        return 100 * (min(max(0.0, moment), 1.0) + max(0.0, moment - 1.0 - gap_s))

    for tick in range(20):
        now = tick * 0.1
        confirmed = sent(now - 0.2)
        signals = Signals(
            backlog=2 + round(sent(now - 0.2) - sent(now - 0.4)) if tick in (13, 19) else None,
            backlog_age_s=0.1,
            confirmed_total=round(confirmed),
            in_flight=round(sent(now) - confirmed),
            confirm_latency_min_s=0.2,
            way_s=0.2,
        )
        observer.read(signals, now)
    assert observer.there == pytest.approx(2, abs=1)
    assert (observer.lowest < 1) == idle
