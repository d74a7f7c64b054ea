"""Properties and headers as Python values: reading never fails."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.amqp.field_tables import encode_table, short_string
from backpressure.amqp.properties import UNREADABLE, Properties, read_properties, read_table, read_value

SHORTS = st.text(max_size=20)
DECIMALS = st.builds(
    lambda digits, scale: Decimal(digits).scaleb(-scale), st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 255)
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0))  # noqa: DTZ001
    | st.builds(
        lambda digits, scale: Decimal(digits).scaleb(-scale),
        st.integers(-(1 << 31), (1 << 31) - 1),
        st.integers(0, 255),
    )
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORTS, inner, max_size=3),
    max_leaves=8,
)


def read(raw: bytes) -> Any:
    return read_value(raw, 0, len(raw))


def table_of(fields: bytes) -> dict[str, object]:
    return read_table(fields, 0, len(fields))


def field(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + value


@given(st.dictionaries(SHORTS, VALUES, max_size=5))
def test_what_is_written_is_read(fields: dict[str, object]) -> None:
    encoded = encode_table(fields)
    assert read_table(encoded, 4, len(encoded)) == fields


@given(st.binary(max_size=200))
def test_no_octets_make_reading_properties_fail(octets: bytes) -> None:
    read_properties(octets)
    read_properties(struct.pack(">HHQH", 60, 0, 0, 0xFFFC) + octets)
    read_properties(struct.pack(">HHQH", 60, 0, 0, 0x2000) + struct.pack(">I", len(octets)) + octets)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"d" + struct.pack(">d", 0.25), 0.25),
        (b"f" + struct.pack(">f", 0.25), 0.25),
        (b"D\xff\x00\x00\x00\x07", Decimal("7E-255")),
        (b"D\x02\xff\xff\xff\xff", Decimal("-0.01")),
        (b"T" + bytes(8), datetime(1970, 1, 1, tzinfo=UTC)),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"i\xff\xff\xff\xff", (1 << 32) - 1),
        (b"S\x00\x00\x00\x02\xe9t", b"\xe9t"),
        (b"x\x00\x00\x00\x01\xff", b"\xff"),
        (b"A\x00\x00\x00\x0b" + b"t\x01" + b"T" + b"\xff" * 8, [True, None]),
        (b"F\x00\x00\x00\x00", {}),
        (b"A\x00\x00\x00\x00", []),
        (b"V", None),
    ],
)
def test_each_type_is_what_it_says(raw: bytes, value: object) -> None:
    assert read(raw) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_not_a_number_cannot_be_read(value: float) -> None:
    assert read(b"d" + struct.pack(">d", value)) is UNREADABLE


def test_what_cannot_be_read_is_left_out_and_the_rest_is_read() -> None:
    fields = (
        field(b"in milliseconds", b"T" + struct.pack(">Q", 1_772_000_000_000))
        + field(b"caf\xe9", b"t\x01")
        + field(b"deep", b"F" + nested(400))
        + field(b"after", b"t\x01")
    )
    known = table_of(fields)
    assert known.pop("deep") is not None  # as far as it is not too deep
    assert known == {"after": True}


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = field(b"n", b"F" + struct.pack(">I", len(table)) + table)
    return struct.pack(">I", len(table)) + table


def test_nothing_can_be_read_after_an_unknown_type() -> None:
    assert table_of(field(b"before", b"t\x01") + field(b"odd", b"?\x01") + field(b"after", b"t\x01")) == {
        "before": True
    }


def test_properties_are_read_as_far_as_they_go() -> None:
    flags = 0x8000 | 0x0800 | 0x0400 | 0x0080  # content type, priority, correlation id, message id
    head = struct.pack(">HHQH", 60, 0, 0, flags)
    payload = head + field(b"text/plain", b"") + b"\x07" + field(b"caf\xe9", b"") + field(b"an-id", b"")
    assert read_properties(payload) == {"content_type": "text/plain", "priority": 7, "message_id": "an-id"}
    assert read_properties(payload[:-1]) == {"content_type": "text/plain", "priority": 7}


@given(SHORTS, st.dictionaries(SHORTS, VALUES, max_size=3), st.integers(0, (1 << 64) - 1))
def test_properties_that_are_sound_are_read_whole(text: str, headers: dict[str, object], timestamp: int) -> None:
    raw = {
        "content_encoding": short_string(text),
        "headers": encode_table(headers),
        "delivery_mode": b"\x02",
        "timestamp": timestamp.to_bytes(8, "big"),
        "app_id": short_string(text),
    }
    assert read_properties(Properties(5, raw).payload()) == {
        "content_encoding": text,
        "headers": headers,
        "delivery_mode": 2,
        "timestamp": timestamp,
        "app_id": text,
    }
