"""Content properties in their octets: found, spliced and given back unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from backpressure.amqp.properties import Properties, Timestamp, decode_value, encode_value, split_array
from backpressure.broker.dead_letter import dead_lettered
from backpressure.broker.message import Message

shorts = st.text(max_size=20)
values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=20), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(min_size=1, max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)
tables = st.dictionaries(st.text(min_size=1, max_size=10), values, max_size=5)


def payload(body_size: int = 0, **properties: Any) -> bytes:
    encoded: bytes = header.ContentHeader(
        body_size=body_size, properties=commands.Basic.Properties(**properties)
    ).marshal()
    return encoded


def read(encoded: bytes) -> dict[str, Any]:
    content = header.ContentHeader()
    content.unmarshal(encoded)
    return {name: value for name, value in content.properties if value is not None}


@given(tables, shorts, shorts, st.integers(0, 2**40))
def test_parsing_and_writing_changes_no_octet(headers: Any, kind: str, correlation: str, size: int) -> None:
    encoded = payload(size, headers=headers, content_type=kind, correlation_id=correlation, delivery_mode=2, priority=7)
    parsed = Properties.parse(encoded)
    assert parsed.payload() == encoded
    assert parsed.persistent
    assert parsed.body_size == size
    assert {name.decode(): decode_value(raw) for name, raw in parsed.headers().items()} == headers


@given(st.binary(max_size=80))
def test_garbage_is_refused_with_one_kind_of_error(garbage: bytes) -> None:
    try:
        Properties.parse(garbage)
    except ValueError:
        return
    assert len(garbage) >= 14


@given(tables, st.integers(0, 200))
def test_cut_properties_are_refused(headers: Any, cut: int) -> None:
    encoded = payload(headers=headers, message_id="m")
    with pytest.raises(ValueError, match=r"truncated|do not fill"):
        Properties.parse(encoded[: cut % len(encoded)])


def test_what_cannot_be_decoded_is_none() -> None:
    assert decode_value(b"T" + b"\xff" * 8) is None
    assert decode_value(b"U\x00\x01") is None


def test_dead_lettering_keeps_the_types_of_the_publishers_headers() -> None:
    message = Message("e", "k", payload(headers={"small": 1, "text": "x"}, expiration="5"), b"")
    before = message.properties().headers()
    dead = dead_lettered(message, queue="q", reason="expired", exchange="dlx", routing_key=None, epoch_s=7)
    assert dead is not None
    after = dead.properties().headers()
    assert {name: after[name] for name in before} == before
    assert (dead.exchange, dead.routing_key, dead.properties().text("expiration")) == ("dlx", "k", None)
    assert read(dead.header)["headers"]["x-death"][0]["original-expiration"] == "5"


@pytest.mark.parametrize(
    "forged", ["nonsense", [1, "x"], [{}], [{"count": "many", "queue": "q", "reason": "rejected"}]]
)
def test_a_forged_history_does_no_harm(forged: Any) -> None:
    message = Message("", "q", payload(headers={"x-death": forged}), b"")
    dead = dead_lettered(message, queue="q", reason="rejected", exchange="", routing_key="d", epoch_s=7)
    assert dead is not None
    (first, *_) = split_array(dead.properties().headers()[b"x-death"])
    death: Any = decode_value(first)
    assert (death["count"], death["queue"], death["reason"]) == (1, "q", "rejected")


def test_timestamps_are_whole_seconds() -> None:
    assert encode_value(Timestamp(1)) == b"T" + bytes(7) + b"\x01"


def test_what_the_broker_never_sends_has_no_encoding() -> None:
    with pytest.raises(TypeError):
        encode_value(1.5)
