"""Content properties as octets: found, spliced and returned unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from backpressure.amqp.field_tables import decode_value
from backpressure.amqp.properties import Properties

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
