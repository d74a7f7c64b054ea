"""Rates from counters: exact in the mean, quick at a change, calm in noise."""

from __future__ import annotations

import random
from math import sqrt

import pytest

from backpressure.core.filters import DepartureMeter, RateEstimator, Timeline
from backpressure.core.signals import Signals


def estimator(alarm: float = 5.0) -> RateEstimator:
    return RateEstimator(memory_s=1.5, memory_events=20, alarm=alarm)


def test_a_timeline_interpolates_between_its_points_and_holds_its_ends() -> None:
    timeline = Timeline()
    for at, total in [(1.0, 10.0), (2.0, 30.0), (4.0, 30.0)]:
        timeline.record(at, total)
    assert [timeline.at(t) for t in (0.0, 1.0, 1.5, 2.0, 3.0, 9.0)] == [10, 10, 20, 30, 30, 30]


def test_a_timeline_forgets_what_is_older_than_its_span() -> None:
    timeline = Timeline(span_s=1.0)
    for second in range(100):
        timeline.record(float(second), float(second))
    assert timeline.at(0.0) == 98.0
    assert timeline.at(98.5) == 98.5


def test_the_first_event_sets_the_rate_with_all_the_exposure_it_took() -> None:
    rate = estimator()
    rate.add(0, 0.4)
    assert rate.rate is None
    rate.add(10, 0.1)
    assert rate.rate == pytest.approx(20)


def test_a_step_of_the_estimator_worked_out_by_hand() -> None:
    rate = estimator()
    rate.add(10, 0.1)  # 100/s
    rate.add(11, 0.1)  # N = 10·e^(−1/15) + 11, X = 0.1·e^(−1/15) + 0.1
    assert rate.rate == pytest.approx((10 * 0.93551 + 11) / (0.1 * 0.93551 + 0.1), rel=1e-4)


@pytest.mark.parametrize("after", [20.0, 50.0, 200.0, 500.0])
def test_a_change_of_an_even_flow_is_found_within_two_samples(after: float) -> None:
    rate = estimator()
    for _ in range(100):
        rate.add(10, 0.1)
    changes = [rate.add(after * 0.1, 0.1) for _ in range(2)]
    assert any(changes)
    assert rate.rate == pytest.approx(after, rel=0.05)


def test_silence_lowers_the_rate_at_once_and_further_as_it_lasts() -> None:
    rate = estimator()
    for _ in range(100):
        rate.add(10, 0.1)
    rate.add(0, 0.1)
    assert rate.rate == pytest.approx(5)
    for _ in range(50):
        rate.add(0, 0.1)
    assert rate.rate is not None
    assert rate.rate < 0.5


def test_the_return_after_silence_is_found_in_one_sample() -> None:
    rate = estimator()
    for events in [10] * 50 + [0] * 50 + [10]:
        rate.add(events, 0.1)
    assert rate.rate == pytest.approx(100)


def exponential_counts(seed: int, rate_per_s: float, samples: int) -> list[int]:
    source, counts, at = random.Random(seed), [0] * samples, 0.0
    while (at := at + source.expovariate(rate_per_s)) < samples * 0.1:
        counts[int(at / 0.1)] += 1
    return counts


def test_random_service_raises_a_false_alarm_less_than_once_in_twenty_seconds() -> None:
    alarms = 0
    for seed in range(10):
        rate = estimator()
        alarms += sum(rate.add(count, 0.1) for count in exponential_counts(seed, 100.0, 1000))
        assert rate.rate == pytest.approx(100, rel=0.25)
    assert alarms <= 10 * 1000 * 0.1 / 20


def test_the_dispersion_distinguishes_even_from_random_service() -> None:
    even, uneven = estimator(), estimator()
    for count in exponential_counts(1, 100.0, 1000):
        uneven.add(count, 0.1)
        even.add(10, 0.1)
    assert even.dispersion < 0.05
    assert uneven.dispersion == pytest.approx(1.0, abs=0.5)


def test_a_rate_that_may_have_begun_to_fall_is_feared_to_be_lower_before_the_alarm() -> None:
    counted = estimator()
    for count in exponential_counts(3, 200.0, 300):
        counted.add(count, 0.1)
    usual = counted.rate
    assert usual is not None
    assert counted.feared_rate > 0.85 * usual
    assert not counted.add(6, 0.1)  # of about 20
    assert counted.feared_rate < 0.9 * counted.cautious_rate


def test_rare_samples_tell_regular_from_random_service_after_a_few() -> None:
    """Four counts of 5 s: where each is what was expected, random service would be a rare coincidence."""
    even = estimator()
    even.few_samples = True
    for count in (500, 502, 499, 500, 501):
        even.add(count, 5.0)
    assert even.dispersion < 0.2
    uneven = []
    for seed in range(40):
        rate = estimator()
        rate.few_samples = True
        counts = exponential_counts(seed, 100.0, 250)
        for start in range(0, 250, 50):
            rate.add(sum(counts[start : start + 50]), 5.0)
        uneven.append(rate.dispersion)
    assert sorted(uneven)[4] > 0.5  # nine of ten
    assert sum(uneven) / len(uneven) == pytest.approx(1.0, abs=0.3)


def test_one_rare_sample_of_another_kind_ends_the_belief_in_regular_service() -> None:
    rate = estimator()
    rate.few_samples = True
    for _ in range(10):
        rate.add(500, 5.0)
    assert rate.dispersion < 0.1
    rate.add(530, 5.0)
    assert rate.dispersion > 0.25


def test_a_lower_bound_never_lowers_the_rate() -> None:
    rate = estimator()
    rate.add(10, 0.1)
    rate.add_lower_bound(2, 0.1)
    assert rate.rate == pytest.approx(100)
    rate.add_lower_bound(13, 0.1)
    assert rate.rate is not None
    assert rate.rate > 100


def test_a_rate_that_rests_on_lower_bounds_alone_is_the_highest_of_them() -> None:
    rate = estimator()
    rate.add_lower_bound(0, 1.0)
    assert (rate.rate, rate.bounded) == (None, False)
    rate.add_lower_bound(3, 1.0)
    rate.add_lower_bound(8, 0.1)
    rate.add_lower_bound(1, 0.1)
    assert (rate.rate, rate.bounded) == (pytest.approx(80), True)
    rate.add(9, 0.1)
    assert (rate.rate, rate.bounded) == (pytest.approx(85, abs=1), False)


def test_little_evidence_is_trusted_less() -> None:
    rate = estimator()
    rate.add(1, 0.001)  # one short service of a random kind
    assert rate.cautious_rate == pytest.approx(1000 / 3)
    rate.expect(0.0, 10**6)
    assert rate.cautious_rate == pytest.approx(1000, rel=1e-3)
    assert estimator().cautious_rate == 0.0


def test_a_rate_can_be_scaled_by_belief() -> None:
    rate = estimator()
    rate.scale(2.0)
    assert rate.rate is None
    rate.add(10, 0.1)
    rate.scale(2.0)
    assert rate.rate == pytest.approx(200)


def test_no_exposure_says_nothing() -> None:
    rate = estimator()
    rate.add(10, 0.1)
    assert not rate.add(50, 0.0)
    assert rate.rate == pytest.approx(100)


def seen(at_s: float, departed: int, *, observed_s: float | None = None, consumers: int = 1) -> Signals:
    observed_s = at_s if observed_s is None else observed_s
    return Signals(departed_total=departed, observed_total_s=observed_s, consumers=consumers)


def test_the_departure_meter_knows_nothing_before_the_first_difference() -> None:
    meter = DepartureMeter(memory_s=1.0)
    assert meter.update(Signals(), 0.0) is None
    assert meter.update(seen(0.0, 0), 0.0) is None
    assert meter.update(seen(0.1, 10), 0.1) == pytest.approx(100)


def test_the_departure_meter_counts_each_consumer_by_its_own_clock() -> None:
    meter = DepartureMeter(memory_s=1.0)
    meter.update(seen(0.0, 0, observed_s=0.0, consumers=2), 0.0)
    # In this tick only one of two consumers reported: 10 messages in 0.1 consumer-seconds are 200/s together.
    assert meter.update(seen(0.1, 10, observed_s=0.1, consumers=2), 0.1) == pytest.approx(200)


def test_the_departure_meter_lives_on_the_probe_when_nobody_reports() -> None:
    meter = DepartureMeter(memory_s=1.0)
    meter.update(Signals(ready=0, depth_age_s=0.0, confirmed_total=0), 0.0)
    assert meter.update(Signals(ready=20, depth_age_s=0.0, confirmed_total=50), 1.0) == pytest.approx(30)


def test_the_departure_meter_smooths_over_its_memory() -> None:
    meter = DepartureMeter(memory_s=1.0)
    meter.update(seen(0.0, 0), 0.0)
    meter.update(seen(1.0, 100), 1.0)
    smoothed = meter.update(seen(2.0, 100), 2.0)
    assert smoothed == pytest.approx(100 * 2.718281828**-1)
    assert meter.update(seen(3.0, 100, observed_s=2.0, consumers=0), 3.0) == 0.0


def test_the_alarm_is_counted_in_standard_deviations() -> None:
    calm, nervous = estimator(alarm=50.0), estimator(alarm=1.0)
    for rate in (calm, nervous):
        rate.add(100, 1.0)
    surplus = 100 + 2 * sqrt(100)
    assert not calm.add(surplus, 1.0)
    assert nervous.add(surplus, 1.0)


@pytest.mark.parametrize("events", [-1.0, -5.0, -1000.0])
def test_the_dispersion_is_never_negative_where_departures_seem_to_be(events: float) -> None:
    """They are what was sent less what is queued, and what others have sent is an estimate in a fleet."""
    rate = RateEstimator(memory_s=2.0, memory_events=20.0, alarm=5.0)
    rate.expect(0.25, events)
    assert rate.dispersion == 1.0


def test_the_closest_of_messages_that_were_sent_evenly_are_no_burst() -> None:
    sent = Timeline(60.0)
    for number in range(100):
        sent.record(number / 20 + (0.004 if number % 7 else 0.0), number)
    count, seconds = sent.busiest(0.0, 4.95, 0.0, 0.15)
    assert count >= 90
    for number in range(40):
        sent.record(5.0 + number / 100, 100 + number)
    count, seconds = sent.busiest(0.0, 5.4, 0.0, 0.15)
    assert count == pytest.approx(40, abs=4)
    assert seconds == pytest.approx(0.4, abs=0.06)
