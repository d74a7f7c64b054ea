"""The pacer of the library, in virtual time."""

from math import inf

import pytest

from backpressure.core.evidence import OffsetReading
from backpressure.core.pacer import Pacer
from backpressure.core.signals import Decision, Signals
from backpressure.errors import ConfigError, FeedbackError


class Recorder:
    """A law that remembers what it saw and always answers the same."""

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.seen: list[Signals] = []

    def update(self, signals: Signals, now: float) -> Decision:
        self.seen.append(signals)
        return Decision(self.rate_per_s, "fixed")


def sent_within(pacer: Pacer, start: float, seconds: float, *, depth: int = 0) -> int:
    now, count = start, 0
    while now < start + seconds:
        if pacer.wants_reading(now):
            pacer.reading(depth, 1, now=now)
        while pacer.may_send(now):
            pacer.sent(now)
            pacer.confirmed()
            count += 1
        now += max(pacer.wait_s(now), 1e-4)
    return count


def test_it_sends_at_the_rate_the_law_decides() -> None:
    assert sent_within(Pacer(Recorder(100.0), now=0.0), 0.0, 10.0) == pytest.approx(1000, abs=3)


def test_it_never_sends_more_than_there_is_demand_for() -> None:
    assert sent_within(Pacer(Recorder(inf), now=0.0, demand_per_s=50.0), 0.0, 10.0) == pytest.approx(500, abs=3)


def test_it_asks_for_a_reading_once_a_tick() -> None:
    law = Recorder(10.0)
    sent_within(Pacer(law, now=0.0, tick_s=0.2), 0.0, 2.0)
    assert len(law.seen) == pytest.approx(10, abs=1)


def test_the_law_sees_depth_consumers_and_what_was_settled() -> None:
    law = Recorder(10.0)
    pacer = Pacer(law, now=0.0)
    pacer.sent(0.0)
    pacer.sent(0.0)
    pacer.confirmed()
    pacer.nacked()
    pacer.reading(7, 2, unacked=3, now=0.1)
    signals = law.seen[-1]
    assert (signals.ready, signals.unacked, signals.consumers) == (7, 3, 2)
    assert (signals.confirmed_total, signals.nacked_total, signals.in_flight) == (1, 1, 0)


def test_a_producer_with_nothing_to_send_is_application_limited() -> None:
    law = Recorder(10.0)
    pacer = Pacer(law, now=0.0)
    pacer.reading(0, 1, now=0.1)
    pacer.reading(0, 1, now=0.2)
    assert law.seen[-1].application_limited
    pacer.sent(0.2)
    pacer.sent(0.2)
    assert pacer.wait_s(0.2) > 0
    pacer.reading(0, 1, now=0.3)
    assert not law.seen[-1].application_limited


def test_it_holds_a_simulated_consumer_at_work_with_a_short_queue() -> None:
    pacer = Pacer("pace", now=0.0)
    depth, now, work, done = 0, 0.0, 0.0, 0
    depths: list[int] = []
    while now < 30.0:
        now += 0.001
        if pacer.wants_reading(now):
            pacer.reading(depth, 1, now=now)
        if pacer.may_send(now):
            pacer.sent(now)
            pacer.confirmed()
            depth += 1
        work = min(1.0, work + 0.001 * 100) if depth else 0.0
        if work >= 1.0 and depth:
            work, depth, done = 0.0, depth - 1, done + 1
        depths.append(depth)
    assert done > 0.9 * 100 * 30
    assert max(depths[5000:]) < 40


def test_an_unknown_law_and_a_foreign_report_are_refused() -> None:
    with pytest.raises(ConfigError, match="pace"):
        Pacer("no-such-law", now=0.0)
    with pytest.raises(FeedbackError):
        Pacer(now=0.0).report(b"hello", now=0.0)


def two_pacers(*, reporting: bool) -> list[int]:
    """Return what each of two got of a foreign consumer's 100 msg/s in the second half of a minute."""
    pacers = [Pacer("pace", now=0.0, queue="q", session=number) for number in (1, 2)]
    sent, halfway, depth, work = [0, 0], [0, 0], 0, 0.0
    for step in range(60_000):
        now = step / 1000
        if step == 30_000:
            halfway = list(sent)
        if reporting and step % 100 == 50:
            for report in [pacer.own_report(now=now) for pacer in pacers]:
                for pacer in pacers:
                    pacer.report(report, now=now)
        for number, pacer in enumerate(pacers):
            if pacer.wants_reading(now):
                pacer.reading(depth, 1, now=now)
            if (number == 0 or now > 5) and pacer.may_send(now):  # the second one comes later
                pacer.sent(now)
                pacer.confirmed()
                sent[number] += 1
                depth += 1
        work = min(1.0, work + 0.1) if depth else 0.0
        if work >= 1.0:
            work, depth = 0.0, depth - 1
    return [after - before for after, before in zip(sent, halfway, strict=True)]


def test_pacers_that_report_share_a_foreign_consumer_and_others_do_not() -> None:
    first, second = two_pacers(reporting=True)
    assert first == pytest.approx(second, rel=0.1)
    assert first + second >= 0.9 * 3000
    assert min(two_pacers(reporting=False)) < 0.5 * min(first, second)


def test_a_report_about_another_queue_is_ignored() -> None:
    pacer = Pacer("pace", now=0.0, queue="mine", session=1)
    stranger = Pacer("pace", now=0.0, queue="another", session=2)
    pacer.report(stranger.own_report(now=0.0), now=0.0)
    law = Recorder(10.0)
    watching = Pacer(law, now=0.0, queue="mine", session=3)
    watching.report(stranger.own_report(now=0.0), now=0.0)
    watching.reading(0, 1, now=0.1)
    assert law.seen[-1].producers == 1
    watching.report(pacer.own_report(now=0.1), now=0.1)
    watching.reading(0, 1, now=0.2)
    assert law.seen[-1].producers == 2


def test_how_far_the_broker_of_a_silent_group_is_is_known_to_the_law() -> None:
    law = Recorder(10.0)
    pacer = Pacer(law, now=0.0)
    offsets = OffsetReading(ends=(7,), committed=(3,), arrived_s=0.1)
    pacer.offsets(offsets, 1, now=0.1)
    assert law.seen[-1].way_s is None
    pacer.offsets(offsets, 1, now=0.2, round_trip_s=0.2)
    assert law.seen[-1].way_s == 0.2
