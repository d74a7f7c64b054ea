"""Send, consume, look: what a sender promises, what a store keeps, and what happens if the broker fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from virtual_time import run_virtually

from backpressure.core.message import Message
from backpressure.errors import BrokerUnavailableError, QueueNotFoundError, RefusedError, TransportError
from backpressure.lab.messages import MOST_CHARACTERS, LabNote
from backpressure.lab.queues import NewestItems, queue_named
from backpressure.lab.service import Board
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.endpoints import MemoryPublisher


def board_on(stage: Any, transport: Any = None, **queue: Any) -> Board:
    settings = queue_named(stage.lab, "messages").model_copy(update=queue)
    return Board(transport or stage.transport, settings, stage.lab.kept_messages)


async def turns(count: int = 20) -> None:
    """Let everything happen that needs no time."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_store_keeps_the_newest_and_counts_what_it_dropped() -> None:
    store: NewestItems[int] = NewestItems(3)
    for number in range(5):
        store.add(number)
    assert (store.newest(), store.total, store.dropped) == ([2, 3, 4], 5, 2)
    assert (store.newest(2), store.newest(0), store.newest(99)) == ([3, 4], [], [2, 3, 4])


def test_what_is_sent_waits_until_somebody_consumes_and_arrives_as_it_was(stage: Any) -> None:
    note = LabNote("Hello", "2023-01-01T12:00:00", "test")

    async def story() -> None:
        board = board_on(stage)
        message_id = await board.send(note)
        await turns()
        assert (board.view().sent, board.view().received, board.view().consuming) == (1, 0, False)
        await board.consume()
        await turns()
        view = board.view()
        [received] = view.messages
        assert view.consuming
        assert (received.message, received.timestamp, received.source) == (note.message, note.timestamp, note.source)
        assert received.message_id == message_id
        assert not received.redelivered
        assert stage.broker.queue("lab.messages").unacked == 0
        await board.stop()

    run_virtually(story())


def test_consuming_twice_is_consuming_once(stage: Any) -> None:
    async def story() -> None:
        board = board_on(stage)
        await asyncio.gather(board.consume(), board.consume())
        assert len(stage.broker.queue("lab.messages").consumers) == 1
        await board.stop()
        assert not stage.broker.clients

    run_virtually(story())


@pytest.mark.parametrize(
    ("body", "message", "source"),
    [
        (b"not JSON", "not JSON", None),
        (b"[1, 2]", "[1, 2]", None),
        (b'{"other": 1}', '{"other": 1}', None),
        (b'{"message": 7, "source": ["x"]}', "7", "['x']"),
        (b"\xff", "\ufffd", None),
        (b"x" * (MOST_CHARACTERS + 1), "x" * MOST_CHARACTERS, None),
        (b"[" * 100_000, "[" * MOST_CHARACTERS, None),
    ],
)
def test_what_a_foreign_producer_sends_is_shown_as_it_is_but_never_without_end(
    stage: Any, body: bytes, message: str, source: str | None
) -> None:
    async def story() -> None:
        board = board_on(stage)
        await board.consume()
        stage.broker.publish(Message(body), "", "lab.messages")
        await turns()
        [received] = board.view().messages
        assert (received.message, received.source) == (message, source)
        await board.stop()

    run_virtually(story())


def test_only_the_newest_messages_are_kept(stage: Any) -> None:
    async def story() -> None:
        board = board_on(stage)
        await board.consume()
        for number in range(5):
            await board.send(LabNote(str(number)))
        await turns()
        view = board.view()
        assert [note.message for note in view.messages] == ["2", "3", "4"]
        assert (view.received, view.dropped) == (5, 2)
        assert [note.message for note in board.view(newest=1).messages] == ["4"]
        await board.stop()

    run_virtually(story())


def test_a_full_queue_refuses(stage: Any) -> None:
    async def story() -> None:
        board = board_on(stage, max_length=1)
        await board.send(LabNote("first"))
        with pytest.raises(RefusedError, match="full"):
            await board.send(LabNote("second"))
        assert board.view().sent == 1
        await board.stop()

    run_virtually(story())


def test_during_an_alarm_a_message_fails_at_once_and_the_next_is_not_even_sent(stage: Any) -> None:
    async def story() -> None:
        board = board_on(stage)
        await board.send(LabNote("before"))
        stage.broker.block("low on memory")
        with pytest.raises(TransportError, match=r"low on memory.*may arrive later"):
            await board.send(LabNote("during"))
        with pytest.raises(TransportError, match="low on memory"):
            await board.send(LabNote("never"))
        stage.broker.unblock()
        await board.send(LabNote("after"))
        await board.consume()
        await turns()
        assert [note.message for note in board.view().messages] == ["before", "during", "after"]
        await board.stop()

    run_virtually(story())


def test_a_broker_that_does_not_answer_is_given_up_and_its_late_answer_is_ignored(stage: Any) -> None:
    class SilentPublisher(MemoryPublisher):
        def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
            return 1

    class SilentTransport(MemoryTransport):
        def publisher(self) -> MemoryPublisher:
            return SilentPublisher(self.broker)

    async def story() -> None:
        board = board_on(stage, SilentTransport(stage.settings, stage.broker))
        with pytest.raises(TransportError, match="did not confirm within 10 s: the message may still arrive"):
            await board.send(LabNote("lost in thought"))
        board._sender.on_confirmed(1, multiple=False)
        assert board.view().sent == 0
        await board.stop()

    run_virtually(story())


def test_a_lost_connection_fails_what_was_in_flight_and_the_queue_is_made_again(stage: Any) -> None:
    async def story() -> None:
        board = board_on(stage)
        await board.send(LabNote("one"))
        sending = asyncio.create_task(board.send(LabNote("two")))
        await asyncio.sleep(0)
        stage.broker.disconnect("gone")
        with pytest.raises(TransportError, match=r"gone.*may have arrived"):
            await sending
        stage.broker.queues.clear()
        stage.broker.bindings.clear()
        await turns()
        await board.send(LabNote("three"))
        assert len(stage.broker.queue("lab.messages").ready) == 1
        await board.stop()

    run_virtually(story())


def test_a_deleted_queue_is_named_and_made_again_for_the_next_message(stage: Any) -> None:
    async def story() -> None:
        board = board_on(stage)
        await board.send(LabNote("one"))
        stage.broker.delete("lab.messages")
        with pytest.raises(QueueNotFoundError):
            await board.send(LabNote("two"))
        await board.send(LabNote("three"))
        assert board.view().sent == 2
        await board.stop()

    run_virtually(story())


def test_a_broker_that_is_away_is_named_each_time_until_it_is_there(stage: Any) -> None:
    class AwayTransport(MemoryTransport):
        away = True

        def publisher(self) -> MemoryPublisher:
            if self.away:
                raise BrokerUnavailableError("memory://lab", "connection refused")
            return super().publisher()

    async def story() -> None:
        transport = AwayTransport(stage.settings, stage.broker)
        board = board_on(stage, transport)
        for act in (lambda: board.send(LabNote("x")), board.consume):
            with pytest.raises(BrokerUnavailableError):
                await act()
        assert not board.view().consuming
        transport.away = False
        await board.send(LabNote("y"))
        await board.consume()
        assert board.view().consuming
        await board.stop()

    run_virtually(story())
