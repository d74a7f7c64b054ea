"""The consumer's work in virtual time: an exact rate, settled afterwards, counted by id, paused, slowed, ended."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from stage import WORK, RecordingBroker, Records, consuming, foreign, ours, put, settings_of, until
from virtual_time import VirtualClock, run_virtually

from backpressure.core.journal import ConsumerRecord, Outcome
from backpressure.core.message import Delivery, Message, Metadata
from backpressure.core.reports import REPORT_HEADER, ConsumerReport, decode
from backpressure.core.turns import encode_interval
from backpressure.engines.tally import Consumed
from backpressure.errors import NotConnectedError
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.endpoints import MemoryProbe

UNBOUNDED = {"queue__max_length": None}


@pytest.mark.parametrize("late_s", [(0.0,), (0.0, 0.0003, 0.004, 0.03)], ids=["punctual", "jittery"])
def test_the_rate_over_thirty_seconds_is_exact_however_late_the_wake_ups_are(late_s: tuple[float, ...]) -> None:
    async def story() -> tuple[int, float, ConsumerReport]:
        settings, broker = settings_of(**UNBOUNDED, consumer__prefetch=20), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(4000)))
        async with consuming(settings, broker) as (engine, _):
            await asyncio.sleep(30)
            assert engine.tally.first_at is not None
            assert engine.tally.last_at is not None
            return engine.tally.processed, engine.tally.last_at - engine.tally.first_at, engine.report()

    machine = Random(1)
    processed, took_s, report = run_virtually(story(), lateness=lambda: machine.choice(late_s))
    assert processed == pytest.approx(100 * took_s, rel=0.001)
    assert processed == pytest.approx(3000, abs=5)
    assert report.service_sum_s == pytest.approx(processed * 0.01)
    assert report.service_sum_s2 == pytest.approx(processed * 0.0001)
    assert report.busy_s == pytest.approx(30, abs=0.1)
    assert report.capacity_per_s == pytest.approx(100)


def test_a_message_is_acknowledged_only_when_the_work_on_it_is_done() -> None:
    async def story() -> list[tuple[str, int]]:
        settings, broker = settings_of(consumer__prefetch=1, consumer__expect=3), RecordingBroker()
        seen: list[tuple[str, int]] = []

        def queue_unacked() -> int:
            return broker.queues[WORK].unacked

        async def work(delivery: Delivery, _: Metadata) -> None:
            seen.append((f"begin {delivery.message.body.decode()}", queue_unacked()))
            await asyncio.sleep(1)
            seen.append((f"end {delivery.message.body.decode()}", queue_unacked()))

        await put(broker, settings, *(ours(n, body=str(n)) for n in range(3)))
        async with consuming(settings, broker, handler=work) as (_, running):
            await asyncio.wait_for(running, 10)
        assert queue_unacked() == 0
        return seen

    assert run_virtually(story()) == [(f"{what} {n}", 1) for n in range(3) for what in ("begin", "end")]


def test_waits_and_times_are_measured_from_when_the_message_was_sent() -> None:
    async def story() -> tuple[ConsumerReport, list[Consumed], Records, int]:
        settings, broker, records = settings_of(consumer__expect=2), RecordingBroker(), Records()
        consumed: list[Consumed] = []
        now_ns = VirtualClock().wall_ns()
        stamped: dict[str, Any] = {"intended_ns": now_ns - 500_000_000, "sent_ns": now_ns - 400_000_000}
        await put(broker, settings, ours(0, **stamped), ours(1, **stamped))
        async with consuming(settings, broker, on_consumed=consumed.append, journal=records) as (engine, running):
            await asyncio.wait_for(running, 5)
        return engine.report(), consumed, records, now_ns

    report, consumed, records, now_ns = run_virtually(story())
    assert [one.queue_wait_s for one in consumed] == pytest.approx([0.4, 0.41], abs=1e-6)
    assert [one.service_s for one in consumed] == pytest.approx([0.01, 0.01])
    assert report.queue_wait.sum_s == pytest.approx(0.81, abs=1e-6)
    assert report.message_age.sum_s == pytest.approx(1.01, abs=1e-6)
    first = records[0]
    assert isinstance(first, ConsumerRecord)
    assert (first.session, first.sequence, first.outcome, first.attempts) == (7, 0, Outcome.PROCESSED, 1)
    assert first.intended_ns == now_ns - 500_000_000
    assert first.sent_ns == now_ns - 400_000_000
    assert first.done_ns - first.started_ns == pytest.approx(10_000_000, abs=10_000)


def test_messages_of_strangers_are_processed_their_age_unknown() -> None:
    async def story() -> tuple[ConsumerReport, list[Consumed], Records]:
        settings, broker, records = settings_of(consumer__expect=3), RecordingBroker(), Records()
        consumed: list[Consumed] = []
        await put(broker, settings, foreign("a"), foreign("a"), ours(0))
        async with consuming(settings, broker, on_consumed=consumed.append, journal=records) as (engine, running):
            await asyncio.wait_for(running, 5)
        return engine.report(), consumed, records

    report, consumed, records = run_virtually(story())
    assert (report.processed, report.duplicates, report.queue_wait.total) == (3, 0, 0)
    assert report.message_age.total == 0
    assert [one.queue_wait_s for one in consumed] == [None, None, None]
    assert [(r.session, r.sequence) for r in records] == [(0, 0), (0, 0), (7, 0)]


def test_order_duplicates_and_gaps_are_found_by_session_and_sequence() -> None:
    async def story() -> tuple[int, int, int, int]:
        settings, broker = settings_of(), RecordingBroker()
        stream = [ours(n) for n in (0, 1, 2, 2, 5, 4, 7)] + [ours(n, session=8) for n in (10, 11, 11)]
        await put(broker, settings, *stream)
        async with consuming(settings, broker) as (engine, _):
            await until(lambda: engine.tally.processed == len(stream))
            report = engine.report()
            return report.duplicates, report.out_of_order, engine.tally.order.gaps, engine.tally.settled

    assert run_virtually(story()) == (2, 1, 2, 8)


def test_a_gap_is_reported_where_the_consumer_is_alone_and_unknown_where_another_one_may_have_the_message() -> None:
    async def story(*, beside: bool) -> tuple[int, int | None]:
        settings, broker = settings_of(consumer__prefetch=1), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in (0, 1, 3, 4, 7)))
        async with consuming(settings, broker) as (engine, running):
            if beside:
                async with consuming(settings, broker) as (other, _):
                    await until(lambda: engine.tally.order.gaps > 0 and other.tally.processed > 0)
                    await until(lambda: engine._others.shared is not None)
            await until(lambda: not broker.queues[WORK].ready and not engine.held)
            engine.stop()
            await running
            return engine.tally.order.gaps, engine.gaps

    assert run_virtually(story(beside=False)) == (3, 3)
    gaps, known = run_virtually(story(beside=True))
    assert gaps >= 3
    assert known is None


def test_a_gap_is_unknown_where_nobody_could_look_for_other_consumers() -> None:
    class Blind(MemoryTransport):
        def probe(self) -> MemoryProbe:
            raise NotConnectedError("no connection is left")

    async def story() -> int | None:
        settings, broker = settings_of(), RecordingBroker()
        await put(broker, settings, ours(0), ours(2))
        async with consuming(settings, broker) as (engine, _):
            engine._others._transport = Blind(settings, broker)
            await until(lambda: engine.tally.processed == 2)
            return engine.gaps

    assert run_virtually(story()) is None


def test_a_message_can_ask_for_its_own_amount_of_work() -> None:
    async def story() -> list[float]:
        settings, broker = settings_of(consumer__expect=3), RecordingBroker()
        consumed: list[Consumed] = []
        await put(broker, settings, ours(0), ours(1, processing_time_s=0.5), ours(2, processing_time_s=0.0))
        async with consuming(settings, broker, on_consumed=consumed.append) as (_, running):
            await asyncio.wait_for(running, 5)
        return [one.service_s for one in consumed]

    assert run_virtually(story()) == pytest.approx([0.01, 0.5, 0.0], abs=1e-9)


@pytest.mark.parametrize(
    ("distribution", "mean_s", "cv2"), [("fixed", 0.01, 0), ("exponential", 0.01, 1), ("uniform", 0.02, 1 / 12)]
)
def test_service_times_have_the_mean_and_the_spread_that_was_asked_for(
    distribution: str, mean_s: float, cv2: float
) -> None:
    async def story() -> ConsumerReport:
        settings = settings_of(
            **UNBOUNDED, consumer__distribution=distribution, consumer__processing_min_ms=10,
            consumer__processing_max_ms=30, consumer__expect=5000, consumer__progress_every=0,
        )  # fmt: skip
        broker = RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(5000)))
        async with consuming(settings, broker) as (engine, running):
            await running
        return engine.report()

    report = run_virtually(story())
    mean = report.service_sum_s / report.processed
    assert mean == pytest.approx(mean_s, rel=0.05)
    assert report.service_sum_s2 / report.processed / mean**2 - 1 == pytest.approx(cv2, abs=0.12)


def test_slowing_down_stretches_every_service_time_until_it_is_back_to_normal() -> None:
    async def story() -> list[int]:
        settings, broker = settings_of(**UNBOUNDED), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(2000)))
        counts = []
        async with consuming(settings, broker) as (engine, _):
            for factor in (1, 5, 1):
                engine.slow_down(factor)
                assert engine.slow_down_factor == factor
                assert engine.report().capacity_per_s == pytest.approx(100 / factor)
                before = engine.tally.processed
                await asyncio.sleep(4)
                counts.append(engine.tally.processed - before)
        return counts

    assert run_virtually(story()) == pytest.approx([400, 80, 400], abs=2)


def test_another_rate_counts_for_the_next_message() -> None:
    async def story() -> int:
        settings, broker = settings_of(**UNBOUNDED), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(2000)))
        async with consuming(settings, broker) as (engine, _):
            await asyncio.sleep(1)
            engine.reconfigure(settings_of(**UNBOUNDED, consumer__rate=20))
            before = engine.tally.processed
            await asyncio.sleep(10)
            return engine.tally.processed - before

    assert run_virtually(story()) == pytest.approx(200, abs=2)


def test_a_paused_consumer_finishes_its_work_takes_nothing_more_and_continues_when_resumed() -> None:
    async def story() -> tuple[int, int, int, int, int]:
        settings, broker = settings_of(consumer__prefetch=5), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(500)))
        async with consuming(settings, broker) as (engine, _):
            await asyncio.sleep(1.005)
            await engine.pause()
            delivered, processed = engine.tally.delivered, engine.tally.processed
            await asyncio.sleep(60)
            assert engine.report().paused
            paused = engine.tally.processed - processed, engine.tally.delivered - delivered, engine.held
            await engine.resume()
            await asyncio.sleep(1)
            return processed, *paused, engine.tally.processed

    processed, finished, taken, held, after = run_virtually(story())
    assert processed == pytest.approx(100, abs=2)
    assert (finished, taken) == (1, 0)
    assert held == 4
    assert 200 - 3 <= after <= 200 + 12  # work catches up with 100 ms at most, whatever held it up


def test_on_stop_what_it_holds_is_finished_and_acknowledged_and_nothing_else_is_touched() -> None:
    async def story() -> tuple[int, int, ConsumerReport]:
        settings, broker = settings_of(consumer__prefetch=8), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(100)))
        async with consuming(settings, broker) as (engine, running):
            await asyncio.sleep(0.305)
            held = engine.held
            engine.stop()
            await running
        assert broker.queues[WORK].unacked == 0
        return held, len(broker.queues[WORK].ready), engine.report()

    held, left, report = run_virtually(story())
    assert held == 8
    assert report.processed == report.delivered
    assert left == 100 - report.processed


@pytest.mark.parametrize("paused", [False, True])
def test_on_stop_it_spends_no_more_than_the_drain_time_and_gives_the_rest_back(paused: bool) -> None:
    async def story() -> tuple[float, int, int]:
        settings = settings_of(consumer__prefetch=50, consumer__rate=10, consumer__drain_timeout_s=2)
        broker, loop = RecordingBroker(), asyncio.get_running_loop()
        await put(broker, settings, *(ours(n) for n in range(50)))
        async with consuming(settings, broker) as (engine, running):
            await asyncio.sleep(1.05)
            if paused:
                await engine.pause()
            stopped_at = loop.time()
            engine.stop()
            await running
            took_s = loop.time() - stopped_at
        assert all(entry.redelivered for entry in broker.queues[WORK].ready)
        return took_s, engine.tally.processed, len(broker.queues[WORK].ready)

    took_s, processed, left = run_virtually(story())
    assert took_s == pytest.approx(2, abs=0.2)
    assert processed == pytest.approx(30, abs=2)
    assert processed + left == 50


def test_it_ends_after_exactly_as_many_as_expected_and_those_beyond_go_back() -> None:
    async def story() -> tuple[int, list[str], int]:
        settings = settings_of(consumer__prefetch=20, consumer__expect=30)
        broker = RecordingBroker()
        await put(broker, settings, *(ours(n, body=str(n)) for n in range(50)))
        async with consuming(settings, broker) as (engine, running):
            await asyncio.wait_for(running, 10)
        return engine.tally.processed, broker.texts(WORK), broker.queues[WORK].unacked

    assert run_virtually(story()) == (30, [str(n) for n in range(30, 50)], 0)


def test_a_duplicate_does_not_count_towards_what_is_expected() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(consumer__expect=4), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in (0, 1, 1, 1, 2, 3, 4)))
        async with consuming(settings, broker) as (engine, running):
            await asyncio.wait_for(running, 10)
        return engine.tally.processed, len(broker.queues[WORK].ready)

    assert run_virtually(story()) == (6, 1)


def test_two_consumers_share_a_queue_and_together_see_every_message_once() -> None:
    async def story() -> tuple[list[int], list[int]]:
        settings, broker = settings_of(), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(400)))
        one, two = Records(), Records()
        async with (
            consuming(settings, broker, journal=one) as (a, _),
            consuming(settings, broker, journal=two) as (b, _),
        ):
            await until(lambda: a.tally.processed + b.tally.processed == 400)
        return [r.sequence for r in one], [r.sequence for r in two]

    first, second = run_virtually(story())
    assert sorted(first + second) == list(range(400))
    assert len(first) == pytest.approx(200, abs=10)
    assert all(later > earlier for earlier, later in pairwise(first))


def test_a_line_of_progress_comes_each_time_the_set_number_is_done() -> None:
    async def story() -> list[int]:
        seen: list[int] = []
        settings, broker = settings_of(consumer__progress_every=25, consumer__expect=100), RecordingBroker()
        await put(broker, settings, *(ours(n) for n in range(100)))
        async with consuming(settings, broker, on_progress=lambda report: seen.append(report.processed)) as (
            _,
            running,
        ):
            await running
        return seen

    assert run_virtually(story()) == [25, 50, 75, 100]


def test_work_that_takes_no_time_does_not_block_the_event_loop() -> None:
    async def story() -> int:
        settings, broker = settings_of(**UNBOUNDED, consumer__prefetch=10_000), RecordingBroker()
        await put(broker, settings, *(ours(n, processing_time_s=0.0) for n in range(5000)))
        turns = 0
        async with consuming(settings, broker) as (engine, _):
            while engine.tally.processed < 5000:
                turns += 1
                await asyncio.sleep(0)
            return turns

    assert run_virtually(story()) >= 5000 // 64


def test_a_stop_does_not_wait_for_work_that_takes_longer_than_its_patience() -> None:
    async def story() -> tuple[float, int, int]:
        broker, settings = RecordingBroker(), settings_of(consumer__drain_timeout_s=5)
        await put(broker, settings, ours(0, processing_time_s=3600))
        async with consuming(settings, broker) as (engine, running):
            await until(lambda: engine.held == 1)
            began = asyncio.get_running_loop().time()
            engine.stop()
            await running
            took_s = asyncio.get_running_loop().time() - began
        return took_s, engine.tally.processed, len(broker.queues[WORK].ready)

    took_s, processed, back = run_virtually(story())
    assert took_s == pytest.approx(5, abs=0.2)
    assert (processed, back) == (0, 1)


@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
def test_at_rate_zero_the_work_takes_no_time_and_many_are_held(distribution: str) -> None:
    async def story() -> tuple[float, int, int, float | None]:
        changes = {"consumer__rate": 0, "consumer__expect": 2000, "consumer__distribution": distribution}
        settings, broker, loop = settings_of(**changes), RecordingBroker(), asyncio.get_running_loop()
        await put(broker, settings, *(ours(n) for n in range(2000)))
        began = loop.time()
        async with consuming(settings, broker) as (engine, running):
            report = engine.report()
            await running
            return loop.time() - began, engine.tally.processed, report.prefetch, report.capacity_per_s

    took_s, processed, prefetch, capacity = run_virtually(story())
    assert (processed, prefetch, capacity) == (2000, 1000, None)
    assert took_s < 0.5


def test_a_consumer_whose_messages_tell_nothing_asks_how_often_to_report() -> None:
    async def story() -> tuple[list[int], float]:
        settings, broker = settings_of(**UNBOUNDED, consumer__prefetch=20), RecordingBroker()
        heard: list[bytes] = []
        every_s: float | None = 2.0
        feedback = MemoryTransport(settings, broker).feedback()
        await feedback.start(heard.append, answer=lambda _: encode_interval(settings.queue.work, every_s))
        counts = []
        async with consuming(settings, broker):
            await put(broker, settings, *(Message(b"not ours") for _ in range(4000)))
            for tells in (True, True, False, True):
                every_s = 2.0 if tells else None
                before = len(heard)
                await asyncio.sleep(40)
                counts.append(len(heard) - before)
                await put(broker, settings, Message(b"not ours"))
        return counts, decode(heard[-2]).interval_s

    (first, fleet, small, again), interval_s = run_virtually(story())
    assert first <= 30
    assert 14 <= fleet <= 26
    assert small >= 40  # told after half a minute at most
    assert again <= 60
    assert 1.0 <= interval_s <= 3.0


def test_a_consumer_of_a_fleet_reports_as_often_as_the_messages_ask_for_and_when_it_is_paused() -> None:
    async def story() -> tuple[int, int, int, float]:
        settings, broker = settings_of(**UNBOUNDED, consumer__prefetch=20), RecordingBroker()
        heard: list[ConsumerReport] = []
        feedback = MemoryTransport(settings, broker).feedback()
        await feedback.start(lambda payload: heard.append(decode(payload)))  # type: ignore[arg-type]  # a consumer's
        async with consuming(settings, broker) as (engine, _):
            await asyncio.sleep(2)
            usual = len(heard)
            await put(broker, settings, *(ours(n).with_headers({REPORT_HEADER: 5000}) for n in range(4000)))
            await asyncio.sleep(20)
            fleet = len(heard)
            await engine.pause()
            await asyncio.sleep(0.5)
            return usual, fleet - usual, len(heard) - fleet, heard[-2].interval_s

    usual, fleet, at_pause, interval_s = run_virtually(story())
    assert usual == pytest.approx(20, abs=1)
    assert 2 <= fleet <= 9
    assert at_pause == 1
    assert 2.5 <= interval_s <= 7.5
