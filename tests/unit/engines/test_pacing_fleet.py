"""Producers of a large fleet, in virtual time: two hear all reports, and the others go by their sums."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import fields

import pytest
from stage import WORK, RecordingBroker, consuming, producing, settings_of
from virtual_time import run_virtually

from backpressure.config import replaced
from backpressure.core.signals import Decision, Signals
from backpressure.core.sums import SUMS_SUFFIX, FleetSum, SumNews, encode_sum

PRODUCERS, CONSUMERS, RATE_PER_S = 24, 24, 20.0


def test_two_producers_of_a_large_fleet_hear_all_reports_and_one_that_ends_is_not_missed() -> None:
    async def story() -> tuple[list[int], list[int], list[float]]:
        settings, broker = settings_of(consumer__rate=RATE_PER_S, producer__rate=100), RecordingBroker()
        exchange = settings.feedback.exchange
        listeners, hearers, used = [], [], []
        async with AsyncExitStack() as stack:
            named = [replaced(settings, {"consumer.name": f"consumer-{number}"}) for number in range(CONSUMERS)]
            consumers = [await stack.enter_async_context(consuming(each, broker)) for each in named]
            producers = [await stack.enter_async_context(producing(settings, broker)) for _ in range(PRODUCERS)]
            for _ in range(3):
                await asyncio.sleep(6)
                before = sum(consumer.tally.processed for consumer, _ in consumers)
                await asyncio.sleep(6)
                done = sum(consumer.tally.processed for consumer, _ in consumers) - before
                used.append(done / 6 / CONSUMERS / RATE_PER_S)
                listeners.append(len(broker.listeners[exchange]))
                hearers.append(len(broker.listeners[exchange + SUMS_SUFFIX]))
                gone = next(each for each in producers if each[0]._pacing._board.fleet.adds_up)
                producers.remove(gone)
                await gone[0]._pacing._feedback.stop()  # it is neither heard nor hears, and says no goodbye
        return listeners, hearers, used

    listeners, hearers, used = run_virtually(story())
    assert listeners == [2, 2, 2]
    assert hearers == [24, 23, 22]
    assert min(used) >= 0.97


@pytest.mark.parametrize(("news", "waits_s"), [(SumNews.CHANGE, 0.0), (SumNews.USUAL, 0.06), (SumNews.NONE, 0.06)])
def test_a_sum_with_news_is_decided_on_at_once(monkeypatch: pytest.MonkeyPatch, news: SumNews, waits_s: float) -> None:
    numbers = {each.name: 0 for each in fields(FleetSum) if each.name not in {"queue", "guests"}}
    sum_of_nothing = encode_sum(FleetSum(queue=WORK, guests=False, **numbers))  # type: ignore[arg-type]  # 0 is any of its numbers

    async def story() -> tuple[float, float]:
        broker, loop = RecordingBroker(), asyncio.get_running_loop()
        async with producing(settings_of(), broker) as (engine, _):
            pacing = engine._pacing
            decided_at: list[float] = []
            update = pacing.law.update

            def deciding(signals: Signals, now: float) -> Decision:
                decided_at.append(loop.time())
                return update(signals, now)

            monkeypatch.setattr(pacing.law, "update", deciding)
            monkeypatch.setattr(pacing._board, "on_sum", lambda _told, _now: news)
            await asyncio.sleep(2)
            await asyncio.sleep(2 * decided_at[-1] - decided_at[-2] + 0.04 - loop.time())
            told_at = loop.time()
            pacing._on_report(sum_of_nothing)
            await asyncio.sleep(0.09)
            return min(at for at in decided_at if at >= told_at) - told_at, pacing.lateness_s

    waited_s, late_s = run_virtually(story())
    assert waited_s == pytest.approx(waits_s, abs=0.011)
    assert late_s == pytest.approx(0, abs=1e-6)
