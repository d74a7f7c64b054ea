"""Faults in the model: random arrivals, failing work, consumers that die or hang, outages and slow networks."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest

from backpressure.core.board import OwnState
from backpressure.core.plant import Failures, Network, Plant, PlantProducer, QueueBound, Workers, WorkQueue
from backpressure.core.schedule import RetryPolicy

RETRY = RetryPolicy(max_attempts=3, backoff_min_s=0.1, backoff_max_s=5.0)


def failures(seed: int = 1, *, retry: RetryPolicy = RETRY, **rates: float) -> Failures:
    return Failures(draw=random.Random(seed).random, retry=retry, **rates)


def poisson(lab: Any, plant: Plant, demand_per_s: float, law: str = "unbounded", seed: int = 7) -> PlantProducer:
    producer: PlantProducer = lab.join(plant, law, demand_per_s)
    source = random.Random(seed)
    producer.arrive_by(lambda: source.expovariate(1.0), plant.now)
    return producer


def queue_with(prefetch: int = 2, count: int = 1, rate_per_s: float = 10.0) -> WorkQueue:
    queue = WorkQueue(random.Random(1).random, QueueBound())
    queue.set_workers(Workers(count=count, rate_per_s=rate_per_s, prefetch=prefetch), 0.0, lambda: 0.0)
    return queue


def balance(queue: WorkQueue) -> int:
    """Return what is unaccounted for."""
    processed = queue.processed - queue.duplicates
    return queue.arrived - processed - queue.dead_lettered - queue.dropped - queue.unprocessed


# --- arrivals at random -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distribution", "factor"), [("exponential", 1.0), ("fixed", 0.5)])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_random_arrivals_wait_as_queueing_theory_says(lab: Any, distribution: str, factor: float, load: float) -> None:
    plant = lab.plant(1, workers=Workers(distribution=distribution))
    poisson(lab, plant, 100 * load)
    plant.run(600)
    expected_s = factor * load / (100 - 100 * load)  # M/M/1, and half of it with fixed service (Pollaczek-Khinchine)
    assert fmean(plant.queue.waits_s) == pytest.approx(expected_s, rel=0.15)


def test_random_arrivals_have_the_mean_rate_and_the_variance_of_a_poisson_stream(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=10_000))
    poisson(lab, plant, 1000)
    plant.run(60)
    counts = [0] * 600
    for at_s in plant.queue.arrivals_s:
        counts[min(599, int(at_s * 10))] += 1
    mean = fmean(counts[10:])
    assert mean == pytest.approx(100, rel=0.03)
    assert fmean((count - mean) ** 2 for count in counts[10:]) / mean == pytest.approx(1, abs=0.25)


def test_what_a_law_holds_back_of_random_arrivals_is_offered_and_never_sent(lab: Any) -> None:
    plant = lab.plant(1)
    producer = poisson(lab, plant, 1000, "pace")
    plant.run(20)
    assert plant.samples[-1].offered == pytest.approx(20_000, rel=0.03)
    assert producer.arrived == pytest.approx(2000, rel=0.03)
    assert producer.report(plant.now, blocked=False).offered == pytest.approx(20_000, rel=0.03)


def test_refused_messages_of_a_random_schedule_are_sent_again(lab: Any) -> None:
    plant = lab.plant(1, queue=QueueBound(max_length=20))
    producer = poisson(lab, plant, 150, "aimd")
    plant.run(30)
    assert producer.nacked > 0
    assert producer.rejected == 0
    assert balance(plant.queue) == 0


# --- work that fails --------------------------------------------------------------------------------------------------


def test_a_failed_attempt_takes_its_time_and_lets_others_go_first() -> None:
    queue = queue_with(prefetch=1)
    queue.failures = failures(poison_rate=1.0)
    queue.arrive(0.0)
    queue.advance(0.05)  # the first attempt has begun
    queue.failures = None
    queue.arrive(0.05)
    queue.advance(0.199)
    assert (queue.processed, queue.consumers[0].failed, queue.consumers[0].retried) == (0, 1, 1)
    assert queue.depth == 2  # what waits for its next attempt is unacked
    queue.advance(10.0)
    assert list(queue.done_s) == pytest.approx([0.2, 0.3])  # the other, then the one that had failed
    assert queue.sojourns_s[1] == pytest.approx(0.3)


def test_what_fails_at_every_attempt_is_dead_lettered_after_the_last() -> None:
    queue = queue_with()
    queue.failures = failures(poison_rate=1.0)
    queue.arrive(0.0)
    queue.advance(10.0)
    consumer = queue.consumers[0]
    assert (consumer.failed, consumer.retried, consumer.dead_lettered, queue.processed) == (3, 2, 1, 0)
    assert (queue.depth, queue.dead_lettered, balance(queue)) == (0, 1, 0)
    report = consumer.report(10.0, 2, paused=False, every_s=None)
    assert report is not None
    assert (report.delivered, report.failed, report.retried, report.dead_lettered) == (1, 3, 2, 1)
    assert report.busy_s == pytest.approx(0.3)
    assert report.service_sum_s == 0


def test_a_share_of_the_messages_is_poison_and_of_the_attempts_fails() -> None:
    queue = queue_with(count=4, rate_per_s=1000.0)
    queue.failures = failures(poison_rate=0.05)
    for number in range(10_000):
        queue.arrive(number / 1000)
    queue.advance(100.0)
    assert queue.dead_lettered == pytest.approx(500, rel=0.15)
    assert sum(consumer.failed for consumer in queue.consumers) == 3 * queue.dead_lettered
    queue.failures = failures(failure_rate=0.3)
    before = queue.dead_lettered
    for number in range(10_000):
        queue.arrive(100.0 + number / 1000)
    queue.advance(200.0)
    assert queue.dead_lettered - before == pytest.approx(10_000 * 0.3**3, rel=0.2)
    assert balance(queue) == 0


def test_dead_letters_wait_while_the_broker_takes_nothing(lab: Any) -> None:
    plant = lab.plant(1)
    plant.queue.failures = failures(poison_rate=1.0)
    plant.queue.arrive(0.0)
    plant.set_queue(QueueBound(blocked=True))
    plant.run(5)
    assert (plant.queue.dead_lettered, plant.queue.depth) == (0, 1)
    plant.set_queue(QueueBound())
    assert (plant.queue.dead_lettered, plant.queue.depth) == (1, 0)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_law_keeps_consumers_busy_whose_work_fails_now_and_then(lab: Any, share: float) -> None:
    plant = lab.plant(1)
    plant.queue.failures = failures(failure_rate=share)
    lab.join(plant, "pace")
    plant.run(10)
    busy_s = plant.queue.busy_s
    plant.run(30)
    assert plant.queue.busy_s - busy_s >= 0.95 * 30
    assert balance(plant.queue) == 0


# --- consumers --------------------------------------------------------------------------------------------------------


def test_what_a_killed_consumer_held_is_done_by_others_before_anything_else() -> None:
    queue = queue_with(count=2)
    for number in range(10):
        queue.arrive(number / 1000)
    held = list(queue.consumers[0].held)
    assert queue.kill(1, 0.05) == 1
    assert list(queue.ready)[:2] == held
    assert (len(queue.consumers), queue.workers.count, queue.depth) == (1, 1, 10)
    queue.advance(10.0)
    assert (queue.processed, queue.redelivered, queue.duplicates, balance(queue)) == (10, 2, 0, 0)


def test_a_hanging_consumer_keeps_what_it_holds_and_goes_on_where_it_was() -> None:
    queue = queue_with()
    queue.arrive(0.0)
    queue.arrive(0.0)
    queue.advance(0.05)
    hung = queue.hang(1)
    queue.advance(5.0)
    assert (queue.processed, queue.depth) == (0, 2)
    queue.go_on(hung, 5.0)
    queue.advance(10.0)
    assert list(queue.done_s) == pytest.approx([5.0, 5.1])
    assert queue.redelivered == 0


def test_the_law_learns_nothing_of_a_hanging_consumer_and_slows_down(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(count=2))
    producer = lab.join(plant, "pace")
    plant.run(10)
    plant.queue.hang(1)
    plant.run(5)
    arrived = producer.arrived
    plant.run(10)
    assert producer.arrived - arrived == pytest.approx(1000, rel=0.05)


# --- the way ----------------------------------------------------------------------------------------------------------


def test_after_an_outage_everything_is_delivered_and_only_begun_work_is_done_twice(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=5.0))
    lab.join(plant, "pace")
    plant.run(10)
    plant.cut()
    arrived, processed = plant.queue.arrived, plant.queue.processed
    plant.run(3)
    assert plant.queue.arrived == arrived
    assert plant.queue.processed == processed + 1
    plant.connect(1.0)
    plant.run(0.9)
    assert plant.queue.processed == processed + 1
    plant.run(10)
    assert plant.queue.duplicates == 1
    assert plant.queue.redelivered >= 1
    assert balance(plant.queue) == 0


def test_consumers_that_do_not_notice_an_outage_do_all_they_hold_twice(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=5.0, prefetch=3))
    lab.join(plant, "unbounded", 10.0)
    plant.run(10)
    held = len(plant.queue.consumers[0].held)
    plant.cut(noticed=False)
    plant.run(3)
    plant.connect(0.2)
    plant.run(10)
    assert held == 3
    assert plant.queue.duplicates == held
    assert balance(plant.queue) == 0


def test_during_an_outage_no_signal_arrives_and_all_come_back_afterwards(lab: Any) -> None:
    plant = lab.plant(1)
    producer = lab.join(plant, "pace")
    plant.run(10)
    plant.cut()
    plant.run(1.5)
    assert (producer.signal_age_s or 0) > 1
    plant.run(2.5)
    assert producer.signal_age_s is None
    plant.connect(0.5)
    before = len(plant.queue.done_s)
    plant.run(10)
    assert producer.signal_age_s == pytest.approx(0, abs=0.2)
    assert len(plant.queue.done_s) - before >= 0.95 * 9.5 * 100 - 20


def test_a_long_way_makes_messages_confirms_and_signals_late(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(prefetch=20), network=Network(way_s=0.05))
    producer = lab.join(plant, "unbounded", 50.0)
    plant.run(0.1)
    assert producer.signal_age_s is None  # no report has come through yet
    plant.run(9.9)
    assert min(plant.queue.waits_s) == pytest.approx(0.1, abs=1e-6)  # to the broker, and to the consumer
    assert producer.arrived == pytest.approx(50 * 10 - 5, abs=8)
    assert producer.in_flight == pytest.approx(50 * 0.1, abs=2)
    assert Network(way_s=0.05).confirmed_after_s == pytest.approx(0.102)


def test_a_prefetch_too_small_for_the_way_starves_the_consumer() -> None:
    queue = queue_with(prefetch=1, rate_per_s=10.0)
    queue.network = Network(way_s=0.05)
    for _ in range(100):
        queue.arrive(0.0)
    queue.advance(4.0)
    assert queue.processed == pytest.approx(4 / (0.1 + 2 * 0.05), abs=1)


def test_a_way_that_becomes_short_again_lets_nothing_overtake(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=1000.0), network=Network(way_s=0.2))
    lab.join(plant, "unbounded", 100.0)
    plant.run(2)
    plant.network = Network()
    plant.run(2)
    assert list(plant.queue.arrivals_s) == sorted(plant.queue.arrivals_s)
    assert plant.producers[0].in_flight == 0


def test_a_share_of_what_is_published_is_refused_evenly_spread() -> None:
    queue = queue_with()
    queue.set_workers(Workers(count=0), 0.0, lambda: 0.0)
    queue.bound = QueueBound(refused_share=0.25)
    assert [queue.arrive(number / 10) for number in range(8)] == [True, True, True, False] * 2


# --- a broker that stands still ---------------------------------------------------------------------------------------


def test_a_hanging_broker_delays_messages_confirms_and_deliveries_and_loses_none(lab: Any) -> None:
    plant = lab.plant(1, workers=Workers(rate_per_s=100, prefetch=5))
    producer = lab.join(plant, "rate_limited", parameters={"rate_per_s": 90.0})
    plant.run(5)
    arrived, processed = producer.arrived, plant.queue.processed
    plant.stand_still()
    plant.run(0.5)
    assert producer.arrived == arrived
    assert producer.in_flight == pytest.approx(45, abs=2)
    assert plant.queue.processed - processed <= 5  # what they held
    plant.go_on()
    plant.run(0.1)
    assert producer.in_flight == 0
    plant.run(30)
    assert balance(plant.queue) == 0
    assert plant.queue.processed == pytest.approx(90 * 35.6, rel=0.01)


def test_what_reports_and_probes_say_of_a_standstill_comes_after_it(lab: Any) -> None:
    plant = lab.plant(1)
    producer = lab.join(plant, "pace")
    plant.run(5)
    plant.stand_still()
    plant.run(0.4)
    assert producer.board.signals(OwnState(), plant.now).age_s >= 0.35
    plant.go_on()
    plant.run(0.11)
    assert producer.board.signals(OwnState(), plant.now).age_s <= 0.2
