"""Work that fails: retried with growing pauses, given up with a reason, and no obstacle for other messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from stage import DEAD, WORK, RecordingBroker, Records, consuming, foreign, ours, put, settings_of, until
from virtual_time import run_virtually

from backpressure.core.journal import ConsumerRecord, Outcome
from backpressure.core.message import Delivery, Message, Metadata
from backpressure.core.reports import ConsumerReport
from backpressure.transports.memory import MemoryTransport

EVEN = {"retry__jitter": 0.0}


class Work:
    """Fails for messages whose body begins with "bad", as often as told to; notes when each attempt was."""

    def __init__(self, failures: int = 1 << 30) -> None:
        self.failures = failures
        self.attempts: list[tuple[float, str]] = []

    async def __call__(self, delivery: Delivery, _: Metadata) -> None:
        text = delivery.message.body.decode()
        self.attempts.append((asyncio.get_running_loop().time(), text))
        await asyncio.sleep(0.001)
        if text.startswith("bad") and sum(text == tried for _, tried in self.attempts) <= self.failures:
            raise ValueError(f"cannot do {text}")

    def times_of(self, text: str) -> list[float]:
        return [at for at, tried in self.attempts if tried == text]


def test_failed_work_is_tried_again_after_pauses_that_grow() -> None:
    async def story() -> tuple[Work, ConsumerReport, Records]:
        settings = settings_of(**EVEN, consumer__expect=1, retry__max_attempts=6, retry__backoff_max_ms=500)
        broker, work, records = RecordingBroker(), Work(failures=4), Records()
        await put(broker, settings, ours(0, body="bad"))
        async with consuming(settings, broker, handler=work, journal=records) as (engine, running):
            await asyncio.wait_for(running, 30)
        assert DEAD in broker.queues
        assert not broker.queues[DEAD].ready
        return work, engine.report(), records

    work, report, records = run_virtually(story())
    pauses = [later - earlier for earlier, later in pairwise(work.times_of("bad"))]
    assert pauses == pytest.approx([0.101, 0.201, 0.401, 0.501], abs=0.01)
    assert (report.processed, report.failed, report.retried, report.dead_lettered) == (1, 4, 4, 0)
    [record] = records
    assert (record.outcome, record.attempts) == (Outcome.PROCESSED, 5)


def test_after_the_last_attempt_it_goes_to_the_dead_letters_with_the_reason_and_is_acknowledged() -> None:
    async def story() -> tuple[RecordingBroker, ConsumerReport, Records]:
        settings = settings_of(consumer__expect=1, retry__max_attempts=3)
        broker, records = RecordingBroker(), Records()
        await put(broker, settings, ours(5, body="bad"))
        async with consuming(settings, broker, handler=Work(), journal=records) as (engine, running):
            await asyncio.wait_for(running, 30)
        return broker, engine.report(), records

    broker, report, records = run_virtually(story())
    [entry] = broker.queues[DEAD].ready
    assert entry.message.body == b"bad"
    assert entry.message.message_id == ours(5).message_id
    assert entry.message.headers["x-pace-reason"] == "ValueError: cannot do bad"
    assert entry.message.headers["x-pace-attempts"] == 3
    assert entry.message.headers["producer_id"] == "alice"
    assert (broker.queues[WORK].unacked, len(broker.queues[WORK].ready)) == (0, 0)
    assert (report.processed, report.failed, report.retried, report.dead_lettered) == (0, 3, 2, 1)
    [record] = records
    assert isinstance(record, ConsumerRecord)
    assert (record.outcome, record.attempts, record.sequence) == (Outcome.DEAD_LETTERED, 3, 5)


def test_poison_messages_do_not_block_the_others_even_when_they_fill_the_prefetch() -> None:
    async def story() -> tuple[list[str], int]:
        settings = settings_of(consumer__prefetch=3, retry__max_attempts=4)
        broker, work = RecordingBroker(), Work()
        poison = [ours(n, body=f"bad {n}") for n in range(10)]
        await put(broker, settings, *poison, *(ours(100 + n, body=f"good {n}") for n in range(100)))
        async with consuming(settings, broker, handler=work) as (engine, _):
            await until(lambda: engine.tally.processed == 100)
            early = [text for _, text in work.attempts]
            await until(lambda: engine.tally.dead_lettered == 10)
            return early, len(broker.queues[DEAD].ready)

    early, dead = run_virtually(story())
    assert max(early.count(f"bad {n}") for n in range(10)) < 4  # good work was over before any was given up
    assert dead == 10


def test_while_the_broker_blocks_dead_letters_the_good_messages_are_still_worked_on() -> None:
    async def story() -> tuple[float, int, int, int]:
        settings, loop = settings_of(retry__max_attempts=1, consumer__prefetch=5), asyncio.get_running_loop()
        broker = RecordingBroker()
        poison = [ours(n, body=f"bad {n}") for n in range(3)]
        await put(broker, settings, *poison, *(ours(100 + n, body=f"good {n}") for n in range(50)))
        broker.block()
        async with consuming(settings, broker, handler=Work()) as (engine, _):
            began = loop.time()
            await until(lambda: engine.tally.processed == 50)
            took_s, held, dead = loop.time() - began, engine.report().held, engine.tally.dead_lettered
            broker.unblock()
            await until(lambda: engine.tally.dead_lettered == 3)
            await until(lambda: not engine.held)
        assert dead == 0
        return took_s, held, len(broker.queues[DEAD].ready), len(broker.queues[WORK].ready)

    took_s, held, dead, left = run_virtually(story())
    assert took_s < 1
    assert (held, dead, left) == (3, 3, 0)


def test_a_message_that_cannot_be_dead_lettered_goes_back_to_the_queue_and_is_not_lost() -> None:
    async def story() -> tuple[int, int, list[str]]:
        settings = settings_of(retry__max_attempts=1, retry__backoff_min_ms=1)
        broker = RecordingBroker()
        await put(broker, settings, ours(0, body="bad"), ours(1, body="good"))
        async with consuming(settings, broker, handler=Work()) as (engine, _):
            del broker.queues[DEAD]
            await until(lambda: engine.tally.failed >= 3)
            engine.stop()
        return engine.tally.dead_lettered, engine.tally.processed, broker.texts(WORK)

    assert run_virtually(story()) == (0, 1, ["bad"])


class UncarryingTransport(MemoryTransport):
    """A transport that cannot publish what it was delivered."""

    def dead_letter(self, *_: object) -> Message:
        raise ValueError("its properties do not add up")


def test_a_message_that_cannot_be_published_is_dead_lettered_once_by_the_broker() -> None:
    async def story() -> tuple[int, Message, list[str]]:
        settings = settings_of(retry__max_attempts=1, consumer__expect=1)
        broker = RecordingBroker()
        await put(broker, settings, ours(0, body="bad"))
        transport = UncarryingTransport(settings, broker)
        async with consuming(settings, broker, transport=transport, handler=Work()) as (engine, running):
            await asyncio.wait_for(running, 30)
        [entry] = broker.queues[DEAD].ready
        return engine.tally.dead_lettered, entry.message, broker.texts(WORK)

    dead_lettered, message, left = run_virtually(story())
    assert (dead_lettered, message.body, left) == (1, b"bad", [])
    assert "x-pace-reason" not in message.headers


def test_a_dead_letter_does_not_expire_and_its_history_says_when_it_would_have() -> None:
    async def story() -> Message:
        settings = settings_of(retry__max_attempts=1, consumer__expect=1)
        broker = RecordingBroker()
        await put(broker, settings, replace(ours(0, body="bad"), expiration_ms=60_000))
        async with consuming(settings, broker, handler=Work()) as (_, running):
            await asyncio.wait_for(running, 30)
            await asyncio.sleep(100)
        [entry] = broker.queues[DEAD].ready
        return entry.message

    message = run_virtually(story())
    [death] = message.headers["x-death"]  # type: ignore[misc, union-attr]  # a list
    assert (death["reason"], death["queue"], death["original-expiration"]) == ("rejected", WORK, "60000")  # type: ignore[call-overload, index]
    assert message.expiration_ms is None


@pytest.mark.parametrize("reason", ["x" * 100_000, "half a pair: \ud800"])
def test_a_reason_of_any_kind_can_be_written_down(reason: str) -> None:
    async def story() -> Message:
        settings = settings_of(retry__max_attempts=1, consumer__expect=1)
        broker = RecordingBroker()
        await put(broker, settings, ours(0, body="bad"))

        async def failing(*_: object) -> None:
            raise ValueError(reason)

        async with consuming(settings, broker, handler=failing) as (_, running):
            await asyncio.wait_for(running, 30)
        [entry] = broker.queues[DEAD].ready
        return entry.message

    told = run_virtually(story()).headers["x-pace-reason"]
    assert isinstance(told, str)
    assert told.startswith("ValueError: ")
    assert len(told.encode()) <= 1000


def test_expected_messages_that_are_dead_lettered_count_and_the_number_stays_exact() -> None:
    async def story() -> tuple[int, int, int, int]:
        settings = settings_of(consumer__expect=10, consumer__prefetch=4, retry__max_attempts=1)
        broker = RecordingBroker()
        await put(broker, settings, *(ours(n, body=f"{'bad' if n % 2 else 'good'} {n}") for n in range(30)))
        async with consuming(settings, broker, handler=Work()) as (engine, running):
            await asyncio.wait_for(running, 30)
        queue = broker.queues[WORK]
        return (
            engine.tally.settled,
            len(broker.queues[DEAD].ready) + engine.tally.processed,
            len(queue.ready),
            queue.unacked,
        )

    assert run_virtually(story()) == (10, 10, 20, 0)


def test_late_because_tried_again_is_not_out_of_order() -> None:
    async def story() -> ConsumerReport:
        settings, broker = settings_of(consumer__expect=30), RecordingBroker()
        await put(broker, settings, *(ours(n, body="bad" if n == 3 else "good") for n in range(30)))
        async with consuming(settings, broker, handler=Work(failures=1)) as (engine, running):
            await asyncio.wait_for(running, 30)
        assert engine.tally.order.gaps == 0
        return engine.report()

    report = run_virtually(story())
    assert (report.processed, report.out_of_order, report.duplicates) == (30, 0, 0)


def test_room_for_messages_that_wait_is_given_back_when_none_waits_any_more() -> None:
    async def story() -> tuple[int, int, int]:
        settings = settings_of(consumer__prefetch=5, retry__backoff_min_ms=5000, retry__backoff_max_ms=5000)
        broker = RecordingBroker()
        await put(broker, settings, *(ours(n, body=f"bad {n}") for n in range(40)), ours(99, body="good"))
        async with consuming(settings, broker, handler=Work(failures=1)) as (engine, _):
            before = engine.report().prefetch
            await until(lambda: engine.tally.retried == 40)
            during = engine.report().prefetch
            await until(lambda: engine.tally.processed == 41)
            await asyncio.sleep(1)
            return before, during, engine.report().prefetch

    before, during, after = run_virtually(story())
    assert before == after == 5
    assert during >= 5 + 40


def test_a_paused_consumer_with_work_to_try_again_waits_quietly() -> None:
    async def story() -> tuple[int, int]:
        settings, broker, work = settings_of(), RecordingBroker(), Work(failures=1)
        await put(broker, settings, ours(0, body="bad"))
        async with consuming(settings, broker, handler=work) as (engine, _):
            await until(lambda: engine.tally.retried == 1)
            await engine.pause()
            wakeups, wait = 0, engine._bench.waker.wait

            async def counted(timeout_s: float | None = None) -> None:
                nonlocal wakeups
                wakeups += 1
                assert wakeups < 10_000, "it spins"
                await wait(timeout_s)

            engine._bench.waker.wait = counted  # type: ignore[method-assign]
            await asyncio.sleep(10)
            attempts = len(work.attempts)
            await engine.resume()
            await until(lambda: engine.tally.processed == 1)
            return attempts, wakeups

    attempts, wakeups = run_virtually(story())
    assert attempts == 1
    assert wakeups < 200


def test_on_stop_a_message_between_two_attempts_goes_back_to_the_queue() -> None:
    async def story() -> tuple[list[str], int]:
        settings = settings_of(retry__backoff_min_ms=60_000, retry__backoff_max_ms=60_000)
        broker = RecordingBroker()
        await put(broker, settings, ours(0, body="bad"), ours(1, body="good"))
        async with consuming(settings, broker, handler=Work()) as (engine, running):
            await until(lambda: engine.tally.processed == 1)
            engine.stop()
            await running
        return broker.texts(WORK), broker.queues[WORK].unacked

    assert run_virtually(story()) == (["bad"], 0)


def test_on_stop_it_waits_for_dead_letters_under_way() -> None:
    async def story() -> tuple[int, int, int]:
        settings = settings_of(retry__max_attempts=1, consumer__drain_timeout_s=5)
        broker = RecordingBroker()
        await put(broker, settings, ours(0, body="bad"))
        broker.block()
        async with consuming(settings, broker, handler=Work()) as (engine, running):
            await until(lambda: engine.tally.failed == 1)
            engine.stop()
            asyncio.get_running_loop().call_later(2, broker.unblock)
            await running
        queue = broker.queues[WORK]
        return engine.tally.dead_lettered, len(broker.queues[DEAD].ready), len(queue.ready) + queue.unacked

    assert run_virtually(story()) == (1, 1, 0)


def test_failures_can_be_asked_for_and_come_as_often_as_asked() -> None:
    async def story() -> ConsumerReport:
        settings = settings_of(
            queue__max_length=None, consumer__failure_rate=0.2, consumer__expect=2000, consumer__rate=10_000,
            consumer__prefetch=50, consumer__progress_every=0, retry__max_attempts=3, retry__backoff_min_ms=1,
        )  # fmt: skip
        broker = RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(2000)))
        async with consuming(settings, broker) as (engine, running):
            await asyncio.wait_for(running, 600)
        return engine.report()

    report = run_virtually(story())
    assert report.processed + report.dead_lettered == 2000
    assert report.failed / (report.failed + report.processed) == pytest.approx(0.2, abs=0.03)
    assert report.dead_lettered == pytest.approx(2000 * 0.2**3, abs=12)
    assert report.failed == report.retried + report.dead_lettered


def test_a_strangers_message_that_fails_is_dead_lettered_as_it_came() -> None:
    async def story() -> tuple[bytes, str | None]:
        settings, broker = settings_of(consumer__expect=1, retry__max_attempts=1), RecordingBroker()
        await put(broker, settings, foreign("bad stranger"))
        async with consuming(settings, broker, handler=Work()) as (_, running):
            await asyncio.wait_for(running, 5)
        [entry] = broker.queues[DEAD].ready
        return entry.message.body, entry.message.message_id

    assert run_virtually(story()) == (b"bad stranger", None)
