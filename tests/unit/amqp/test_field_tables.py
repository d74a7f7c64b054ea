"""Field tables: every value that a broker accepts can be read, and passed on unchanged."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode

from backpressure.amqp.field_tables import (
    FieldTable,
    Long,
    Timestamp,
    check_table,
    decode_table,
    decode_value,
    encode_table,
    encode_value,
    octets_of,
    short_string,
)

names = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | names
    | st.binary(max_size=9)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)

SIZES = {
    "t": 1,
    "b": 1,
    "B": 1,
    "s": 2,
    "U": 2,
    "u": 2,
    "I": 4,
    "i": 4,
    "f": 4,
    "l": 8,
    "L": 8,
    "d": 8,
    "T": 8,
    "D": 5,
    "V": 0,
}


def sized(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


fixed = st.sampled_from(sorted(SIZES)).flatmap(
    lambda kind: st.binary(min_size=SIZES[kind], max_size=SIZES[kind]).map(lambda octets: kind.encode() + octets)
)
text = st.tuples(st.sampled_from([b"S", b"x"]), st.binary(max_size=9)).map(lambda pair: pair[0] + sized(pair[1]))
raw_values = st.recursive(
    fixed | text,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: b"A" + sized(b"".join(items)))
        | st.lists(st.tuples(st.binary(max_size=9), inner), max_size=4).map(
            lambda fields: b"F" + sized(b"".join(bytes((len(name),)) + name + value for name, value in fields))
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(names, values, max_size=5))
def test_what_is_encoded_is_decoded_to_the_same(table: dict[str, Any]) -> None:
    assert decode_table(encode_table(table)) == table


@given(st.dictionaries(names, raw_values, max_size=5))
def test_every_value_of_every_type_can_be_read_and_kept(fields: dict[str, bytes]) -> None:
    octets = sized(b"".join(short_string(name) + value for name, value in fields.items()))
    check_table(octets)
    table = FieldTable(octets)
    assert octets_of(table) == octets
    json.dumps(table, default=str, allow_nan=False)


@given(st.binary(max_size=60))
def test_octets_that_are_not_a_table_are_refused_with_one_kind_of_error(garbage: bytes) -> None:
    try:
        table = FieldTable(garbage)
    except (ValueError, IndexError):
        return
    assert table.octets == garbage


@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=9), values, max_size=5))
def test_another_codec_reads_the_same(table: dict[str, Any]) -> None:
    read = decode.field_table(encode_table(table))[1]
    assert json.dumps(read, default=list) == json.dumps(table, default=list)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"T" + struct.pack(">Q", 1_772_000_000_000), 1_772_000_000_000),  # milliseconds, as many clients send
        (b"T" + struct.pack(">q", -14_400), 2**64 - 14_400),
        (b"d" + struct.pack(">d", float("nan")), None),
        (b"d" + struct.pack(">d", float("-inf")), None),
        (b"f" + struct.pack(">f", 1.5), 1.5),
        (b"D\x02" + struct.pack(">i", -1234), Decimal("-12.34")),
        (b"D\xff" + struct.pack(">i", 7), Decimal("7E-255")),
        (b"S\0\0\0\x04caf\xe9", "caf\udce9"),
        (b"x\0\0\0\x01\xff", b"\xff"),
        (b"U\xff\xfe", -2),
        (b"L" + struct.pack(">Q", 2**64 - 1), -1),
        (b"V", None),
        (b"", None),
    ],
)
def test_every_value_reads_as_what_it_means_and_one_without_meaning_as_none(raw: bytes, value: object) -> None:
    assert decode_value(raw) == value


def test_text_that_is_not_utf8_keeps_its_octets() -> None:
    table = FieldTable(sized(b"\x04caf\xe9S\0\0\0\x04caf\xe9"))
    assert encode_table(table) == table.octets


@pytest.mark.parametrize("depth", [200, 5000])
def test_tables_may_be_nested_as_deep_as_a_reader_can_follow(depth: int) -> None:
    table = b""
    for _ in range(depth):
        table = b"\x01kF" + sized(table)
    if depth == 200:
        assert list(FieldTable(sized(table))) == ["k"]
    else:
        with pytest.raises(ValueError, match="nested too deeply"):
            FieldTable(sized(table))


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (1, b"I\0\0\0\x01"),
        (2**31, b"l" + struct.pack(">q", 2**31)),
        (Long(1), b"l" + struct.pack(">q", 1)),
        (Timestamp(1), b"T" + bytes(7) + b"\x01"),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), b"T" + bytes(7) + b"\x01"),
        (Decimal("-12.34"), b"D\x02" + struct.pack(">i", -1234)),
        ("caf\udce9", b"S\0\0\0\x04caf\xe9"),
    ],
)
def test_values_are_encoded_in_the_types_that_rabbitmq_reads(value: object, octets: bytes) -> None:
    assert encode_value(value) == octets


@pytest.mark.parametrize("value", [object(), {1, 2}])
def test_what_amqp_has_no_type_for_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        encode_value(value)


@pytest.mark.parametrize("value", [2**63, Decimal("NaN"), Decimal("1E-300"), Decimal(2**31), {"x" * 256: 1}, "\ud800"])
def test_what_does_not_fit_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the kinds differ, and say so
        encode_value(value)
