"""Direct reply-to: answers that go straight to the channel that asked, without a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pamqp import body, commands, header
from pika import BasicProperties
from pika.exceptions import UnroutableError

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

REPLY_TO = "amq.rabbitmq.reply-to"


def arrived(channel: BlockingChannel, queue: str) -> Any:
    """The next message of the queue, once it is there: it came over another channel, without a confirm."""
    while (got := channel.basic_get(queue, auto_ack=True))[0] is None:
        channel.connection.process_data_events(time_limit=0.02)
    return got


@pytest.fixture
def client(connection: BlockingConnection) -> BlockingChannel:
    """A channel that asks, from which a server answers on another."""
    return connection.channel()


@pytest.fixture
def server(connection: BlockingConnection) -> BlockingChannel:
    return connection.channel()


@pytest.fixture
def address(client: BlockingChannel, server: BlockingChannel, subscribe: Any, queue: str) -> Any:
    """Send a request; the address in it, and the client's inbox."""

    def _address() -> tuple[str, list[Any]]:
        inbox = subscribe(client, REPLY_TO, auto_ack=True)
        client.basic_publish("", queue, b"request", BasicProperties(reply_to=REPLY_TO, correlation_id="7"))
        _, properties, _ = arrived(server, queue)
        assert properties.correlation_id == "7"
        return properties.reply_to, inbox

    return _address


def test_an_answer_goes_to_the_channel_that_asked(
    client: BlockingChannel, server: BlockingChannel, address: Any, collect: Any
) -> None:
    reply_to, inbox = address()
    assert reply_to.startswith(f"{REPLY_TO}.")
    for answer in (b"first", b"", b"third"):
        server.basic_publish("", reply_to, answer, BasicProperties(correlation_id="7"))
    collect(client, inbox, 3)
    assert [(m.exchange, m.routing_key, m.redelivered, b) for m, _, b in inbox] == [
        ("", reply_to, False, answer) for answer in (b"first", b"", b"third")
    ]
    assert inbox[0][1].correlation_id == "7"


def test_each_channel_has_an_address_of_its_own(
    connection: BlockingConnection, server: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    channels = [connection.channel(), connection.channel()]
    inboxes = [subscribe(channel, REPLY_TO, auto_ack=True) for channel in channels]
    for number, channel in enumerate(channels):
        channel.basic_publish("", queue, str(number).encode(), BasicProperties(reply_to=REPLY_TO))
    for _ in channels:
        _, properties, body = arrived(server, queue)
        server.basic_publish("", properties.reply_to, body)
    collect(channels[0], inboxes, 2)
    assert [[message[2] for message in inbox] for inbox in inboxes] == [[b"0"], [b"1"]]


def test_an_address_is_declared_like_a_queue_while_its_channel_waits(
    client: BlockingChannel, server: BlockingChannel, address: Any, refused: Any
) -> None:
    reply_to, _ = address()
    for passive in (True, False):
        declared = server.queue_declare(reply_to, passive=passive).method
        assert (declared.queue, declared.message_count, declared.consumer_count) == (reply_to, 0, 1)
        assert server.queue_declare(REPLY_TO, passive=passive).method.consumer_count == 1
    client.close()
    with refused(404, f"NOT_FOUND - no queue '{reply_to}' in vhost '/'"):
        server.queue_declare(reply_to, passive=True)


def test_an_answer_to_a_channel_that_is_gone_is_lost(
    channel: BlockingChannel, client: BlockingChannel, address: Any
) -> None:
    reply_to, _ = address()
    client.close()
    channel.basic_publish("", reply_to, b"late")  # confirmed
    with pytest.raises(UnroutableError):
        channel.basic_publish("", reply_to, b"late", mandatory=True)


def test_answers_have_no_queue_so_mandatory_returns_what_it_delivers(
    channel: BlockingChannel, client: BlockingChannel, address: Any, collect: Any
) -> None:
    reply_to, inbox = address()
    with pytest.raises(UnroutableError):
        channel.basic_publish("", reply_to, b"both", mandatory=True)
    collect(client, inbox, 1)
    assert inbox[0][2] == b"both"


def test_another_exchange_knows_no_addresses(
    channel: BlockingChannel, client: BlockingChannel, address: Any, collect: Any
) -> None:
    reply_to, inbox = address()
    channel.basic_publish("amq.direct", reply_to, b"x")
    assert collect(client, inbox, 0) == []


def test_a_channel_waits_for_answers_once(client: BlockingChannel, subscribe: Any, refused: Any) -> None:
    subscribe(client, REPLY_TO, auto_ack=True)
    with refused(406, "PRECONDITION_FAILED - reply consumer already set"):
        subscribe(client, REPLY_TO, auto_ack=True)


def test_after_a_cancel_a_channel_may_wait_again(client: BlockingChannel, subscribe: Any) -> None:
    for tag in ("one", "two"):
        subscribe(client, REPLY_TO, auto_ack=True, consumer_tag=tag)
        client.basic_cancel(tag)


def test_answers_are_not_acknowledged(client: BlockingChannel, subscribe: Any, refused: Any) -> None:
    with refused(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"):
        subscribe(client, REPLY_TO)


def test_a_request_needs_a_channel_that_waits(raw_open: Any, queue: str) -> None:
    raw_open.send(
        commands.Basic.Publish(routing_key=queue),
        header.ContentHeader(body_size=1, properties=commands.Basic.Properties(reply_to=REPLY_TO)),
        body.ContentBody(b"x"),
        channel=1,
    )
    closed = raw_open.expect(commands.Channel.Close)
    reason = "PRECONDITION_FAILED - fast reply consumer does not exist"
    assert (closed.reply_code, closed.reply_text) == (406, reason)


@pytest.mark.parametrize("use", ["basic_get", "queue_purge"])
def test_it_is_not_a_queue(client: BlockingChannel, refused: Any, use: str) -> None:
    with refused(404, f"NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"):
        getattr(client, use)(REPLY_TO)
