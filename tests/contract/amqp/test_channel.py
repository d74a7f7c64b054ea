"""AMQP classes ``channel`` and ``confirm``: opening, closing, flow, and publisher confirms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands, header
from pika.exceptions import ConnectionClosedByBroker

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


def test_channels_of_a_connection_are_independent(connection: BlockingConnection, refused: Any) -> None:
    first, second = connection.channel(), connection.channel()
    with refused(404, "NOT_FOUND - no queue 'contract.missing' in vhost '/'"):
        first.queue_declare("contract.missing", passive=True)
    assert second.queue_declare("", exclusive=True).method.queue
    assert connection.is_open


def test_a_channel_number_can_be_used_again_after_an_error(raw_open: Any) -> None:
    raw_open.send(commands.Queue.Declare(queue="contract.missing", passive=True), channel=1)
    raw_open.expect(commands.Channel.Close)
    raw_open.send(commands.Channel.CloseOk(), commands.Channel.Open(), channel=1)
    raw_open.expect(commands.Channel.OpenOk)


def test_a_refusal_names_the_method_it_answers(raw_open: Any) -> None:
    raw_open.send(commands.Queue.Declare(queue="contract.missing", passive=True), channel=1)
    closed = raw_open.expect(commands.Channel.Close)
    assert (closed.class_id, closed.method_id) == (50, 10)


def test_after_a_refusal_the_channel_ignores_everything_until_the_client_agrees(raw_open: Any) -> None:
    raw_open.send(
        commands.Queue.Declare(queue="contract.missing", passive=True),
        commands.Queue.Declare(queue="contract.never", exclusive=True),
        channel=1,
    )
    raw_open.expect(commands.Channel.Close)
    raw_open.send(commands.Channel.CloseOk(), commands.Channel.Open(), channel=1)
    raw_open.expect(commands.Channel.OpenOk)
    raw_open.send(commands.Queue.Declare(queue="contract.never", passive=True), channel=1)
    assert raw_open.expect(commands.Channel.Close).reply_code == 404


def test_closing_a_channel_requeues_what_it_held(
    connection: BlockingConnection, channel: BlockingChannel, queue: str
) -> None:
    channel.basic_publish("", queue, b"held")
    other = connection.channel()
    assert other.basic_get(queue)[2] == b"held"
    other.close()
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.redelivered) == (b"held", True)


def test_closing_a_channel_ends_its_consumers(
    connection: BlockingConnection, channel: BlockingChannel, queue: str, subscribe: Any
) -> None:
    other = connection.channel()
    subscribe(other, queue)
    other.close()
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 0


def test_flow_on_is_answered(channel: BlockingChannel) -> None:
    assert channel.flow(active=True) is True  # pika waits for the answer


def test_flow_off_from_a_client_is_not_implemented(channel: BlockingChannel) -> None:
    with pytest.raises(ConnectionClosedByBroker) as caught:
        channel.flow(active=False)
    assert (caught.value.reply_code, caught.value.reply_text) == (540, "NOT_IMPLEMENTED - active=false")


def publish(
    raw: Any, key: str, body: bytes = b"", *, mandatory: bool = False, properties: Any = None, exchange: str = ""
) -> Any:
    raw.send(
        commands.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory),
        header.ContentHeader(body_size=len(body), properties=properties),
        channel=1,
    )
    if body:
        raw.send(b"\x03\x00\x01" + len(body).to_bytes(4, "big") + body + b"\xce")


def confirmed(raw: Any, upto: int) -> Any:
    """Outcomes by delivery tag until ``upto`` is settled."""
    outcomes = {}
    settled = 0
    while settled < upto:
        method = raw.receive()
        assert isinstance(method, (commands.Basic.Ack, commands.Basic.Nack)), dict(method)
        first = settled + 1 if method.multiple else method.delivery_tag
        for tag in range(first, method.delivery_tag + 1):
            outcomes.setdefault(tag, isinstance(method, commands.Basic.Ack))
        settled = len(outcomes)
    return outcomes


@pytest.fixture
def confirming(raw_open: Any) -> Any:
    raw_open.send(commands.Confirm.Select(), channel=1)
    raw_open.expect(commands.Confirm.SelectOk)
    return raw_open


def test_confirms_count_from_one_and_cover_every_publish(confirming: Any, queue: str) -> None:
    for _ in range(50):
        publish(confirming, queue, b"x")
    assert confirmed(confirming, 50) == dict.fromkeys(range(1, 51), True)


def test_confirm_select_twice_keeps_counting(confirming: Any, queue: str) -> None:
    publish(confirming, queue, b"1")
    assert confirmed(confirming, 1) == {1: True}
    confirming.send(commands.Confirm.Select(), channel=1)
    confirming.expect(commands.Confirm.SelectOk)
    publish(confirming, queue, b"2")
    assert confirming.expect(commands.Basic.Ack).delivery_tag == 2


def test_confirm_select_without_waiting_is_not_answered(raw_open: Any, queue: str) -> None:
    raw_open.send(commands.Confirm.Select(nowait=True), channel=1)
    publish(raw_open, queue, b"x")
    assert raw_open.expect(commands.Basic.Ack).delivery_tag == 1


def test_publishes_before_confirm_select_are_not_counted(raw_open: Any, queue: str) -> None:
    publish(raw_open, queue, b"before")
    raw_open.send(commands.Confirm.Select(), channel=1)
    raw_open.expect(commands.Confirm.SelectOk)
    publish(raw_open, queue, b"after")
    assert raw_open.expect(commands.Basic.Ack).delivery_tag == 1


def test_an_unroutable_message_is_confirmed(confirming: Any) -> None:
    publish(confirming, "contract.nowhere", b"x")
    assert confirming.expect(commands.Basic.Ack).delivery_tag == 1


def test_an_unroutable_mandatory_message_is_returned_before_it_is_confirmed(confirming: Any) -> None:
    publish(confirming, "contract.nowhere", b"back", mandatory=True)
    returned = confirming.expect(commands.Basic.Return)
    assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
    assert (returned.exchange, returned.routing_key) == ("", "contract.nowhere")
    assert confirming.expect(header.ContentHeader).body_size == 4
    assert confirming.receive().value == b"back"
    assert confirming.expect(commands.Basic.Ack).delivery_tag == 1


def test_a_publish_into_an_exchange_that_does_not_exist_closes_the_channel(confirming: Any) -> None:
    publish(confirming, "x", b"x", exchange="contract.missing")
    closed = confirming.expect(commands.Channel.Close)
    assert (closed.reply_code, closed.reply_text) == (404, "NOT_FOUND - no exchange 'contract.missing' in vhost '/'")
    assert (closed.class_id, closed.method_id) == (60, 40)
