"""Requests to a running producer: messages ahead of its schedule, and changed settings, all or none."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest
from stage import WORK, LateTransport, RecordingBroker, Records, consuming, producing, settings_of, until
from virtual_time import run_virtually

from backpressure.config import replaced
from backpressure.core.journal import Outcome
from backpressure.core.message import MAX_SESSION, HeaderValue, Message, Metadata
from backpressure.engines.outbox import Settlement
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import ConfigError, NotConnectedError, RefusedError, TransportError
from backpressure.settings import Settings
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.endpoints import MemoryAdmin

FREE = {"producer__strategy": "unbounded", "queue__max_length": None}
IDLE = {**FREE, "producer__start_paused": True}


def test_a_requested_message_is_answered_when_it_is_confirmed_and_carries_what_was_asked_for() -> None:
    async def story() -> tuple[RecordingBroker, list[tuple[str, Outcome]], float]:
        settings, broker, loop = settings_of(**IDLE), RecordingBroker(), asyncio.get_running_loop()
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=0.2)) as (engine, _):
            asked_at = loop.time()
            told = await engine.submit([("order-1", b"one", 0.25), (None, b"two", None)])
            return broker, [(one.message_id, one.outcome) for one in told], loop.time() - asked_at

    broker, told, took_s = run_virtually(story())
    first, second = (arrival.message for arrival in broker.arrivals)
    assert told == [("order-1", Outcome.CONFIRMED), (second.message_id, Outcome.CONFIRMED)]
    assert took_s == pytest.approx(0.2, abs=0.06)
    assert (first.body, first.message_id, first.headers["processing_time"]) == (b"one", "order-1", "0.25")
    assert second.body == b"two"
    assert "processing_time" not in second.headers


def test_requested_messages_go_out_ahead_of_a_slow_pace() -> None:
    async def story() -> tuple[int, float]:
        settings = settings_of(**{**FREE, "producer__strategy": "rate_limited"}, control__rate_limit=1)
        broker, loop = RecordingBroker(), asyncio.get_running_loop()
        async with producing(settings, broker) as (engine, _):
            await asyncio.sleep(10)
            asked_at = loop.time()
            await engine.submit([(None, b"now", None)] * 500)
            return len(broker.arrivals), loop.time() - asked_at

    arrived, took_s = run_virtually(story())
    assert arrived == pytest.approx(10 + 500, abs=2)
    assert took_s < 0.1


def test_of_a_thousand_requests_at_once_none_is_lost_and_none_doubled() -> None:
    async def story() -> tuple[RecordingBroker, list[str], Records]:
        records, settings, broker = Records(), settings_of(**FREE, producer__confirm_window=100), RecordingBroker()
        late = LateTransport(settings, broker, late_s=0.01)
        async with producing(settings, broker, transport=late, journal=records) as (engine, _):
            answers = asyncio.gather(*(engine.submit([(f"request-{n}", b"x", None)]) for n in range(1000)))
            await asyncio.sleep(0.05)
            broker.disconnect()
            told = [settlement for [settlement] in await answers]
        assert {settlement.outcome for settlement in told} == {Outcome.CONFIRMED}
        return broker, [settlement.message_id for settlement in told], records

    broker, told, records = run_virtually(story())
    asked = [f"request-{number}" for number in range(1000)]
    assert told == asked
    assert set(asked) <= set(broker.taken())
    assert max(Counter(record.sequence for record in records).values()) == 1
    # Doubles there are in the broker only where a confirm was lost with its link: same id, so anybody can tell.
    doubled = [arrival for arrival in broker.arrivals if broker.taken().count(arrival.id) > 1]
    assert len({arrival.id for arrival in doubled}) <= 100


def test_without_a_lost_link_a_thousand_requests_are_a_thousand_messages() -> None:
    async def story() -> Counter[str | None]:
        broker = RecordingBroker()
        async with producing(settings_of(**IDLE), broker) as (engine, _):
            await asyncio.gather(*(engine.submit([(f"request-{n}", b"x", None)]) for n in range(1000)))
        return Counter(broker.taken())

    assert run_virtually(story()) == Counter({f"request-{number}": 1 for number in range(1000)})


def test_a_requested_message_is_never_sent_again_when_it_was_refused_and_the_answer_says_so() -> None:
    async def story() -> tuple[list[Outcome], str, int]:
        settings = settings_of(queue__max_length=3, producer__strategy="aimd", producer__start_paused=True)
        broker = RecordingBroker()
        async with producing(settings, broker) as (engine, _):
            told = await engine.submit([(None, b"x", None)] * 5)
            return [one.outcome for one in told], told[-1].reason, len(broker.arrivals)

    outcomes, reason, arrived = run_virtually(story())
    assert outcomes == [Outcome.CONFIRMED] * 3 + [Outcome.REJECTED] * 2
    assert "full" in reason
    assert arrived == 5


def test_a_message_under_an_id_of_the_callers_is_known_to_the_ledger_on_both_sides() -> None:
    async def story() -> tuple[Records, Records]:
        broker, sent, done = RecordingBroker(), Records(), Records()
        settings = settings_of(**IDLE, consumer__expect=2)
        async with producing(settings, broker, journal=sent) as (engine, _):
            await engine.submit([("order-1", b"one", None), ("order-1", b"the same id again", None)])
            async with consuming(settings, broker, journal=done) as (_, running):
                await asyncio.wait_for(running, 5)
        return sent, done

    sent, done = run_virtually(story())
    assert [(record.session, record.sequence) for record in sent] == [(r.session, r.sequence) for r in done]
    assert sent[0].session > 0


def test_session_and_sequence_out_of_range_in_the_headers_of_a_stranger_count_as_unknown() -> None:
    pairs: list[tuple[HeaderValue, HeaderValue]]
    pairs = [(-1, 1), (MAX_SESSION + 1, 1), (1, -1), (True, 1), ("1", 1), (1, None)]
    for session, sequence in pairs:
        read = Metadata.read(Message(b"", message_id="order-1", headers={"session": session, "sequence": sequence}))
        assert (read.session, read.sequence) == (None, None)


def test_a_request_without_an_answer_of_the_broker_times_out_and_is_still_settled_later() -> None:
    async def story() -> tuple[list[Settlement], float, int]:
        settings, broker, loop = settings_of(**IDLE), RecordingBroker(), asyncio.get_running_loop()
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=60)) as (engine, _):
            asked_at = loop.time()
            told = await engine.submit([("order-1", b"x", None)])
            took_s = loop.time() - asked_at
            await until(lambda: engine.report().confirmed)
            return told, took_s, engine.report().confirmed

    [told], took_s, confirmed = run_virtually(story())
    assert (told.message_id, told.outcome, told.may_have_arrived) == ("order-1", Outcome.UNSETTLED, True)
    assert took_s == pytest.approx(10)
    assert confirmed == 1


def test_a_burst_may_take_its_time_as_long_as_the_broker_answers() -> None:
    async def story() -> list[Settlement]:
        settings, broker = settings_of(**IDLE, producer__confirm_window=1), RecordingBroker()
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=5)) as (engine, _):
            return await engine.submit([(None, b"x", None)] * 6)

    assert {one.outcome for one in run_virtually(story())} == {Outcome.CONFIRMED}


def test_more_requests_than_ten_windows_are_refused_until_some_are_answered() -> None:
    async def story() -> tuple[int, int, Outcome]:
        settings, broker = settings_of(**IDLE, producer__confirm_window=2), RecordingBroker()
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=1)) as (engine, _):
            asked = [asyncio.create_task(engine.submit([(None, b"x", None)])) for _ in range(30)]
            told = await asyncio.gather(*asked, return_exceptions=True)
            [later] = await engine.submit([(None, b"x", None)])
            refused = [one for one in told if isinstance(one, RefusedError)]
            return len(refused), len(broker.arrivals), later.outcome

    assert run_virtually(story()) == (10, 21, Outcome.CONFIRMED)


def test_large_requests_are_bounded_by_their_bytes() -> None:
    async def story() -> None:
        settings, broker = settings_of(**IDLE), RecordingBroker()
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=1)) as (engine, _):
            first = asyncio.create_task(engine.submit([(None, bytes(8 << 20), None)] * 8))
            await asyncio.sleep(0.1)
            try:
                await engine.submit([(None, b"x", None)])
            finally:
                await first

    with pytest.raises(RefusedError, match="8 requested messages wait"):
        run_virtually(story())


def test_what_is_refused_on_a_new_link_may_have_arrived_over_the_old_one() -> None:
    async def story() -> list[Settlement]:
        settings, broker = settings_of(queue__max_length=1, producer__start_paused=True), RecordingBroker()
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=1)) as (engine, _):
            asked = asyncio.create_task(engine.submit([("order-1", b"x", None)]))
            await until(lambda: broker.arrivals)
            broker.disconnect()  # it took the message, and its confirm is lost
            return await asked

    [told] = run_virtually(story())
    assert (told.outcome, told.may_have_arrived) == (Outcome.REJECTED, True)


def test_a_request_is_refused_at_once_while_the_broker_is_away() -> None:
    async def story() -> None:
        broker = RecordingBroker()
        async with producing(settings_of(**IDLE), broker) as (engine, _):
            broker.clients.clear()  # it will not come back by itself
            engine._sender.on_lost(NotConnectedError("gone"))
            await engine.submit([(None, b"x", None)])

    with pytest.raises(NotConnectedError, match="away"):
        run_virtually(story())


@pytest.mark.parametrize("closed", [False, True], ids=["while it drains", "when it is over"])
def test_a_request_to_a_producer_that_ends_is_refused_and_not_left_hanging(closed: bool) -> None:
    async def story() -> None:
        settings, broker = settings_of(**IDLE), RecordingBroker()
        engine: ProducerEngine
        async with producing(settings, broker) as (engine, running):
            engine.stop()
            if closed:
                await running
                await engine.close()
            await asyncio.wait_for(engine.submit([(None, b"x", None)]), 5)

    with pytest.raises(NotConnectedError, match="stopping"):
        run_virtually(story())


def test_what_was_requested_and_never_sent_is_answered_as_unsettled_when_the_producer_ends() -> None:
    async def story() -> list[Outcome]:
        settings, broker = settings_of(**IDLE, producer__confirm_window=1), RecordingBroker()
        settings.producer.drain_timeout_s = 1
        late = LateTransport(settings, broker, late_s=0.5)
        async with producing(settings, broker, transport=late) as (engine, running):
            asked = asyncio.create_task(engine.submit([(None, b"x", None)] * 3))
            await asyncio.sleep(0.1)
            engine.stop()
            await running
        return [one.outcome for one in await asked]

    assert run_virtually(story()) == [Outcome.CONFIRMED, Outcome.UNSETTLED, Outcome.UNSETTLED]


def test_a_caller_that_gave_up_waiting_takes_nothing_down() -> None:
    async def story() -> int:
        settings, broker = settings_of(**IDLE), RecordingBroker()
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=1)) as (engine, _):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.submit([(None, b"x", None)]), 0.5)
            await asyncio.sleep(1)
            return engine.report().confirmed

    assert run_virtually(story()) == 1


# --- other settings while it runs -------------------------------------------------------------------------------------


def _everything(engine: ProducerEngine, broker: RecordingBroker) -> tuple[object, ...]:
    return (
        engine.settings,
        broker.queues[WORK].bound,
        engine._pacing.law,
        engine._sender.schedule.rate_per_s,
        engine.body,
        engine._sender.outbox.in_flight.limit,
    )


def test_other_settings_take_effect_on_law_rate_bound_window_and_body() -> None:
    async def story() -> tuple[str, object, float, int, bytes]:
        broker = RecordingBroker()
        async with producing(settings_of(), broker) as (engine, _):
            await engine.reconfigure(
                settings_of(
                    producer__strategy="rate_limited", control__rate_limit=250, producer__text="new",
                    producer__confirm_window=17, queue__max_length=123, queue__overflow="drop-head",
                )
            )  # fmt: skip
            await asyncio.sleep(2)
            report = engine.report()
            bound = broker.queues[WORK].bound
            return report.strategy, bound, report.pacing_rate_per_s, report.window, broker.arrivals[-1].message.body

    strategy, bound, pace, window, body = run_virtually(story())
    assert (strategy, pace, window, body) == ("rate_limited", 250, 17, b"new")
    assert bound == {"max-length": 123, "overflow": "drop-head"}


def test_arrivals_burst_and_the_pause_after_a_refusal_can_change_too() -> None:
    async def story() -> tuple[list[float], int]:
        broker = RecordingBroker()
        settings = settings_of(producer__strategy="unbounded", producer__rate=100, queue__max_length=None)
        async with producing(settings, broker) as (engine, _):
            await asyncio.sleep(1)
            seen = len(broker.arrivals)
            changes = {"producer.arrivals": "poisson", "producer.burst_ms": 1000.0, "producer.nack_pause_ms": 7.0}
            await engine.reconfigure(replaced(settings, changes))
            await asyncio.sleep(20)
            return [arrival.at for arrival in broker.arrivals[seen:]], engine.report().offered

    times, offered = run_virtually(story())
    gaps = [after - before for before, after in pairwise(times)]
    assert offered == pytest.approx(2100, rel=0.1)
    assert max(gaps) > 0.03  # even ones would be 0.01 s


def test_a_law_that_does_not_exist_changes_nothing_not_even_the_bound_of_the_queue() -> None:
    async def story() -> bool:
        broker = RecordingBroker()
        async with producing(settings_of(), broker) as (engine, _):
            before = _everything(engine, broker)
            with pytest.raises(ConfigError, match="nonsense"):
                await engine.reconfigure(
                    settings_of(producer__strategy="nonsense", producer__rate=5, queue__max_length=1)
                )
            return _everything(engine, broker) == before

    assert run_virtually(story())


def test_a_bound_the_broker_will_not_change_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        await asyncio.sleep(1)
        raise TransportError("needs a management API")

    monkeypatch.setattr(MemoryAdmin, "set_bound", refuse)

    async def story() -> bool:
        broker = RecordingBroker()
        async with producing(settings_of(), broker) as (engine, _):
            before = _everything(engine, broker)
            with pytest.raises(TransportError, match="management"):
                await engine.reconfigure(
                    settings_of(producer__strategy="aimd", producer__rate=5, producer__text="x", queue__max_length=1)
                )
            return _everything(engine, broker) == before

    assert run_virtually(story())


def test_a_law_that_stays_as_it_is_keeps_what_it_has_learnt() -> None:
    async def story() -> tuple[bool, bool]:
        broker = RecordingBroker()
        async with producing(settings_of(), broker) as (engine, _):
            law = engine._pacing.law
            await engine.reconfigure(settings_of(producer__rate=900))
            kept = engine._pacing.law is law
            await engine.reconfigure(settings_of(producer__rate=900, control__target_wait_ms=5))
            return kept, engine._pacing.law is law

    assert run_virtually(story()) == (True, False)


def test_after_a_lost_link_the_queue_gets_the_bound_that_was_set_last() -> None:
    async def story() -> object:
        broker = RecordingBroker()
        async with producing(settings_of(queue__max_length=10), broker) as (engine, _):
            await engine.reconfigure(settings_of(queue__max_length=99))
            broker.queues.clear()
            broker.disconnect()
            await asyncio.sleep(1)
            return broker.queues[WORK].bound["max-length"]

    assert run_virtually(story()) == 99


def test_purging_says_how_many_messages_it_dropped() -> None:
    async def story() -> tuple[int, int]:
        broker = RecordingBroker()
        async with producing(settings_of(**IDLE), broker) as (engine, _):
            await engine.submit([(None, b"x", None)] * 42)
            return await engine.purge(), len(broker.queues[WORK].ready)

    assert run_virtually(story()) == (42, 0)


def test_the_depth_it_reports_is_ready_and_unacked_together() -> None:
    async def story() -> int | None:
        settings: Settings = settings_of(**IDLE, consumer__rate=1, consumer__prefetch=7)
        broker = RecordingBroker()
        async with producing(settings, broker) as (engine, _):
            await engine.submit([(None, b"x", None)] * 20)
            transport = MemoryTransport(settings, broker)
            async with consuming(settings, broker, transport=transport):
                await asyncio.sleep(0.5)
                return engine.depth

    assert run_virtually(story()) == 20
