"""How a message ends: refused, returned, unconfirmed when the connection broke, left at the end; the sums agree."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from itertools import pairwise
from math import inf
from types import ModuleType

import pytest
from stage import DEAD, WORK, LateTransport, RecordingBroker, Records, foreign, producing, put, settings_of, until
from virtual_time import run_virtually

from backpressure import Decision, LawConfig, LawTraits, Signals
from backpressure.core.journal import Outcome
from backpressure.core.message import Metadata
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import NotConnectedError
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.endpoints import MemoryPublisher

FREE = {"producer__strategy": "unbounded", "queue__max_length": None}


def adds_up(engine: ProducerEngine, submitted: int = 0) -> None:
    """Assert that every message the producer has taken on is accounted for exactly once."""
    report, box = engine.report(), engine._sender.outbox
    assert report.published <= report.offered + submitted
    waiting = len(box._again) + sum(item.attempts > 0 for item in box._urgent)
    settled = report.confirmed + report.rejected + report.returned
    assert report.published == settled + report.in_flight + waiting


def test_every_message_carries_who_sent_it_its_place_and_its_times() -> None:
    async def story() -> tuple[RecordingBroker, int]:
        broker = RecordingBroker()
        settings = settings_of(
            **FREE, producer__limit=3, producer__producer_id="alice", producer__processing_time_s=0.05,
            producer__payload_bytes=20, producer__text="héllo",
        )  # fmt: skip
        async with producing(settings, broker) as (engine, running):
            await running
            return broker, engine.session

    broker, session = run_virtually(story())
    for sequence, arrival in enumerate(broker.arrivals):
        known = Metadata.read(arrival.message)
        assert (known.session, known.sequence, known.producer_id) == (session, sequence, "alice")
        assert known.processing_time_s == 0.05
        assert known.host
        assert known.intended_ns is not None
        assert known.sent_ns is not None
        assert known.intended_ns <= known.sent_ns
        assert arrival.message.timestamp_s == known.intended_ns // 1_000_000_000
        assert arrival.message.body == "héllo".encode() + b"." * 14
        assert arrival.message.persistent


def test_a_law_that_adapts_sends_a_refused_message_again_until_it_is_taken() -> None:
    async def story() -> tuple[RecordingBroker, ProducerEngine, Records, list[float]]:
        broker, records = RecordingBroker(), Records()
        settings = settings_of(
            queue__max_length=5, producer__strategy="aimd", producer__limit=8, producer__nack_pause_ms=400,
            control__floor_per_s=100,
        )  # fmt: skip
        async with producing(settings, broker, journal=records) as (engine, running):
            await until(lambda: engine.report().nacked >= 6)
            adds_up(engine)
            await MemoryTransport(settings, broker).admin().purge(WORK)
            await asyncio.wait_for(running, 30)
        refused = [arrival for arrival in broker.arrivals if not arrival.accepted]
        first = [arrival.at for arrival in broker.arrivals if arrival.id == refused[0].id]
        return broker, engine, records, first

    broker, engine, records, attempts_at = run_virtually(story())
    assert len(broker.taken()) == len(set(broker.taken())) == 8
    report = engine.report()
    assert (report.confirmed, report.rejected, report.published) == (8, 0, 8)
    assert report.nacked == report.republished >= 6
    assert {record.outcome for record in records} == {Outcome.CONFIRMED}
    assert sum(record.attempts for record in records) == 8 + report.republished
    assert min(later - earlier for earlier, later in pairwise(attempts_at)) >= 0.4 - 1e-9


@pytest.mark.parametrize(
    ("strategy", "on_nack", "rejected"),
    [
        ("bounded", "auto", 5), ("unbounded", "auto", 5), ("rate_limited", "auto", 5), ("aimd", "reject", 5),
        ("bounded", "retry", 0), ("aimd", "auto", 0),
    ],
)  # fmt: skip
def test_the_policy_says_whether_a_refused_message_is_given_up(strategy: str, on_nack: str, rejected: int) -> None:
    async def story() -> tuple[ProducerEngine, Records]:
        broker, records = RecordingBroker(), Records()
        settings = settings_of(
            queue__max_length=5, producer__strategy=strategy, producer__on_nack=on_nack, producer__limit=10,
            control__floor_per_s=100,
        )  # fmt: skip
        async with producing(settings, broker, journal=records) as (engine, _):
            await asyncio.sleep(5)
            adds_up(engine)
        return engine, records

    engine, records = run_virtually(story())
    outcomes = Counter(record.outcome for record in records)
    assert engine.report().rejected == outcomes[Outcome.REJECTED] == rejected
    assert outcomes[Outcome.CONFIRMED] == 5
    assert outcomes[Outcome.UNSETTLED] == 5 - rejected


class GivesUp:
    """A law of a user's that adapts to nothing, and says so."""

    TRAITS = LawTraits(adapts=False, retries=False)
    limit_per_s = 30.0

    def __init__(self, _config: LawConfig) -> None:
        """Take nothing from the configuration."""

    def update(self, signals: Signals, now: float) -> Decision:
        return Decision(self.limit_per_s, "fixed")


class Silent(GivesUp):
    """The same law without traits."""

    TRAITS = LawTraits()
    limit_per_s = inf


@pytest.mark.parametrize(("law", "rejected", "usable"), [("GivesUp", 5, 30.0), ("Silent", 0, 1000.0)])
def test_a_users_own_law_says_whether_refusals_are_retried_and_its_own_limit(
    law: str, rejected: int, usable: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("laws_of_a_user")
    vars(module).update(GivesUp=GivesUp, Silent=Silent)
    monkeypatch.setitem(sys.modules, module.__name__, module)

    async def story() -> tuple[int, float]:
        changes = {"queue__max_length": 5, "producer__limit": 10, "producer__strategy": f"laws_of_a_user:{law}"}
        async with producing(settings_of(**changes), RecordingBroker()) as (engine, _):
            usable = engine.report().usable_rate_per_s
            await engine.reconfigure(engine.settings.model_copy(deep=True))  # what stays as it is keeps its law
            await asyncio.sleep(5)
            return engine.report().rejected, usable

    assert run_virtually(story()) == (rejected, usable)


def test_what_no_queue_takes_is_told_to_whoever_requested_it_and_the_queues_are_declared_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> tuple[ProducerEngine, Records, list[Outcome], str]:
        broker, records = RecordingBroker(), Records()
        settings = settings_of(**FREE, producer__limit=50, producer__start_paused=True)
        async with producing(settings, broker, journal=records) as (engine, running):
            await MemoryTransport(settings, broker).admin().delete(WORK)
            [told] = await engine.submit([(None, b"x", None)])
            engine.resume()
            await asyncio.wait_for(running, 5)
            adds_up(engine, submitted=1)
        return engine, records, [record.outcome for record in records], told.reason

    engine, _, outcomes, reason = run_virtually(story())
    report = engine.report()
    assert (report.returned, report.confirmed, report.published) == (1, 50, 51)
    assert caplog.text.count("no queue takes what is published to exchange") == 1
    assert outcomes == [Outcome.RETURNED] + [Outcome.CONFIRMED] * 50
    assert "312" in reason


@pytest.mark.parametrize("predeclared", [True, False])
def test_a_queue_that_is_deleted_is_waited_for_and_nothing_is_lost(
    predeclared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> tuple[list[int], list[str], list[str]]:
        broker = RecordingBroker()
        ours = settings_of(**FREE, producer__limit=500)
        theirs = settings_of(**FREE, producer__limit=500, queue__predeclared=True)
        admin = MemoryTransport(ours, broker).admin()
        await admin.declare(ours.queue)
        async with producing(theirs if predeclared else ours, broker) as (engine, running):
            reasons, obstacles = [], []
            await asyncio.sleep(0.1)
            await admin.delete(WORK)
            for _ in range(100):
                await asyncio.sleep(0.1)
                reasons.append(engine.decision.reason)
                obstacles.append(engine.obstacle)
            sent = len(broker.arrivals)
            if predeclared:
                assert sent < 500
                await admin.declare(ours.queue)
            await asyncio.wait_for(running, 10)
            adds_up(engine)
            report = engine.report()
        return [report.confirmed, report.returned], reasons, obstacles

    counts, reasons, obstacles = run_virtually(story())
    assert counts == [500, 0]
    assert caplog.text.count("waiting for the queues: ") == predeclared
    assert caplog.text.count("work.queue is in place again") == predeclared
    if predeclared:
        missing = "the queue is missing: nothing is sent until it is there again"
        assert reasons.count(missing) > 90
        assert obstacles.count(missing) > 90


def test_what_was_unconfirmed_when_the_link_broke_goes_again_first_with_its_id_and_in_order() -> None:
    async def story() -> tuple[list[int], list[int], ProducerEngine, Records]:
        broker, records = RecordingBroker(), Records()
        settings = settings_of(**FREE, producer__limit=1000)
        late = LateTransport(settings, broker, late_s=0.1)
        async with producing(settings, broker, transport=late, journal=records) as (engine, running):
            await asyncio.sleep(0.5)
            unconfirmed = [item.sequence for item in engine._sender.outbox.in_flight.items()]
            seen = len(broker.arrivals)
            broker.disconnect()
            adds_up(engine)
            await asyncio.wait_for(running, 10)
            adds_up(engine)
        return unconfirmed, [arrival.sequence for arrival in broker.arrivals[seen:]], engine, records

    unconfirmed, after, engine, records = run_virtually(story())
    assert len(unconfirmed) > 90
    assert after[: len(unconfirmed)] == unconfirmed
    assert after[len(unconfirmed) :] == list(range(unconfirmed[-1] + 1, 1000))
    report = engine.report()
    assert (report.published, report.confirmed, report.republished) == (1000, 1000, len(unconfirmed))
    assert Counter(record.sequence for record in records) == Counter(range(1000))


def test_a_link_that_breaks_again_and_again_loses_nothing_and_settles_each_message_once() -> None:
    async def story() -> tuple[RecordingBroker, Records]:
        broker, records = RecordingBroker(), Records()
        settings = settings_of(**FREE, producer__limit=3000)
        late = LateTransport(settings, broker, late_s=0.02)
        async with producing(settings, broker, transport=late, journal=records) as (engine, running):
            while not running.done():
                await asyncio.sleep(0.13)
                broker.disconnect()
                adds_up(engine)
        return broker, records

    broker, records = run_virtually(story())
    assert set(broker.taken()) == {arrival.id for arrival in broker.arrivals}
    assert Counter(record.sequence for record in records) == Counter(range(3000))
    assert {record.outcome for record in records} == {Outcome.CONFIRMED}


class _Brittle(MemoryPublisher):
    """A publisher that notices only when it publishes that its link is gone, and says so a moment later."""

    broken = False

    def publish(self, *args: object, **kwargs: object) -> int:
        if self.broken:
            self.broken = False
            asyncio.get_running_loop().call_later(0.01, self.lose, "reset by peer")
            raise NotConnectedError("reset by peer")
        return super().publish(*args, **kwargs)  # type: ignore[arg-type]  # passed on


@pytest.mark.parametrize("urgent", [False, True], ids=["new", "requested"])
def test_a_message_the_transport_would_not_take_keeps_its_place_and_does_not_count_as_an_attempt(urgent: bool) -> None:
    async def story() -> tuple[list[int], ProducerEngine]:
        broker = RecordingBroker()
        settings = settings_of(**FREE, producer__limit=100, producer__start_paused=urgent)
        transport = MemoryTransport(settings, broker)
        publisher = _Brittle(broker)
        transport.publisher = lambda: publisher  # type: ignore[method-assign]
        async with producing(settings, broker, transport=transport) as (engine, running):
            if urgent:
                publisher.broken = True
                await engine.submit([(None, b"x", None)] * 100)
            else:
                await asyncio.sleep(0.05)
                publisher.broken = True
                await asyncio.wait_for(running, 10)
            adds_up(engine, submitted=100)
        return [arrival.sequence for arrival in broker.arrivals], engine

    sequences, engine = run_virtually(story())
    assert sequences == list(range(100))
    assert (engine.report().published, engine.report().republished) == (100, 0)


def test_while_the_broker_blocks_publishing_nothing_more_is_sent_and_afterwards_all_of_it() -> None:
    async def story() -> tuple[int, int, int, ProducerEngine]:
        broker = RecordingBroker()
        async with producing(settings_of(**FREE), broker) as (engine, _):
            await asyncio.sleep(1)
            broker.block("low on memory")
            await asyncio.sleep(0.1)
            before, in_flight = len(broker.arrivals), engine.report().in_flight
            assert engine.report().blocked
            with pytest.raises(NotConnectedError, match="blocks"):
                await engine.submit([(None, b"x", None)])
            await asyncio.sleep(30)
            assert engine.report().in_flight == in_flight
            during = len(broker.arrivals) - before
            broker.unblock()
            await asyncio.sleep(1)
            adds_up(engine)
            assert not engine.report().blocked
            return in_flight, during, len(broker.arrivals) - before, engine

    in_flight, during, after, engine = run_virtually(story())
    assert 1 <= in_flight <= 3  # what was written before the broker said so
    assert during == 0
    assert after == pytest.approx(1000 + 100 + in_flight, abs=5)
    assert engine.report().blocked_events == 1


def test_a_lost_link_ends_the_block_of_that_link() -> None:
    async def story() -> tuple[bool, bool]:
        broker = RecordingBroker()
        async with producing(settings_of(**FREE), broker) as (engine, _):
            broker.block()
            await until(lambda: engine.blocked)
            broker.alarm = ""  # the broker restarts: nobody is left to unblock
            broker.disconnect()
            await asyncio.sleep(0.1)
            blocked, sent = engine.blocked, len(broker.arrivals)
            await asyncio.sleep(0.1)
            return blocked, len(broker.arrivals) > sent

    assert run_virtually(story()) == (False, True)


def test_on_stop_it_waits_for_the_confirms_that_are_due_and_sends_nothing_new() -> None:
    async def story() -> tuple[RecordingBroker, ProducerEngine, Records, float]:
        broker, records = RecordingBroker(), Records()
        settings = settings_of(**FREE)
        late = LateTransport(settings, broker, late_s=1.5)
        async with producing(settings, broker, transport=late, journal=records) as (engine, running):
            await asyncio.sleep(1)
            engine.stop()
            stopped_at = asyncio.get_running_loop().time()
            await running
        return broker, engine, records, max(arrival.at for arrival in broker.arrivals) - stopped_at

    broker, engine, records, last_sent = run_virtually(story())
    assert last_sent <= 0.001
    assert engine.report().confirmed == len(broker.arrivals) == len(records)
    assert {record.outcome for record in records} == {Outcome.CONFIRMED}


@pytest.mark.parametrize(("blocked", "expected_s"), [(False, 5), (True, 2)])
def test_messages_without_an_answer_within_the_drain_time_are_journaled_as_unsettled(
    blocked: bool, expected_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> tuple[int, Records, float]:
        broker, records, loop = RecordingBroker(), Records(), asyncio.get_running_loop()
        settings = settings_of(**FREE, producer__drain_timeout_s=5)
        late = LateTransport(settings, broker, late_s=1000)
        async with producing(settings, broker, transport=late, journal=records) as (engine, running):
            await asyncio.sleep(0.5)
            if blocked:
                engine._sender.on_blocked("an alarm")
            engine.stop()
            stopped_at = loop.time()
            await running
            took_s = loop.time() - stopped_at
        return len(broker.arrivals), records, took_s

    sent, records, took_s = run_virtually(story())
    assert took_s == pytest.approx(expected_s, abs=0.1)
    assert [record.outcome for record in records] == [Outcome.UNSETTLED] * sent
    assert f"{sent} messages had no answer of the broker at the end" in caplog.text


def test_the_queues_are_created_again_when_the_broker_comes_back_without_them_and_nothing_is_returned() -> None:
    async def story() -> tuple[RecordingBroker, ProducerEngine]:
        broker = RecordingBroker()
        settings = settings_of(**FREE, producer__limit=500)
        late = LateTransport(settings, broker, late_s=0.05)
        async with producing(settings, broker, transport=late) as (engine, running):
            await asyncio.sleep(0.2)
            broker.queues.clear()
            broker.bindings.clear()
            broker.disconnect("broker restarted")
            await asyncio.wait_for(running, 10)
        return broker, engine

    broker, engine = run_virtually(story())
    assert {WORK, DEAD} <= broker.queues.keys()
    assert (engine.report().confirmed, engine.report().returned) == (500, 0)


@pytest.mark.parametrize(("purge", "left"), [(True, 5), (False, 7)])
def test_the_queues_are_emptied_first_when_asked_to(purge: bool, left: int) -> None:
    async def story() -> int:
        broker, settings = RecordingBroker(), settings_of(**FREE, producer__purge=purge, producer__limit=5)
        await put(broker, settings, foreign("old"), foreign("older"))
        async with producing(settings, broker) as (_, running):
            await running
        return len(broker.queues[WORK].ready)

    assert run_virtually(story()) == left


def test_a_line_of_progress_comes_each_time_the_set_number_is_settled() -> None:
    async def story() -> list[int]:
        seen: list[int] = []
        settings = settings_of(**FREE, producer__limit=1000, producer__progress_every=250)
        async with producing(settings, RecordingBroker(), on_progress=lambda report: seen.append(report.confirmed)) as (
            _,
            running,
        ):
            await running
        return seen

    assert run_virtually(story()) == [250, 500, 750, 1000]


def test_an_auditing_producer_copies_every_message_to_the_audit_queue() -> None:
    async def story() -> RecordingBroker:
        broker = RecordingBroker()
        async with producing(settings_of(**FREE, queue__auditing=True, producer__limit=20), broker) as (_, running):
            await running
        return broker

    broker = run_virtually(story())
    assert len(broker.queues[WORK].ready) == len(broker.queues["audit.queue"].ready) == 20
