"""Producers of a large fleet, in virtual time: two hear all reports, and the others go by their sums."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from stage import RecordingBroker, consuming, producing, settings_of
from virtual_time import run_virtually

from backpressure.config import replaced
from backpressure.core.sums import SUMS_SUFFIX

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
