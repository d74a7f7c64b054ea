"""Publish and subscribe: every subscriber gets a copy, from the moment of subscribing, whether it consumes or not."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from virtual_time import run_virtually

from backpressure.errors import BrokerUnavailableError, PaceError, TransportError, UnknownNameError
from backpressure.lab.messages import LabNote
from backpressure.lab.pubsub import PubSub
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.endpoints import MemoryAdmin


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def texts(pubsub: PubSub, subscriber_id: str) -> list[str]:
    return [note.message for note in pubsub.messages(subscriber_id).messages]


def test_every_subscriber_gets_a_copy_and_a_queue_fills_before_anybody_consumes(stage: Any) -> None:
    async def story() -> None:
        pubsub = PubSub(stage.transport, stage.lab)
        assert (await pubsub.publish(LabNote("nobody listens"))).subscribers == 0
        for name in ("a", "b"):
            assert (await pubsub.subscribe(name)).queue == f"lab.pubsub.{name}"
        await pubsub.consume("a")
        published = await pubsub.publish(LabNote("hello", importance="high"))
        await turns()
        assert published.subscribers == 2
        assert (texts(pubsub, "a"), texts(pubsub, "b")) == (["hello"], [])
        assert len(stage.broker.queue("lab.pubsub.b").ready) == 1
        await pubsub.consume("b")
        await turns()
        assert texts(pubsub, "b") == ["hello"]
        [received] = pubsub.messages("b").messages
        assert (received.importance, received.message_id) == ("high", published.message_id)
        assert [(one.subscriber_id, one.consuming) for one in pubsub.subscribers()] == [("a", True), ("b", True)]
        await pubsub.stop()
        assert not [name for name in stage.broker.queues if name.startswith("lab.pubsub")]
        assert not stage.broker.clients

    run_virtually(story())


def test_a_subscriber_without_a_name_gets_a_uuid(stage: Any) -> None:
    async def story() -> str:
        return (await PubSub(stage.transport, stage.lab).subscribe()).subscriber_id

    assert UUID(run_virtually(story())).version == 4


def test_a_name_is_taken_once_even_by_two_at_the_same_time(stage: Any) -> None:
    async def story() -> None:
        pubsub = PubSub(stage.transport, stage.lab)
        _, second = await asyncio.gather(pubsub.subscribe("a"), pubsub.subscribe("a"), return_exceptions=True)
        assert str(second) == "there is a subscriber 'a' already"
        assert len(pubsub.subscribers()) == 1

    run_virtually(story())


def test_the_number_of_subscribers_is_limited(stage: Any) -> None:
    async def story() -> None:
        pubsub = PubSub(stage.transport, stage.lab)
        await pubsub.subscribe("a")
        await pubsub.subscribe("b")
        with pytest.raises(PaceError, match=r"lab\.max_subscribers"):
            await pubsub.subscribe("c")
        await pubsub.unsubscribe("a")
        await pubsub.subscribe("c")

    run_virtually(story())


def test_an_unknown_subscriber_is_named(stage: Any) -> None:
    async def story() -> None:
        pubsub = PubSub(stage.transport, stage.lab)
        for act in (pubsub.consume, pubsub.unsubscribe):
            with pytest.raises(UnknownNameError, match="'nobody'"):
                await act("nobody")
        with pytest.raises(UnknownNameError):
            pubsub.messages("nobody")

    run_virtually(story())


def test_a_queue_that_nobody_empties_keeps_the_newest(stage: Any) -> None:
    async def story() -> None:
        pubsub = PubSub(stage.transport, stage.lab)
        await pubsub.subscribe("slow")
        for number in range(5):
            await pubsub.publish(LabNote(str(number)))
        await pubsub.consume("slow")
        await turns()
        assert texts(pubsub, "slow") == ["2", "3", "4"]
        await pubsub.stop()

    run_virtually(story())


def test_a_broker_that_forgot_everything_is_told_again(stage: Any) -> None:
    async def story() -> None:
        pubsub = PubSub(stage.transport, stage.lab)
        await pubsub.subscribe("a")
        await pubsub.consume("a")
        stage.broker.queues.clear()
        stage.broker.bindings.clear()
        stage.broker.disconnect()
        await turns()
        await pubsub.publish(LabNote("again"))
        await asyncio.sleep(1)
        assert texts(pubsub, "a") == ["again"]
        await pubsub.stop()

    run_virtually(story())


def test_a_broker_that_is_away_hinders_neither_a_later_attempt_nor_the_end(stage: Any) -> None:
    class AwayAdmin(MemoryAdmin):
        away = False

        async def start(self) -> None:
            if AwayAdmin.away:
                raise BrokerUnavailableError("memory://lab", "connection refused")

    class AwayTransport(MemoryTransport):
        def admin(self) -> MemoryAdmin:
            return AwayAdmin(self.broker, self.address)

    async def story() -> None:
        pubsub = PubSub(AwayTransport(stage.settings, stage.broker), stage.lab)
        AwayAdmin.away = True
        with pytest.raises(BrokerUnavailableError):
            await pubsub.subscribe("a")
        assert pubsub.subscribers() == []
        AwayAdmin.away = False
        await pubsub.subscribe("a")
        await pubsub.consume("a")
        AwayAdmin.away = True
        with pytest.raises(BrokerUnavailableError):
            await pubsub.unsubscribe("a")
        assert [one.subscriber_id for one in pubsub.subscribers()] == ["a"]
        await pubsub.stop()
        assert not stage.broker.clients

    run_virtually(story())


def test_a_request_for_messages_during_an_unsubscription_leaves_no_receiver_behind(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = MemoryAdmin.delete

    async def slowly(self: MemoryAdmin, queue: str) -> None:
        await asyncio.sleep(1)
        await delete(self, queue)

    monkeypatch.setattr(MemoryAdmin, "delete", slowly)

    async def story() -> tuple[list[Any], int]:
        pubsub = PubSub(stage.transport, stage.lab)
        await pubsub.subscribe("a")
        told = await asyncio.gather(pubsub.unsubscribe("a"), pubsub.consume("a"), return_exceptions=True)
        await pubsub.stop()
        return told, len(stage.broker.clients)

    [_, consumed], left = run_virtually(story())
    assert isinstance(consumed, UnknownNameError)
    assert left == 0


def test_a_subscriber_whose_queue_could_not_be_removed_can_consume_again(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise TransportError("not now")

    async def story() -> tuple[bool, list[str]]:
        pubsub = PubSub(stage.transport, stage.lab)
        await pubsub.subscribe("a")
        await pubsub.consume("a")
        with monkeypatch.context() as patch:
            patch.setattr(MemoryAdmin, "delete", refuse)
            with pytest.raises(TransportError):
                await pubsub.unsubscribe("a")
        [view] = pubsub.subscribers()
        await pubsub.publish(LabNote("later"))
        await pubsub.consume("a")
        await turns()
        await pubsub.stop()
        return view.consuming, texts(pubsub, "a")

    assert run_virtually(story()) == (False, ["later"])
