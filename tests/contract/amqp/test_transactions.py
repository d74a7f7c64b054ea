"""AMQP class ``tx``: publishes and acknowledgements that take effect together, at a commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands, header

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


@pytest.fixture
def tx(connection: BlockingConnection) -> BlockingChannel:
    """A transactional channel."""
    channel = connection.channel()
    channel.tx_select()
    return channel


@pytest.fixture
def depth(channel: BlockingChannel, queue: str) -> Any:
    return lambda: channel.queue_declare(queue, passive=True).method.message_count


def test_messages_are_in_the_queue_from_the_commit_on(tx: BlockingChannel, queue: str, depth: Any) -> None:
    for body in (b"1", b"2"):
        tx.basic_publish("", queue, body)
    assert depth() == 0
    tx.tx_commit()
    assert depth() == 2
    assert [tx.basic_get(queue, auto_ack=True)[2] for _ in range(2)] == [b"1", b"2"]


def test_messages_that_are_rolled_back_are_gone(tx: BlockingChannel, queue: str, depth: Any) -> None:
    tx.basic_publish("", queue, b"never")
    tx.tx_rollback()
    tx.basic_publish("", queue, b"later")
    tx.tx_commit()
    assert depth() == 1
    assert tx.basic_get(queue, auto_ack=True)[2] == b"later"


@pytest.mark.parametrize("end", ["close", "error"])
def test_a_channel_that_ends_commits_nothing(
    connection: BlockingConnection,
    channel: BlockingChannel,
    tx: BlockingChannel,
    queue: str,
    depth: Any,
    refused: Any,
    end: str,
) -> None:
    channel.basic_publish("", queue, b"held")
    tx.basic_ack(tx.basic_get(queue)[0].delivery_tag)
    tx.basic_publish("", queue, b"never")
    if end == "close":
        tx.close()
    else:
        tx.basic_ack(77)
        with refused(406, "PRECONDITION_FAILED - unknown delivery tag 77"):
            tx.tx_commit()
    method, _, body = connection.channel().basic_get(queue)
    assert (body, method.redelivered, depth()) == (b"held", True, 0)


@pytest.mark.parametrize("settle", ["basic_ack", "basic_nack", "basic_reject"])
def test_a_delivery_is_settled_by_the_commit(
    channel: BlockingChannel, tx: BlockingChannel, queue: str, depth: Any, settle: str
) -> None:
    channel.basic_publish("", queue, b"x")
    getattr(tx, settle)(tx.basic_get(queue)[0].delivery_tag, **{} if settle == "basic_ack" else {"requeue": True})
    assert depth() == 0
    tx.tx_commit()
    assert depth() == (0 if settle == "basic_ack" else 1)


def test_a_rollback_makes_deliveries_unacknowledged_again(
    channel: BlockingChannel, tx: BlockingChannel, queue: str, depth: Any
) -> None:
    for body in (b"1", b"2", b"3"):
        channel.basic_publish("", queue, body)
    tags = [tx.basic_get(queue)[0].delivery_tag for _ in range(3)]
    tx.basic_ack(tags[1], multiple=True)
    tx.tx_rollback()
    tx.basic_ack(tags[0])
    tx.basic_nack(0, multiple=True, requeue=True)
    tx.tx_commit()
    assert depth() == 2
    assert [tx.basic_get(queue)[2] for _ in range(2)] == [b"2", b"3"]


def test_the_window_has_room_from_the_commit_on(
    channel: BlockingChannel, tx: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    tx.basic_qos(prefetch_count=1)
    inbox = subscribe(tx, queue)
    for body in (b"1", b"2"):
        channel.basic_publish("", queue, body)
    collect(tx, inbox, 1)
    tx.basic_ack(inbox[0][0].delivery_tag)
    assert len(collect(tx, inbox, 1)) == 1
    tx.tx_commit()
    assert [body for _, _, body in collect(tx, inbox, 2)] == [b"1", b"2"]


def test_what_cannot_be_routed_comes_back_at_the_commit(raw_open: Any) -> None:
    raw_open.send(commands.Tx.Select(), channel=1)
    raw_open.expect(commands.Tx.SelectOk)
    publish = commands.Basic.Publish(routing_key="contract.missing", mandatory=True)
    raw_open.send(publish, header.ContentHeader(), commands.Tx.Commit(), channel=1)
    assert raw_open.expect(commands.Basic.Return).reply_code == 312
    raw_open.expect(header.ContentHeader)
    raw_open.expect(commands.Tx.CommitOk)


def test_messages_are_routed_when_they_are_published(
    channel: BlockingChannel, tx: BlockingChannel, queue: str, depth: Any
) -> None:
    channel.queue_bind(queue, "amq.direct", f"{queue}.key")
    tx.basic_publish("amq.direct", f"{queue}.key", b"x")
    tx.queue_declare(queue, passive=True)  # it has arrived
    channel.queue_unbind(queue, "amq.direct", f"{queue}.key")
    tx.tx_commit()
    assert depth() == 1


def test_a_publish_to_a_missing_exchange_is_refused_before_the_commit(raw_open: Any) -> None:
    raw_open.send(
        commands.Tx.Select(),
        commands.Basic.Publish(exchange="contract.missing"),
        header.ContentHeader(),
        channel=1,
    )
    raw_open.expect(commands.Tx.SelectOk)
    closed = raw_open.expect(commands.Channel.Close)
    assert (closed.reply_code, closed.class_id, closed.method_id) == (404, 60, 40)


@pytest.mark.parametrize("method", [commands.Tx.Commit(), commands.Tx.Rollback()])
def test_only_a_transactional_channel_commits_and_rolls_back(raw_open: Any, method: Any) -> None:
    raw_open.send(method, channel=1)
    closed = raw_open.expect(commands.Channel.Close)
    assert (closed.reply_code, closed.reply_text) == (406, "PRECONDITION_FAILED - channel is not transactional")


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        (commands.Confirm.Select(), commands.Tx.Select(), "from confirm to tx"),
        (commands.Tx.Select(), commands.Confirm.Select(), "from tx to confirm"),
    ],
)
def test_a_channel_confirms_or_is_transactional(raw_open: Any, first: Any, second: Any, wrong: str) -> None:
    raw_open.send(first, second, channel=1)
    raw_open.receive()
    closed = raw_open.expect(commands.Channel.Close)
    assert (closed.reply_code, closed.reply_text) == (406, f"PRECONDITION_FAILED - cannot switch {wrong} mode")


def test_a_channel_may_be_made_transactional_twice(tx: BlockingChannel, queue: str, depth: Any) -> None:
    tx.basic_publish("", queue, b"kept")
    tx.tx_select()
    tx.tx_commit()
    assert depth() == 1
