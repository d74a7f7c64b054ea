"""A published message as bytes: the same as pika makes."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from backpressure.amqp.outgoing import publish_frames
from backpressure.core.message import Message

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | TEXTS | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.builds(
    Message,
    st.binary(max_size=70),
    message_id=st.none() | TEXTS,
    timestamp_s=st.none() | st.integers(0, (1 << 63) - 1),
    headers=st.dictionaries(TEXTS, VALUES, max_size=5),
    persistent=st.booleans(),
    content_type=st.none() | TEXTS,
    expiration_ms=st.none() | st.integers(0, 1 << 40),
)


def properties_of(message: Message) -> spec.BasicProperties:
    return spec.BasicProperties(
        content_type=message.content_type,
        headers=dict(message.headers) or None,
        delivery_mode=2 if message.persistent else 1,
        expiration=None if message.expiration_ms is None else str(message.expiration_ms),
        message_id=message.message_id,
        timestamp=message.timestamp_s,
    )


def by_pika(channel: int, exchange: str, routing_key: str, message: Message, frame_max: int) -> bytes:
    body_max = frame_max - 8
    publish = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    frames = [
        frame.Method(channel, publish),
        frame.Header(channel, len(message.body), properties_of(message)),
        *(
            frame.Body(channel, message.body[start : start + body_max])
            for start in range(0, len(message.body), body_max)
        ),
    ]
    return b"".join(each.marshal() for each in frames)


@given(MESSAGES, st.integers(1, 65535), TEXTS, TEXTS, st.integers(4000, 5000))
def test_the_bytes_are_pikas_own(message: Message, channel: int, exchange: str, key: str, frame_max: int) -> None:
    message = replace(message, body=message.body * 200)
    expected = by_pika(channel, exchange, key, message, frame_max)
    assert publish_frames(channel, exchange, key, message, frame_max) == expected


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        ("x" * 256, Message(b"")),
        ("", Message(b"", message_id="ü" * 128)),
        ("", Message(b"", headers={"x" * 256: 1})),
        ("", Message(b"", headers={"number": 1.5 + 2j})),  # type: ignore[dict-item]  # what must be refused
        ("", Message(b"", headers={"number": 1 << 70})),
        ("", Message(b"", headers={"text": "x" * 1000})),
    ],
)
def test_what_amqp_cannot_carry_is_an_error(exchange: str, message: Message) -> None:
    with pytest.raises(ValueError, match=r"too many|no field type|cannot carry|64 bits|fit in one frame"):
        publish_frames(1, exchange, "", message, 1000)


def test_a_float_stays_a_float() -> None:
    assert b"\x01fd" + struct.pack(">d", 0.1) in publish_frames(1, "", "", Message(b"", headers={"f": 0.1}), 1000)


def test_the_properties_of_a_message_that_is_handed_on_are_written_as_they_are() -> None:
    native = bytes(12) + b"any octets"
    assert native in publish_frames(1, "", "", Message(b"", message_id="not this", native=native), 1000)
