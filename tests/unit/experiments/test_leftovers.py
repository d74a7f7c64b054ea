"""What the queues hold at the end, and why a message is in the dead-letter queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import cast

import pytest

from backpressure.core.message import Delivery, HeaderValue, Message, message_id
from backpressure.errors import NotConnectedError, QueueNotFoundError
from backpressure.experiments import leftovers
from backpressure.experiments.leftovers import dead_letter_state, read_leftovers
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
    monkeypatch.setattr(leftovers, "_REQUEUE_S", 0)
    shelf = Shelf(
        work=[[Message(b"", message_id(1, 1)), Message(b"foreign")], [Message(b"", message_id(1, 2))]],
        dead=[[Message(b"", message_id(1, 3), headers=death("maxlen"))]],
    )

    async def scene() -> list[tuple[int, int, str]]:
        settings = QueueSettings(work="work", dead_letter="dead")
        return [found async for found in read_leftovers(cast("QueueAdmin", shelf), settings)]

    assert asyncio.run(scene()) == [(1, 1, "left_in_queue"), (1, 3, "dropped"), (1, 2, "left_in_queue")]


def test_a_broker_that_has_just_come_back_is_waited_for_and_then_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_REQUEUE_S", 0)
    monkeypatch.setattr(leftovers, "_POLL_S", 0)

    class ComingBack(Shelf):
        away = 3

        async def drain(self, queue: str) -> AsyncIterator[Delivery]:
            async for delivery in super().drain(queue):
                yield delivery
            self.away -= 1
            if self.away >= 0:
                raise NotConnectedError("broker")

    def read(patience_s: float) -> list[tuple[int, int, str]]:
        shelf = ComingBack(work=[[Message(b"", message_id(1, 1))], [Message(b"", message_id(1, 2))]], dead=[])

        async def scene() -> list[tuple[int, int, str]]:
            settings = QueueSettings(work="work", dead_letter="dead")
            found = read_leftovers(cast("QueueAdmin", shelf), settings, patience_s=patience_s)
            return [message async for message in found]

        return asyncio.run(scene())

    assert read(60) == [(1, 1, "left_in_queue"), (1, 2, "left_in_queue")]
    with pytest.raises(NotConnectedError):
        read(0)  # as after a broker that died: nobody will bring it back


def test_a_queue_that_does_not_exist_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_REQUEUE_S", 0)

    async def scene() -> list[tuple[int, int, str]]:
        return [found async for found in read_leftovers(cast("QueueAdmin", Shelf()), QueueSettings())]

    assert asyncio.run(scene()) == []
