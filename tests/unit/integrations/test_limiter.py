"""A limiter with a fake clock and no broker: the readings are passed in."""

from __future__ import annotations

import asyncio
import os

import pytest

from backpressure.core.evidence import QueueStatistics
from backpressure.core.pacer import Pacer
from backpressure.core.reports import ProducerReport, decode
from backpressure.core.signals import Decision, SignalQuality, Signals
from backpressure.errors import BackpressureError, ConfigError, RefusedError
from backpressure.integrations.limiter import Limiter
from backpressure.transports.base import QueueReading
from backpressure.transports.rabbitmq.reporter import Reporter

URL = "amqp://localhost/"


class Fixed:
    """A law that always decides the same, and remembers what it saw."""

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.seen: list[Signals] = []

    def update(self, signals: Signals, now: float) -> Decision:
        self.seen.append(signals)
        return Decision(self.rate_per_s, "because")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_limiter(rate_per_s: float = 10.0) -> tuple[Limiter, Clock, Fixed]:
    clock, law = Clock(), Fixed(rate_per_s)
    limiter = Limiter("orders", URL, law=law, clock=clock)
    limiter.take_reading(QueueReading(3, None, 1), blocked=False)
    return limiter, clock, law


def test_before_consumers_that_do_not_report_what_they_hold_is_counted() -> None:
    limiter, clock, law = a_limiter()
    assert limiter.wants_counts(1)
    clock.now += 0.1
    counted = QueueStatistics(ready=3, unacked=40, arrived_s=clock.now, fresh=True)
    limiter.take_reading(QueueReading(3, None, 1, statistics=counted), blocked=False)
    assert (law.seen[-1].backlog, law.seen[-1].quality) == (43, SignalQuality.COUNTED)


def test_in_a_fleet_it_reports_as_rarely_as_all_do_and_says_so() -> None:
    limiter, clock, _ = a_limiter()
    assert limiter.report_every_s == pytest.approx(0.1)
    for number in range(50):
        rival = Pacer(Fixed(1.0), now=clock.now, queue="orders", session=number + 1)
        limiter.take_report(decode(rival.own_report(now=clock.now)))
    limiter.take_reading(QueueReading(3, None, 200), blocked=False)
    assert limiter.report_every_s == pytest.approx(((200 + 51) * 52 + 200 / 10) / 2000)
    told = decode(limiter.report(5.0))
    assert isinstance(told, ProducerReport)
    assert (told.interval_s, told.producers) == (5.0, 51)


def test_what_waits_in_the_client_library_of_a_consumer_that_reports_is_counted_now_and_then() -> None:
    limiter, clock, law = a_limiter()
    reporter = Reporter("orders", prefetch=0, clock=clock)
    reporter.begin()
    limiter.take_report(decode(reporter.report()))
    limiter.take_reading(QueueReading(0, None, 1), blocked=False)
    assert [number for number in range(10) if limiter.wants_counts(number)] == [0, 5]
    for tick in range(20):
        clock.now += 0.1
        limiter.take_report(decode(reporter.report()))
        counted = QueueStatistics(ready=0, unacked=40, arrived_s=clock.now, fresh=True) if tick % 5 == 0 else None
        limiter.take_reading(QueueReading(0, None, 1, statistics=counted), blocked=False)
    assert law.seen[-1].unacked == pytest.approx(40, abs=12)


@pytest.mark.parametrize("name", ["management_url", "prometheus_url"])
def test_an_address_of_an_api_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        Limiter("orders", URL, **{name: "rabbit:15672"}).open()  # type: ignore[arg-type]  # a name of a parameter
    assert caught.value.key == name


def test_what_is_missing_to_know_what_they_hold_reaches_the_law() -> None:
    limiter, clock, law = a_limiter()
    clock.now += 0.1
    limiter.take_reading(QueueReading(3, None, 1, missing="no API; give one"), blocked=False)
    assert law.seen[-1].quality == SignalQuality.BLIND
    assert "no API; give one" in law.seen[-1].missing


def test_messages_go_at_the_rate_of_the_law() -> None:
    limiter, clock, _ = a_limiter(10.0)
    granted = 0
    for _ in range(1000):
        clock.now += 0.01
        granted += limiter.try_acquire()
    assert granted == pytest.approx(100, abs=2)


def test_a_call_that_waits_in_vain_says_when_to_try_again() -> None:
    limiter, _, _ = a_limiter(0.5)
    limiter.acquire(timeout=0)
    with pytest.raises(BackpressureError) as caught:
        limiter.acquire(timeout=0)
    assert caught.value.queue == "orders"
    assert caught.value.retry_after_s == pytest.approx(2.0)
    assert "because" in str(caught.value)
    assert limiter.status().shed == 1


def test_the_same_in_a_task() -> None:
    limiter, _, _ = a_limiter(0.5)

    async def story() -> None:
        await limiter.acquire_async(timeout=0)
        with pytest.raises(BackpressureError):
            await limiter.acquire_async(timeout=0)

    asyncio.run(story())
    assert limiter.status().waiting == 0


def test_a_cancelled_task_takes_nobody_s_place() -> None:
    limiter, clock, _ = a_limiter(1.0)
    limiter.acquire()

    async def story() -> None:
        waiting = asyncio.create_task(limiter.acquire_async())
        while limiter.status().waiting == 0:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(story())
    clock.now += 1.0
    assert limiter.status().waiting == 0
    assert limiter.try_acquire()
    assert limiter.status().sent == 2


def test_a_client_is_told_to_come_back_after_a_whole_second_at_least() -> None:
    limiter, clock, law = a_limiter(100.0)
    clock.now += 1.0
    limiter.acquire()
    assert limiter.retry_after_s == 1
    law.rate_per_s = 0.1
    limiter.take_reading(QueueReading(30, None, 1), blocked=False)
    while limiter.try_acquire():
        pass
    assert limiter.retry_after_s == 10
    law.rate_per_s = 0.0  # the queue drains, or nobody consumes: nobody knows for how long
    limiter.take_reading(QueueReading(30, None, 1), blocked=False)
    assert limiter.retry_after_s == 1


def test_what_becomes_of_messages_reaches_the_law() -> None:
    limiter, clock, law = a_limiter(1000.0)
    clock.now += 1.0
    with limiter.sending():
        pass
    with pytest.raises(RefusedError), limiter.sending():
        raise RefusedError("full")
    with pytest.raises(ConnectionError), limiter.sending():
        raise ConnectionError
    limiter.acquire()
    limiter.take_reading(QueueReading(3, None, 1), blocked=False)
    signals = law.seen[-1]
    assert (signals.confirmed_total, signals.nacked_total, signals.in_flight) == (1, 1, 1)
    status = limiter.status()
    assert (status.sent, status.confirmed, status.refused, status.in_flight) == (4, 1, 1, 1)


def test_nothing_goes_while_the_broker_has_an_alarm() -> None:
    limiter, clock, law = a_limiter(1000.0)
    limiter.take_reading(QueueReading(3, None, 1), blocked=True)
    clock.now += 1.0
    assert not limiter.may_send()
    assert not limiter.try_acquire()
    assert law.seen[-1].blocked
    assert "alarm" in limiter.status().reason
    limiter.take_reading(QueueReading(3, None, 1), blocked=False)
    assert limiter.try_acquire()


def test_without_an_answer_the_law_is_asked_with_what_it_knows() -> None:
    limiter, clock, law = a_limiter(1000.0)
    clock.now += 5.0
    limiter.take_reading(None, blocked=False)
    assert law.seen[-1].depth_age_s == pytest.approx(5.0)
    assert not limiter.status().watching


def sent_within(limiter: Limiter, clock: Clock, duration_s: float, reading: QueueReading | None) -> int:
    """Return how many messages may go in a time of equal readings."""
    sent = 0
    for _ in range(round(10 * duration_s)):
        clock.now += 0.1
        limiter.take_reading(reading, blocked=False)
        while limiter.try_acquire():
            sent += 1
            limiter.confirmed()
    return sent


@pytest.mark.parametrize(("min_per_s", "expected"), [(0.0, 60), (0.5, 60), (5.0, 300)])
def test_to_a_queue_that_was_never_read_goes_one_message_a_second_or_what_is_set(
    min_per_s: float, expected: int
) -> None:
    clock = Clock()
    limiter = Limiter("orders", URL, min_per_s=min_per_s, clock=clock)
    assert sent_within(limiter, clock, 60.0, None) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(("min_per_s", "expected"), [(0.0, 60), (5.0, 300)])
def test_to_a_queue_that_cannot_be_read_any_more_goes_no_less(min_per_s: float, expected: int) -> None:
    clock = Clock()
    limiter = Limiter("orders", URL, min_per_s=min_per_s, clock=clock)
    sent_within(limiter, clock, 5.0, QueueReading(0, None, 1))
    sent_within(limiter, clock, 30.0, None)
    assert sent_within(limiter, clock, 60.0, None) == pytest.approx(expected, abs=3)


def test_the_least_holds_for_a_law_of_ones_own_too() -> None:
    clock = Clock()
    limiter = Limiter("orders", URL, law=Fixed(0.0), min_per_s=5.0, clock=clock)
    assert sent_within(limiter, clock, 20.0, QueueReading(3, None, 1)) == pytest.approx(100, abs=2)


def test_why_the_queue_cannot_be_read_is_part_of_the_reason_until_it_is_read() -> None:
    limiter, _, _ = a_limiter()
    limiter.take_obstacle("queue 'orders' does not exist")
    limiter.take_reading(None, blocked=False)
    assert limiter.status().reason == "queue 'orders' does not exist; because"
    limiter.take_reading(QueueReading(3, None, 1), blocked=False)
    assert limiter.status().reason == "because"


def test_before_the_first_reading_a_known_obstacle_is_the_whole_reason() -> None:
    limiter = Limiter("orders", URL)
    assert limiter.status().reason == "waiting for a first reading"
    limiter.take_obstacle("no broker at there: connection refused")
    limiter.take_reading(None, blocked=False)
    assert limiter.status().reason == "no broker at there: connection refused"


def test_the_law_knows_whether_more_could_have_been_sent() -> None:
    limiter, _, law = a_limiter(1.0)
    limiter.acquire()
    limiter.may_send()
    limiter.take_reading(QueueReading(3, None, 1), blocked=False)
    assert not law.seen[-1].application_limited
    limiter.take_reading(QueueReading(3, None, 1), blocked=False)
    assert law.seen[-1].application_limited


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the test runner has threads
def test_a_forked_process_begins_again_with_an_identity_of_its_own() -> None:
    limiter, _, _ = a_limiter(1000.0)
    limiter.acquire()
    before = limiter.report()
    child = os.fork()
    if child == 0:
        fresh = limiter.may_send() and limiter.status().sent == 0 and limiter.report() != before
        os._exit(0 if fresh else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert limiter.status().sent == 1


@pytest.mark.parametrize(
    "wrong", [{"max_per_s": 0}, {"weight": -1}, {"target_wait_s": 0}, {"min_per_s": 5, "max_per_s": 4}]
)
def test_a_limit_that_cannot_be_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limiter("orders", URL, **wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_a_url_that_is_none_of_a_broker_is_refused_when_it_opens() -> None:
    with pytest.raises(ConfigError, match="url"):
        Limiter("orders", "http://user:secret@localhost").open()
