"""Payloads that a function of the user makes: of every kind, paced, up to the limit, with a clear end on failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from stage import RecordingBroker, producing, settings_of
from virtual_time import run_virtually

from backpressure.config import replaced
from backpressure.core.message import parse_message_id
from backpressure.engines.payloads import Made, PayloadSource
from backpressure.errors import ConfigError, PaceError
from backpressure.settings import Settings

FREE = {"producer__strategy": "unbounded", "queue__max_length": None}
"""Nothing but the schedule holds a message back."""


def by_number(number: int) -> tuple[str, dict[str, object]]:
    return f"order {number}", {"n": number}


async def by_number_later(number: int) -> tuple[bytes, dict[str, object]]:
    await asyncio.sleep(0)
    return f"order {number}".encode(), {"n": number}


def steps() -> Iterator[object]:
    yield from map(by_number, range(1000))


async def async_steps() -> AsyncIterator[object]:
    for number in range(1000):
        yield await by_number_later(number)


class AnObject:
    def __call__(self, number: int) -> object:
        return by_number(number)


@pytest.mark.parametrize("function", [by_number, by_number_later, steps, async_steps, AnObject()])
def test_functions_coroutines_and_generators_make_the_next_message(function: Callable[..., Any]) -> None:
    async def made() -> list[Made]:
        source, enough = PayloadSource(function), asyncio.Event()
        making = asyncio.create_task(source.run(enough.set))
        source.make_until(3)
        while len(source) < 3:
            await enough.wait()
            enough.clear()
        await asyncio.sleep(0)
        making.cancel()
        assert source.failure is None
        return [source.take() for _ in range(len(source))]

    assert asyncio.run(made()) == [(f"order {number}".encode(), {"n": number}) for number in range(3)]


def test_a_producer_is_paced_as_ever_and_calls_no_more_often_than_it_has_messages_to_send() -> None:
    called: list[int] = []

    async def order(number: int) -> object:
        called.append(number)
        await asyncio.sleep(0.001)
        return f"order {number}", {"tenant": "a", "sequence": "not ours to give"}

    async def story() -> RecordingBroker:
        broker = RecordingBroker()
        settings = settings_of(**FREE, producer__rate=100, producer__limit=200)
        async with producing(settings, broker, source=PayloadSource(order)) as (engine, task):
            await asyncio.sleep(1)
            assert 90 <= len(broker.arrivals) <= 102
            assert len(called) <= len(broker.arrivals) + 2  # one ahead
            await task
            assert engine.report().confirmed == 200
        return broker

    arrivals = run_virtually(story()).arrivals
    assert called == list(range(200))
    assert [arrival.message.body for arrival in arrivals] == [f"order {number}".encode() for number in range(200)]
    headers = arrivals[7].message.headers
    assert (headers["tenant"], headers["sequence"]) == ("a", 7)
    assert parse_message_id(arrivals[7].message.message_id or "")


def test_an_urgent_message_and_the_end_do_not_wait_for_a_slow_function() -> None:
    async def never(_: int) -> object:
        await asyncio.sleep(1e6)
        return b""

    async def story() -> None:
        broker = RecordingBroker()
        async with producing(settings_of(), broker, source=PayloadSource(never)) as (engine, _):
            await asyncio.sleep(1)
            [settled] = await engine.submit([(None, b"urgent", None)])
            assert settled.outcome.name == "CONFIRMED"
            assert [arrival.message.body for arrival in broker.arrivals] == [b"urgent"]

    run_virtually(story())


@pytest.mark.parametrize("rate", [100, 0])
def test_the_end_of_a_generator_is_the_end_of_the_producer(rate: float) -> None:
    async def few() -> AsyncIterator[object]:
        for number in range(30):
            yield str(number)

    async def story() -> None:
        broker = RecordingBroker()
        async with producing(settings_of(**FREE, producer__rate=rate), broker, source=PayloadSource(few)) as (
            engine,
            task,
        ):
            await task
            report = engine.report()
            assert (report.offered, report.confirmed, len(broker.arrivals)) == (30, 30, 30)

    run_virtually(story())


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (ZeroDivisionError("no stock"), r"shop:order failed at message 3: ZeroDivisionError\('no stock'\)"),
        (5, "expected a body .*, got int"),
        (None, "got NoneType"),
        ((b"", {1: 2}), "pair of body and headers"),
        (("a", "b", "c"), "got tuple"),
    ],
)
def test_a_function_that_fails_ends_the_producer_in_one_line_once_what_it_made_is_confirmed(
    result: object, reason: str
) -> None:
    async def order(number: int) -> object:
        if number < 3:
            return b"fine"
        if isinstance(result, Exception):
            raise result
        return result

    async def story() -> None:
        broker = RecordingBroker()
        async with producing(settings_of(**FREE), broker, source=PayloadSource(order, "shop:order")) as (engine, task):
            with pytest.raises(PaceError, match=reason):
                await task
            assert engine.report().confirmed == len(broker.arrivals) == 3
            task.exception()
            raise _OverError

    with pytest.raises(_OverError):
        run_virtually(story())


class _OverError(Exception):
    """Leaves the producer without asking for its result again."""


def test_two_ways_to_give_the_body_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        replaced(Settings(), {"producer.handler": "shop:order", "producer.template": "{uuid}"})
