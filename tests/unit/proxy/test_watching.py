"""Service times and workers of a consumer, from what passes it."""

from __future__ import annotations

import heapq
import random

import pytest

from backpressure.proxy.watching import Delivered, Departures, QueueTally, WatchedConsumer


def play(
    consumer: WatchedConsumer,
    *,
    workers: int,
    service_s: float,
    rate_per_s: float,
    seconds: float,
    prefetch: int = 10,
    exponential: bool = False,
) -> None:
    """Let a consumer with ``workers`` work on what arrives at ``rate_per_s``, and settle each message then."""
    chance = random.Random(7)
    arrivals, waiting = int(seconds * rate_per_s), 0
    due = [(1 + number / rate_per_s, 0, number) for number in range(arrivals)]
    heapq.heapify(due)
    free, buffered, delivered = workers, [], {}
    while due:
        now, kind, number = heapq.heappop(due)
        if now > 1 + seconds:
            return
        if kind == 0:
            waiting += 1
        else:
            consumer.settle([delivered.pop(number)], now, gone=True, acked=True)
            free += 1
        while waiting and consumer.held < prefetch:
            waiting -= 1
            name = consumer.delivered
            delivered[name] = consumer.deliver(now, redelivered=False)
            buffered.append(name)
        while free and buffered:
            free -= 1
            took_s = service_s * (chance.expovariate(1.0) if exponential else 1.0)
            heapq.heappush(due, (now + took_s, 1, buffered.pop(0)))


def held_by(consumer: WatchedConsumer, count: int) -> list[Delivered]:
    """Deliver some messages at once."""
    return [one for one in [consumer.deliver(1.0, redelivered=False) for _ in range(count)] if one is not None]


def consumer_of(prefetch: int = 10) -> WatchedConsumer:
    return WatchedConsumer(1, "orders", QueueTally(), no_ack=False, prefetch=prefetch)


@pytest.mark.parametrize("exponential", [False, True])
def test_one_worker_with_a_full_prefetch_takes_what_its_work_takes(exponential: bool) -> None:
    consumer = consumer_of()
    play(consumer, workers=1, service_s=0.01, rate_per_s=500, seconds=20, exponential=exponential)
    assert consumer.service_sum_s / consumer.acked == pytest.approx(0.01, rel=0.1)
    assert consumer.busy_s(21) == pytest.approx(20, rel=0.02)
    assert consumer.workers <= 2


def test_one_worker_with_little_to_do_is_busy_for_a_part_of_the_time() -> None:
    consumer = consumer_of()
    play(consumer, workers=1, service_s=0.01, rate_per_s=30, seconds=20)
    assert consumer.busy_s(21) == pytest.approx(6, rel=0.05)
    assert consumer.workers == 1


def test_several_messages_in_work_at_a_time_are_found_out() -> None:
    consumer = consumer_of(prefetch=10)
    play(consumer, workers=10, service_s=0.1, rate_per_s=30, seconds=60, prefetch=10, exponential=True)
    assert 3 <= consumer.workers <= 10
    assert consumer.busy_s(61) / 60 == pytest.approx(3, rel=0.3)  # messages in work at a time


def test_a_consumer_that_becomes_faster_is_not_taken_for_several() -> None:
    consumer = consumer_of()
    play(consumer, workers=1, service_s=0.03, rate_per_s=20, seconds=5)
    before = consumer.delivered
    now = 100.0
    for _ in range(200):  # it is never idle again
        first = consumer.deliver(now, redelivered=False)
        second = consumer.deliver(now, redelivered=False)
        assert first is not None
        assert second is not None
        consumer.settle([first], now + 0.005, gone=True, acked=True)
        consumer.settle([second], now + 0.01, gone=True, acked=True)
        now += 0.009
    assert (consumer.workers, consumer.delivered - before) == (1, 400)


def test_what_goes_back_to_the_queue_is_not_work_done() -> None:
    tally = QueueTally()
    consumer = WatchedConsumer(1, "orders", tally, no_ack=False, prefetch=0)
    messages = held_by(consumer, 3)
    consumer.settle(messages[:1], 1.1, gone=False, acked=False)
    consumer.lose(2, 1.2)
    assert (consumer.held, tally.held, tally.requeued, tally.lost, consumer.service_sum_s) == (0, 0, 1, 2, 0.0)


def test_messages_that_are_settled_together_share_the_time() -> None:
    consumer = consumer_of()
    messages = held_by(consumer, 5)
    consumer.settle(messages, 1.5, gone=True, acked=True)
    assert consumer.service_sum_s == pytest.approx(0.5)
    assert consumer.service_sum_s2 == pytest.approx(5 * 0.1**2)


def test_a_consumer_that_acknowledges_by_the_dozen_is_not_taken_for_a_dozen() -> None:
    consumer, now = consumer_of(prefetch=12), 1.0
    for _ in range(50):
        batch = [one for one in [consumer.deliver(now, redelivered=False) for _ in range(12)] if one is not None]
        now += 0.12
        consumer.settle(batch, now, gone=True, acked=True)
    assert consumer.workers == 1
    assert consumer.service_sum_s / consumer.acked == pytest.approx(0.01)


# --- waits ------------------------------------------------------------------------------------------------------------


def test_a_wait_ends_when_the_work_begins_and_not_when_the_message_is_prefetched() -> None:
    consumer = consumer_of()
    first, second = held_by(consumer, 2)
    first.left_at = second.left_at = 0.98
    consumer.settle([first], 1.1, gone=True, acked=True)
    consumer.settle([second], 1.2, gone=True, acked=True)
    assert consumer.wait.least_s == pytest.approx(0.02)
    assert consumer.wait.most_s == pytest.approx(0.12)  # it was prefetched, behind the first


def test_a_message_is_found_again_and_of_those_alike_the_oldest_comes_first() -> None:
    departures = Departures()
    for at, marks in ((1.0, 7), (2.0, 8), (3.0, 7)):
        departures.left(marks, at)
    assert [departures.came(marks) for marks in (8, 7, 7, 7, 9)] == [2.0, 1.0, 3.0, None, None]


def test_departures_do_not_grow_for_ever() -> None:
    departures = Departures()
    for at in range(25_000):
        departures.left(at % 2, at) if at % 5 else departures.left(at, at)
    found = sum(departures.came(marks) is not None for marks in [*range(25_000), *[0, 1] * 12_000])
    assert found == 10_000


# --- a consumer that has nothing at hand ------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [True, False])
def test_the_way_of_an_acknowledgement_and_the_next_message_belongs_to_the_work(seen: bool) -> None:
    consumer, now = consumer_of(prefetch=1), 10.0
    consumer.departures = Departures() if seen else None
    for _ in range(200):
        one = consumer.deliver(now, redelivered=False)
        assert one is not None
        if seen:
            consumer.seen_to_leave(one, now - 0.05)  # it was waiting when the one before was done
        now += 0.01
        consumer.settle([one], now, gone=True, acked=True)
        now += 0.004
    assert consumer.busy_s(now) == pytest.approx(now - 10.0, rel=0.05)
    assert consumer.service_sum_s / consumer.acked == pytest.approx(0.014, rel=0.05)


@pytest.mark.parametrize("seen", [True, False])
def test_time_in_which_no_message_was_there_is_no_work(seen: bool) -> None:
    chance, consumer, now = random.Random(2), consumer_of(prefetch=1), 10.0
    consumer.departures = Departures() if seen else None
    for _ in range(200):
        one = consumer.deliver(now, redelivered=False)
        assert one is not None
        if seen:
            consumer.seen_to_leave(one, now - 0.001)
        now += 0.01
        consumer.settle([one], now, gone=True, acked=True)
        now += 0.002 + chance.expovariate(10)
    assert consumer.busy_s(now) == pytest.approx(2.0, rel=0.1)
    assert consumer.service_sum_s / consumer.acked == pytest.approx(0.01, rel=0.1)
