"""Methods: read leniently, written as another codec writes them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp import frame as pamqp_frame

from backpressure.amqp.field_tables import FieldTable
from backpressure.amqp.frames import DecodeError
from backpressure.amqp.methods import decode_method, encode_method, method_frame

ALL_KINDS = [
    commands.Connection.Start(server_properties={"capabilities": {"basic.nack": True}, "product": "x"}),
    commands.Connection.StartOk({"a": "x"}, "PLAIN", "\0guest\0guest"),
    commands.Connection.Tune(1, 2**31, 3),
    commands.Connection.Close(320, "bye", 10, 40),
    commands.Queue.Declare(queue="q", durable=True, auto_delete=True, arguments={"x-max-length": 2**40}),
    commands.Queue.Declare(queue="q", passive=True, nowait=True),
    commands.Exchange.Declare(exchange="e", exchange_type="topic", internal=True),
    commands.Basic.Consume(queue="q", consumer_tag="t", no_ack=True, nowait=True, arguments={"x-priority": -(2**40)}),
    commands.Basic.Nack(2**62, multiple=True, requeue=False),
    commands.Basic.Qos(0, 10, global_=True),
    commands.Basic.Deliver("t", 5, redelivered=True, exchange="e", routing_key="k"),
    commands.Channel.Open(),
]


@pytest.mark.parametrize("method", ALL_KINDS, ids=lambda method: method.name)
def test_each_method_is_written_as_pamqp_writes_it_and_read_back(method: object) -> None:
    octets = method_frame(3, method)
    assert octets == pamqp_frame.marshal(method, 3)
    assert dict(decode_method(octets[7:-1])) == dict(method)  # type: ignore[call-overload]


def test_names_that_pamqp_refuses_are_read_and_written() -> None:
    declare = commands.Queue.Declare()
    declare.queue = "größe, in €"
    assert decode_method(encode_method(declare)).queue == "größe, in €"


def test_a_name_that_is_not_utf8_is_a_frame_error_as_on_rabbitmq() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_method(b"\x00\x32\x00\x0a\0\0\x04caf\xe9\0\0\0\0\0")
    assert (caught.value.code, caught.value.detail) == (501, "Malformed UTF-8 in shortstr")


def test_arguments_keep_their_octets_whatever_they_hold() -> None:
    table = b"\0\0\0\x0e\x04caf\xe9S\0\0\0\x04caf\xe9"
    arguments = decode_method(b"\x00\x32\x00\x0a\0\0\x01q\0" + table).arguments
    assert isinstance(arguments, FieldTable)
    assert arguments.octets == table


@given(st.sampled_from([*commands.INDEX_MAPPING, 0, 0xFFFFFFFF]), st.binary(max_size=60))
def test_any_octets_are_a_method_or_one_kind_of_error(index: int, arguments: bytes) -> None:
    with suppress(DecodeError):
        assert decode_method(index.to_bytes(4, "big") + arguments).index == index
