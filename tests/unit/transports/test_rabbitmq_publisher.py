"""Dead letters published by our own consumer on RabbitMQ keep every octet on which a broker does not act."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from backpressure.amqp.field_tables import encode_value, short_string
from backpressure.amqp.properties import Properties, read_properties
from backpressure.core.message import Delivery, Message
from backpressure.transports.rabbitmq.publisher import dead_letter_header

ODD_HEADERS = {
    b"caf\xe9": b"t\x01",
    b"float": b"d" + struct.pack(">d", 0.1),
    b"time": b"T" + b"\xff" * 8,
    b"decimal": b"D\x09\x00\x00\x00\x01",
    b"short": b"s\x00\x07",
}
PROPERTIES = {
    "content_type": short_string("text/plain"),
    "content_encoding": short_string("gzip"),
    "delivery_mode": b"\x01",
    "priority": b"\x07",
    "correlation_id": b"\x04caf\xe9",
    "reply_to": short_string("answers"),
    "expiration": short_string("60000"),
    "message_id": b"\x02\xff\xfe",
    "timestamp": b"\xff" * 8,
    "type": short_string("order"),
    "app_id": short_string("shop"),
    "cluster_id": short_string("c"),
}


def received(headers: dict[bytes, bytes], **more: bytes) -> Delivery:
    properties = Properties(5, PROPERTIES | more)
    properties.set_headers(headers)
    return Delivery(Message(b"hello"), 1, 1, False, "shop", "orders", native=properties.payload())


def letter(delivery: Delivery, user: str = "us") -> Properties:
    return Properties.parse(dead_letter_header(delivery, "work", user, {"x-pace-reason": "why"}))


def test_everything_is_kept_but_the_expiration_which_goes_into_the_history() -> None:
    dead = letter(received(ODD_HEADERS))
    headers = dead.headers()
    assert {name: headers[name] for name in ODD_HEADERS} == ODD_HEADERS
    kept = {name: value for name, value in PROPERTIES.items() if name != "expiration"}
    assert {name: value for name, value in dead.raw.items() if name != "headers"} == kept
    assert dead.body_size == 5
    known: Any = read_properties(dead.payload())["headers"]
    assert known["x-pace-reason"] == "why"
    [death] = known["x-death"]
    del death["time"]
    assert death == {
        "count": 1,
        "reason": "rejected",
        "queue": "work",
        "exchange": "shop",
        "routing-keys": ["orders"],
        "original-expiration": "60000",
    }
    assert (known["x-first-death-reason"], known["x-first-death-queue"]) == ("rejected", "work")


def test_copies_are_not_sent_again() -> None:
    copies = {b"CC": encode_value(["other"]), b"BCC": encode_value(["secret"])}
    known: Any = read_properties(letter(received(copies)).payload())["headers"]
    assert not {"CC", "BCC"} & known.keys()
    assert known["x-death"][0]["routing-keys"] == ["orders", "other"]


@pytest.mark.parametrize(("user", "kept"), [("them", True), ("us", False)])
def test_the_user_id_of_another_becomes_a_header_because_the_broker_would_refuse_it(user: str, kept: bool) -> None:
    dead = letter(received({}, user_id=short_string("them")), user)
    assert ("user_id" in dead.raw) is kept
    assert dead.headers().get(b"x-pace-user-id") == (None if kept else encode_value("them"))


def test_a_second_death_is_counted() -> None:
    first = letter(received({}))
    again = Delivery(Message(b"hello"), 1, 1, False, "", "work", native=first.payload())
    known: Any = read_properties(letter(again).payload())["headers"]
    [death] = known["x-death"]
    assert (death["count"], death["original-expiration"]) == (2, "60000")


def test_what_cannot_be_distinguished_is_left_to_the_broker() -> None:
    whole = received(ODD_HEADERS)
    assert isinstance(whole.native, bytes)
    with pytest.raises(ValueError, match="do not fill"):
        letter(Delivery(Message(b""), 1, 1, False, native=whole.native + b"?"))
