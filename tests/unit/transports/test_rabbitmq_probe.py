"""What the management API adds to a passive declare, and what is said when it cannot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from backpressure.core.evidence import ConsumerTerms
from backpressure.errors import AccessRefusedError, BrokerUnavailableError, QueueNotFoundError, TransportError
from backpressure.transports.base import QueueReading
from backpressure.transports.management_models import ConsumerInfo, QueueTotals
from backpressure.transports.rabbitmq.probe import LiveCounters, _HeldByConsumers, terms_of

DECLARED = QueueReading(ready=5, unacked=None, consumers=1)


class Api:
    """Answers as it is told, and counts how often it was asked."""

    url = "http://broker.example:15672"

    def __init__(self, totals: dict[str, Any] | Exception, consumers: list[ConsumerInfo] | Exception) -> None:
        self.answers = totals, consumers
        self.asked = 0

    async def totals(self, _queue: str) -> QueueTotals:
        self.asked += 1
        totals, _ = self.answers
        if isinstance(totals, Exception):
            raise totals
        return QueueTotals.model_validate({"name": "q", **totals})

    async def consumers(self) -> list[ConsumerInfo]:
        _, consumers = self.answers
        if isinstance(consumers, Exception):
            raise consumers
        return consumers

    async def entered(self, _queue: str) -> int | None:
        return 7


class Clock:
    """Time that passes only while an API answers."""

    url = Api.url

    def __init__(self, api: Api, answers_take_s: Sequence[float]) -> None:
        self.now = 0.0
        self.consumers = api.consumers
        self._api = api
        self._answers_take_s = iter(answers_take_s)

    def monotonic(self) -> float:
        return self.now

    async def entered(self, queue: str) -> int | None:
        return await self._api.entered(queue)

    async def totals(self, queue: str) -> QueueTotals:
        self.now += next(self._answers_take_s)
        return await self._api.totals(queue)


async def is_ours(_: object) -> bool:
    return True


def consumer(prefetch: int = 20, *, queue: str = "q", ack: bool = True, active: bool = True) -> ConsumerInfo:
    return ConsumerInfo(consumer_tag="c", queue=queue, ack_required=ack, active=active, prefetch_count=prefetch)


def asked(totals: Any, consumers: Any = (), *, times: int = 1) -> tuple[QueueReading, Api]:
    api = Api(totals, consumers if isinstance(consumers, Exception) else list(consumers))

    async def story() -> QueueReading:
        held = _HeldByConsumers(api, "q", LiveCounters([], "/", "q"), is_ours)  # type: ignore[arg-type]  # as much as it takes
        for _ in range(times):
            held.ask()
            await held.answer()
            reading = held.added_to(DECLARED)
        return reading

    return asyncio.run(story()), api


def test_a_classic_queue_counts_for_the_answer() -> None:
    reading, _ = asked({"messages_ready": 5, "messages_unacknowledged": 7}, [consumer(), consumer(queue="other")])
    assert reading.statistics is not None
    assert (reading.statistics.ready, reading.statistics.unacked, reading.statistics.fresh) == (5, 7, True)
    assert reading.terms == ConsumerTerms(count=1, prefetch=20)
    assert (reading.ready, reading.consumers, reading.missing) == (5, 1, "")


@pytest.mark.parametrize(
    ("told", "collected"),
    [({"type": "quorum"}, False), ({"garbage_collection": {"minor_gcs": 7}}, True)],  # a tick; RabbitMQ before 3.8
)
def test_what_was_counted_earlier_is_told_as_such(told: dict[str, Any], collected: bool) -> None:
    reading, _ = asked({"messages_ready": 0, "messages_unacknowledged": 7, **told})
    assert reading.statistics is not None
    assert (reading.statistics.fresh, reading.statistics.collected) == (False, collected)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (AccessRefusedError("http://broker.example", "Login failed"), "refuses this user .*Login failed.*management"),
        (BrokerUnavailableError("http://broker.example", "connection refused", "management API"), "enable rabbitmq_m"),
        (QueueNotFoundError("q"), "does not know this queue"),
        (TransportError("answers with something else"), "is of no use .answers with something else"),
        ({"type": "stream", "messages_ready": 5, "messages_unacknowledged": 0}, "it is a stream.*quorum queue"),
        ({}, "does not tell what consumers hold; let them report"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do_and_not_asked_for_all_the_time(trouble: Any, words: str) -> None:
    reading, api = asked(trouble, times=5)
    assert reading.statistics is None
    assert reading.ready == 5
    assert re.search(words, reading.missing)
    assert api.asked == 1


def test_a_slow_first_answer_which_includes_connecting_does_not_keep_the_start_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = Api({"messages_ready": 5, "messages_unacknowledged": 7}, [consumer()])
    clock = Clock(api, (0.06, 0.005, 0.005, 0.005))
    monkeypatch.setattr("backpressure.transports.rabbitmq.probe.time", clock)

    async def story() -> list[bool]:
        held = _HeldByConsumers(clock, "q", LiveCounters([], "/", "q"), is_ours)  # type: ignore[arg-type]  # as much as it takes
        told = []
        for tick in range(1, 5):
            clock.now = max(clock.now, tick / 10)
            held.ask()
            await held.answer()
            told.append(held.added_to(DECLARED).statistics is not None)
        return told

    assert asyncio.run(story()) == [True] * 4


def test_a_quorum_queue_without_a_leader_is_asked_about_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api({"type": "quorum"}, [consumer()])
    clock = Clock(api, [0.001] * 20)
    monkeypatch.setattr("backpressure.transports.rabbitmq.probe.time", clock)

    async def story() -> list[tuple[str, bool]]:
        held = _HeldByConsumers(clock, "q", LiveCounters([], "/", "q"), is_ours)  # type: ignore[arg-type]  # as much as it takes
        told = []
        for tick in range(10):
            if tick == 5:
                api.answers = {"type": "quorum", "messages_ready": 5, "messages_unacknowledged": 7}, api.answers[1]
            clock.now = max(clock.now, 0.2 * tick)
            held.ask()
            await held.answer()
            reading = held.added_to(DECLARED)
            told.append((reading.missing, reading.statistics is not None))
        return told

    told = asyncio.run(story())
    assert told[4] == ("no node tells what this queue holds, as long as it has no leader", False)
    assert told[-1] == ("", True)


def test_all_who_read_one_queue_at_the_same_time_are_told_what_its_consumers_hold() -> None:
    """Several channels of a program may send to one queue, each with a pace of its own."""
    gate = asyncio.Event()

    class Slow(Api):
        async def totals(self, queue: str) -> QueueTotals:
            await gate.wait()
            return await super().totals(queue)

    async def story() -> list[QueueReading]:
        api = Slow({"messages_ready": 5, "messages_unacknowledged": 7}, [consumer()])
        held = _HeldByConsumers(api, "q", LiveCounters([], "/", "q"), is_ours)  # type: ignore[arg-type]  # as much as it takes

        async def read() -> QueueReading:
            held.ask()
            await held.answer()
            return held.added_to(DECLARED)

        asyncio.get_running_loop().call_soon(gate.set)
        return await asyncio.gather(*(read() for _ in range(3)))

    readings = asyncio.run(story())
    assert [reading.statistics and reading.statistics.unacked for reading in readings] == [7, 7, 7]
    assert len({reading.statistics and reading.statistics.arrived_s for reading in readings}) == 1


def test_an_api_that_is_another_brokers_is_not_believed_and_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of this name may be there too: all that was sent here would seem to be done."""
    api = Api({"messages_ready": 0, "messages_unacknowledged": 0}, [consumer()])
    clock = Clock(api, [0.0])
    answers = iter([False, True])

    async def is_known_later(_: object) -> bool:
        return next(answers)

    monkeypatch.setattr("backpressure.transports.rabbitmq.probe.time", clock)

    async def story() -> list[QueueReading]:
        held = _HeldByConsumers(clock, "q", LiveCounters([], "/", "q"), is_known_later)  # type: ignore[arg-type]  # as much as it takes
        readings = []
        for later_s in (0.0, 1.0, 10.0):
            clock.now += later_s
            held.ask()
            await held.answer()
            readings.append(held.added_to(DECLARED))
        return readings

    first, soon, later = asyncio.run(story())
    assert "http://broker.example:15672 is another broker's; set broker.management_url" in first.missing
    assert (first.statistics, soon.statistics, api.asked) == (None, None, 1)
    assert later.statistics is not None
    assert later.missing == ""


def test_an_api_whose_answers_are_slow_is_soon_asked_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api({"messages_ready": 5, "messages_unacknowledged": 7}, [consumer()])
    clock = Clock(api, (0.5,) * 100)
    monkeypatch.setattr("backpressure.transports.rabbitmq.probe.time", clock)

    async def story() -> None:
        held = _HeldByConsumers(clock, "q", LiveCounters([], "/", "q"), is_ours)  # type: ignore[arg-type]  # as much as it takes
        for tick in range(1, 600):
            clock.now = max(clock.now, tick / 10)
            held.ask()
            await held.answer()

    asyncio.run(story())
    assert api.asked <= 4 + 60 / (20 * 0.5)


def test_an_api_that_is_only_far_away_is_asked_as_often_as_one_that_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api({"messages_ready": 5, "messages_unacknowledged": 7}, [consumer()])
    clock = Clock(api, (0.205,) * 100)
    monkeypatch.setattr("backpressure.transports.rabbitmq.probe.time", clock)

    async def story() -> int:
        held = _HeldByConsumers(clock, "q", LiveCounters([], "/", "q"), is_ours)  # type: ignore[arg-type]  # as much as it takes
        told = 0
        for tick in range(1, 60):
            clock.now = max(clock.now, tick / 4)
            held.ask()
            await held.answer()
            told += held.added_to(replace(DECLARED, round_trip_s=0.2)).statistics is not None
        return told

    assert asyncio.run(story()) >= 55


def test_without_an_api_the_reading_says_so() -> None:
    held = _HeldByConsumers(None, "q", LiveCounters([], "/", "q"), is_ours)
    held.ask()
    assert "no management API is known; give broker.management_url" in held.added_to(DECLARED).missing


@pytest.mark.parametrize(
    "refusal",
    [AccessRefusedError("http://b", "no"), TransportError("Stats in management UI are disabled on this node")],
)
def test_who_may_not_list_consumers_gets_the_counts(refusal: TransportError) -> None:
    reading, _ = asked({"messages_ready": 5, "messages_unacknowledged": 7}, refusal)
    assert reading.statistics is not None
    assert (reading.terms, reading.missing) == (None, "")


@pytest.mark.parametrize(
    ("consumers", "terms"),
    [
        ([], ConsumerTerms(count=0, prefetch=0)),
        ([consumer(20), consumer(5)], ConsumerTerms(count=2, prefetch=25)),
        ([consumer(20), consumer(0)], ConsumerTerms(count=2, prefetch=None)),
        ([consumer(20), consumer(0, ack=False)], ConsumerTerms(count=2, prefetch=20, auto_ack=1)),
        ([consumer(20), consumer(20, active=False)], ConsumerTerms(count=2, prefetch=20)),  # a single one is active
    ],
)
def test_terms_add_up_what_consumers_may_hold(consumers: list[ConsumerInfo], terms: ConsumerTerms) -> None:
    assert terms_of(consumers) == terms
