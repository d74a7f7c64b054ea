"""Dead letters published by our own consumer on RabbitMQ keep every octet on which a broker does not act."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from backpressure.amqp.field_tables import encode_value, short_string
from backpressure.amqp.properties import Properties, read_properties
from backpressure.core.message import Delivery, Message
from backpressure.transports.rabbitmq.publisher import ConfirmWatch, dead_letter_header

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


class Cluster:
    """A watched channel and its clock; what is called later is called when its time has come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.given_up: list[float] = []
        self.blocked = False
        self.watch = ConfirmWatch(lambda: self.now, lambda after_s, call: self.due.append((self.now + after_s, call)))

    def open(self) -> None:
        self.watch.opened(lambda: self.blocked, lambda: self.given_up.append(self.now))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due and min(self.due, key=lambda timer: timer[0])[0] <= end:
            timer = min(self.due, key=lambda timer: timer[0])
            self.due.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


def test_a_message_whose_confirm_was_forgotten_costs_three_seconds() -> None:
    cluster = Cluster()
    cluster.open()
    for tag in range(1, 6):
        cluster.watch.published(tag)
    cluster.watch.settled(2, multiple=True, confirmed=True)
    cluster.watch.settled(4, multiple=False, confirmed=True)
    cluster.run(2.5)
    assert cluster.given_up == []
    cluster.watch.settled(3, multiple=False, confirmed=True)
    cluster.watch.settled(5, multiple=False, confirmed=False)
    cluster.watch.published(6)
    cluster.run(2.5)
    assert cluster.given_up == []
    cluster.run(1)
    assert cluster.given_up == [5.5]


def test_a_channel_that_only_refuses_is_given_up_with_growing_patience() -> None:
    cluster, waited = Cluster(), []
    for _ in range(7):
        began = cluster.now
        cluster.open()
        while len(cluster.given_up) == len(waited):
            cluster.watch.published(1)
            cluster.watch.settled(1, multiple=False, confirmed=False)
            cluster.run(0.5)
        waited.append(cluster.given_up[-1] - began)
    assert waited == [3, 6, 12, 24, 48, 60, 60]
    cluster.run(301)
    began = cluster.now
    cluster.open()
    cluster.watch.published(1)
    cluster.run(3)
    assert cluster.given_up[-1] - began == 3


def test_an_idle_channel_and_a_blocked_one_are_left_alone() -> None:
    cluster = Cluster()
    cluster.open()
    cluster.run(60)
    cluster.watch.published(1)
    cluster.blocked = True
    cluster.run(60)
    cluster.blocked = False
    cluster.run(2)
    assert cluster.given_up == []
    cluster.run(1)
    assert len(cluster.given_up) == 1


def test_a_channel_that_was_lost_is_forgotten() -> None:
    cluster = Cluster()
    cluster.open()
    cluster.watch.published(1)
    cluster.run(2)
    cluster.open()
    cluster.run(60)
    assert cluster.given_up == []
