"""AMQP class ``connection``: handshake, login, limits, and errors that end a connection."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pamqp import commands, header
from pamqp.frame import marshal
from pika.exceptions import ProbableAccessDeniedError, ProbableAuthenticationError

from backpressure.amqp.field_tables import encode_table
from backpressure.amqp.methods import method_frame

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel


def start(raw: Any) -> Any:
    raw.send(b"AMQP\x00\x00\x09\x01")
    return raw.expect(commands.Connection.Start)


def test_the_server_starts_with_version_0_9_and_offers_plain_login(raw: Any) -> None:
    greeting = start(raw)
    assert (greeting.version_major, greeting.version_minor) == (0, 9)
    assert "PLAIN" in greeting.mechanisms.split()
    assert greeting.locales == "en_US"


@pytest.mark.parametrize(
    "capability",
    [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ],
)
def test_the_server_announces_its_capability(raw: Any, capability: str) -> None:
    assert start(raw).server_properties["capabilities"][capability] is True


@pytest.mark.parametrize(
    "greeting", [b"AMQP\x00\x00\x09\x02", b"AMQP\x07\x00\x00\x00", b"GET / HTTP/1.1\r\n\r\n"], ids=repr
)
def test_another_protocol_is_told_the_right_one_and_disconnected(broker: Any, raw: Any, greeting: bytes) -> None:
    raw.send(greeting)
    of_4 = b"AMQP\x00\x00\x09\x01" if greeting.startswith(b"AMQP\x00") else b"AMQP\x03\x01\x00\x00"
    told = b"AMQP\x00\x00\x09\x01"
    if broker.version >= (4,) and not broker.proxied:
        told = broker.by_kind("a client of another protocol", embedded=told, rabbitmq=of_4)
    assert raw.socket.recv(100) == told  # `pace proxy` answers itself: it understands 0-9-1 only
    assert raw.receive() is None


def test_tune_offers_rabbitmqs_limits(raw: Any) -> None:
    start(raw)
    raw.send(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"))
    tune = raw.expect(commands.Connection.Tune)
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131072, 60)


def test_a_wrong_password_is_refused_with_a_reason_when_the_client_can_take_it(connect: Any) -> None:
    with pytest.raises(ProbableAuthenticationError) as caught:
        connect(credentials=pika.PlainCredentials("guest", "wrong"))
    assert "403" in repr(caught.value)
    assert (
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
        "For details see the broker logfile." in repr(caught.value)
    )


def test_an_unknown_user_is_refused(connect: Any) -> None:
    with pytest.raises(ProbableAuthenticationError):
        connect(credentials=pika.PlainCredentials("nobody", "guest"))


def test_a_client_without_the_capability_is_disconnected_without_a_word_after_a_wrong_password(raw: Any) -> None:
    start(raw)
    raw.send(commands.Connection.StartOk({}, "PLAIN", "\0guest\0wrong"))
    assert raw.receive() is None


def test_a_virtual_host_that_does_not_exist_is_refused(connect: Any) -> None:
    with pytest.raises(ProbableAccessDeniedError) as caught:
        connect(virtual_host="elsewhere")
    assert "530" in repr(caught.value)
    assert "NOT_ALLOWED - vhost elsewhere not found" in repr(caught.value)


def test_a_client_that_answers_tune_beyond_the_limits_is_disconnected(new_raw: Any) -> None:
    clients = []
    for answer in ({"channel_max": 4000}, {"channel_max": 0}, {"frame_max": 200_000}, {"frame_max": 100}):
        client = new_raw()
        start(client)
        client.send(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"))
        client.expect(commands.Connection.Tune)
        client.send(
            commands.Connection.TuneOk(**{"channel_max": 2047, "frame_max": 131072, "heartbeat": 0, **answer}),
            commands.Connection.Open("/"),
        )
        clients.append(client)
    assert [client.receive() for client in clients] == [None] * 4


def test_a_smaller_frame_max_is_kept_to_by_the_server(raw: Any, channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"x" * 10_000)
    raw.handshake(frame_max=4096)
    raw.open_channel()
    raw.send(commands.Basic.Get(queue=queue, no_ack=True), channel=1)
    raw.expect(commands.Basic.GetOk)
    raw.expect(header.ContentHeader)
    pieces = []
    while sum(pieces) < 10_000:
        pieces.append(len(raw.receive()))
    assert max(pieces) == 4096 - 8


def test_more_channels_than_channel_max_are_not_allowed(raw: Any) -> None:
    raw.handshake(channel_max=2)
    raw.open_channel(1)
    raw.open_channel(7)
    raw.send(commands.Channel.Open(), channel=3)
    closed = raw.expect(commands.Connection.Close)
    assert closed.reply_code == 530
    assert closed.reply_text == (
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
    )


def test_closing_is_answered(raw: Any) -> None:
    raw.handshake()
    raw.send(commands.Connection.Close(200, "bye", 0, 0))
    raw.expect(commands.Connection.CloseOk)


def test_a_frame_on_a_channel_that_is_not_open_is_a_channel_error(raw: Any) -> None:
    raw.handshake()
    raw.send(commands.Queue.Declare(queue="x"), channel=7)
    closed = raw.expect(commands.Connection.Close)
    assert (closed.reply_code, closed.reply_text) == (504, "CHANNEL_ERROR - expected 'channel.open'")


def test_opening_a_channel_twice_is_a_channel_error(raw_open: Any) -> None:
    raw_open.send(commands.Channel.Open(), channel=1)
    closed = raw_open.expect(commands.Connection.Close)
    assert (closed.reply_code, closed.reply_text) == (504, "CHANNEL_ERROR - second 'channel.open' seen")


def test_a_method_where_a_content_header_is_due_is_an_unexpected_frame(raw_open: Any) -> None:
    raw_open.send(commands.Basic.Publish(routing_key="x"), commands.Queue.Declare(queue="x"), channel=1)
    closed = raw_open.expect(commands.Connection.Close)
    assert closed.reply_code == 505
    assert closed.reply_text == (
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead"
    )


def test_a_body_without_a_header_is_an_unexpected_frame(raw_open: Any) -> None:
    raw_open.send(b"\x03\x00\x01\x00\x00\x00\x01x\xce")
    closed = raw_open.expect(commands.Connection.Close)
    assert closed.reply_code == 505
    assert closed.reply_text == ("UNEXPECTED_FRAME - expected method frame, got non method frame instead")


def test_a_header_where_a_body_is_due_is_an_unexpected_frame(raw_open: Any) -> None:
    raw_open.send(
        commands.Basic.Publish(routing_key="x"),
        header.ContentHeader(body_size=5),
        header.ContentHeader(body_size=5),
        channel=1,
    )
    closed = raw_open.expect(commands.Connection.Close)
    assert closed.reply_code == 505
    assert closed.reply_text == ("UNEXPECTED_FRAME - expected content body, got non content body frame instead")


def test_a_frame_without_its_end_octet_is_a_frame_error(raw_open: Any) -> None:
    raw_open.send(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x0a\x00")
    closed = raw_open.expect(commands.Connection.Close)
    assert closed.reply_code == 501
    assert closed.reply_text.startswith("FRAME_ERROR - ")


def test_a_frame_beyond_frame_max_is_a_frame_error(raw_open: Any) -> None:
    raw_open.send(b"\x03\x00\x01" + struct.pack(">I", 200_000) + b"x" * 1000)
    closed = raw_open.expect(commands.Connection.Close)
    assert closed.reply_code == 501
    assert closed.reply_text.startswith("FRAME_ERROR - ")


def test_a_method_that_does_not_exist_ends_the_connection(raw_open: Any) -> None:
    raw_open.send(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\xc8\xce")
    closed = raw_open.receive()
    assert closed is None or closed.reply_code >= 500


def test_immediate_publishing_is_not_implemented(raw_open: Any) -> None:
    raw_open.send(commands.Basic.Publish(routing_key="x", immediate=True), header.ContentHeader(body_size=0), channel=1)
    closed = raw_open.expect(commands.Connection.Close)
    assert (closed.reply_code, closed.reply_text) == (540, "NOT_IMPLEMENTED - immediate=true")


def test_an_error_of_one_connection_leaves_another_alone(raw_open: Any, channel: BlockingChannel, queue: str) -> None:
    raw_open.send(b"\xff" * 64)
    raw_open.receive()
    channel.basic_publish("", queue, b"still here")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"still here"


def test_heartbeats_are_sent_to_a_client_that_asked_for_them(raw: Any) -> None:
    raw.handshake(heartbeat=1)
    assert raw.socket.recv(8) == b"\x08\x00\x00\x00\x00\x00\x00\xce"


def test_a_client_that_misses_its_heartbeats_is_disconnected(raw: Any) -> None:
    raw.handshake(heartbeat=1)
    assert raw.receive() is None


def test_the_server_accepts_heartbeats_whenever_they_come(raw_open: Any) -> None:
    raw_open.send(b"\x08\x00\x00\x00\x00\x00\x00\xce" * 3, commands.Queue.Declare(exclusive=True), channel=1)
    raw_open.expect(commands.Queue.DeclareOk)


def latin1(index: int, arguments: bytes) -> bytes:
    """A method on channel 1 with arguments that no codec would write."""
    payload = index.to_bytes(4, "big") + arguments
    return b"\x01\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"


def test_a_name_that_is_not_utf8_costs_the_connection(raw_open: Any) -> None:
    raw_open.send(latin1(0x0032000A, b"\0\0\x04caf\xe9\x02\0\0\0\0"))
    closed = raw_open.expect(commands.Connection.Close)
    assert (closed.reply_code, closed.reply_text) == (501, "FRAME_ERROR - Malformed UTF-8 in shortstr")


def test_a_routing_key_that_is_not_utf8_is_taken_and_returned_in_its_octets(raw_open: Any) -> None:
    raw_open.send(latin1(0x003C0028, b"\0\0\x0aamq.fanout\x04caf\xe9\x01"))
    raw_open.send(b"\x02\x00\x01\0\0\0\x0e\x00\x3c\x00\x00" + bytes(8) + b"\0\0\xce")
    raw_open.socket.settimeout(60)
    received = b""
    while not received.endswith(b"\0\0\xce"):
        received += raw_open.socket.recv(4096)
    assert b"NO_ROUTE\x0aamq.fanout\x04caf\xe9" in received


ODD_TABLE = b"".join(
    bytes((len(name),)) + name + value
    for name, value in {
        b"caf\xe9": b"t\x01",
        b"text": b"S\0\0\0\x04caf\xe9",
        b"nested": b"F\0\0\0\x0e\x04caf\xe9S\0\0\0\x04caf\xe9",
        b"ms": b"T" + (1_772_000_000_000).to_bytes(8, "big"),
        b"before": b"T" + b"\xff" * 8,
        b"scale": b"D\xff\0\0\0\x07",
        b"bytes": b"x\0\0\0\x02\xff\x00",
    }.items()
)


def test_arguments_are_taken_whatever_their_values(raw_open: Any) -> None:
    table = len(ODD_TABLE).to_bytes(4, "big") + ODD_TABLE
    raw_open.send(latin1(0x0032000A, b"\0\0\x0ccontract.odd\x04" + table))  # an exclusive queue
    raw_open.expect(commands.Queue.DeclareOk)
    raw_open.send(latin1(0x00320014, b"\0\0\x0ccontract.odd\x09amq.topic\x01k\0" + table))
    raw_open.expect(commands.Queue.BindOk)
    raw_open.send(latin1(0x003C0014, b"\0\0\x0ccontract.odd\x01t\0" + table))
    raw_open.expect(commands.Basic.ConsumeOk)
    raw_open.send(latin1(0x00320032, b"\0\0\x0ccontract.odd\x09amq.topic\x01k" + table))
    raw_open.expect(commands.Queue.UnbindOk)


def test_the_server_calls_itself_rabbitmq(broker: Any, raw: Any) -> None:
    properties = start(raw).server_properties
    assert properties["product"] == "RabbitMQ"
    assert tuple(map(int, properties["version"].split(".")[:2])) == broker.version


def amqplain(**fields: Any) -> Any:
    """The answer to the greeting with such a login; its text is sent octet by octet."""
    login = commands.Connection.StartOk({}, "AMQPLAIN", "")
    login.response = encode_table(fields)[4:].decode(errors="surrogateescape")
    return method_frame(0, login)


def test_amqplain_logs_in_too(raw: Any) -> None:
    assert "AMQPLAIN" in start(raw).mechanisms.split()
    raw.send(amqplain(LOGIN="guest", PASSWORD="guest"))
    raw.expect(commands.Connection.Tune)


@pytest.mark.parametrize("fields", [{"LOGIN": "guest", "PASSWORD": "wrong"}, {"LOGIN": "guest"}, {}])
def test_amqplain_with_a_wrong_password_or_none_is_refused(raw: Any, fields: Any) -> None:
    start(raw)
    raw.send(amqplain(**fields))
    assert raw.receive() is None


def test_what_a_client_sends_after_its_close_does_not_destroy_the_answer(raw_open: Any) -> None:
    publish = b"".join(marshal(part, 1) for part in (commands.Basic.Publish(), header.ContentHeader()))
    raw_open.send(commands.Connection.Close(200, "bye", 0, 0), publish * 200_000)
    raw_open.expect(commands.Connection.CloseOk)
