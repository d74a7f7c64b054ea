"""What the queues still hold at the end, and why a message is in the dead-letter queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import cast

import pytest

from backpressure.core.message import Delivery, HeaderValue, Message, message_id
from backpressure.errors import QueueNotFoundError
from backpressure.experiments import remains
from backpressure.experiments.remains import dead_letter_state, read_remains
from backpressure.settings import QueueSettings
from backpressure.transports.base import QueueAdmin


def death(reason: object) -> dict[str, HeaderValue]:
    return {"x-death": [{"reason": reason, "count": 1}]}


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        (death("maxlen"), "dropped"),
        (death(b"expired"), "dropped"),
        (death("rejected"), "dead_lettered"),
        (death("delivery_limit"), "dead_lettered"),
        ({"x-pace-reason": "failed 4 times"}, "dead_lettered"),
        ({"x-pace-reason": "failed 4 times", **death("expired")}, "dead_lettered"),
        ({}, "dead_lettered"),
        ({"x-death": "nonsense"}, "dead_lettered"),
        ({"x-death": ["nonsense"]}, "dead_lettered"),
    ],
)
def test_a_dead_letter_was_dropped_by_a_bound_or_given_up(headers: Mapping[str, HeaderValue], state: str) -> None:
    assert dead_letter_state(Message(b"", headers=headers)) == state


class Shelf:
    """A `QueueAdmin` whose queues fill up as told: one list for each time a queue is emptied."""

    def __init__(self, **queues: list[list[Message]]) -> None:
        self._queues = queues

    async def drain(self, queue: str) -> AsyncIterator[Delivery]:
        if queue not in self._queues:
            raise QueueNotFoundError(queue)
        fillings = self._queues[queue]
        for tag, message in enumerate(fillings.pop(0) if fillings else []):
            yield Delivery(message, tag, epoch=0, redelivered=False)


def test_both_queues_are_emptied_twice_because_killed_consumers_give_back_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remains, "_REQUEUE_S", 0)
    shelf = Shelf(
        work=[[Message(b"", message_id(1, 1)), Message(b"foreign")], [Message(b"", message_id(1, 2))]],
        dead=[[Message(b"", message_id(1, 3), headers=death("maxlen"))]],
    )

    async def scene() -> list[tuple[int, int, str]]:
        settings = QueueSettings(work="work", dead_letter="dead")
        return [found async for found in read_remains(cast("QueueAdmin", shelf), settings)]

    assert asyncio.run(scene()) == [(1, 1, "left_in_queue"), (1, 3, "dropped"), (1, 2, "left_in_queue")]


def test_a_queue_that_does_not_exist_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "_REQUEUE_S", 0)

    async def scene() -> list[tuple[int, int, str]]:
        return [found async for found in read_remains(cast("QueueAdmin", Shelf()), QueueSettings())]

    assert asyncio.run(scene()) == []
