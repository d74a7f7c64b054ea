"""Values that other programs put into messages are found by their place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backpressure.core.fields import MessageField, time_ns
from backpressure.core.message import Message

MESSAGE = Message(
    b'{"order": {"id": 7, "lines": [{"sku": "a"}]}}', message_id="m", headers={"tenant": "t", "raw": b"\xff"}
)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("message_id", "m"),
        ("correlation_id", "c"),
        ("header:tenant", "t"),
        ("header:raw", "\ufffd"),
        ("header:nothing", None),
        ("json:order.id", 7),
        ("json:order.lines.0.sku", "a"),
        ("json:order.lines.5.sku", None),
        ("json:order.id.deeper", None),
    ],
)
def test_a_value_is_found_where_it_stands(place: str, value: object) -> None:
    assert MessageField.parse(place).read(MESSAGE, "c") == value


def test_a_body_that_is_not_json_has_no_such_value() -> None:
    assert MessageField.parse("json:a").find(b"\xff{") is None
    assert MessageField.parse("json:a").find("[" * 100_000) is None


@pytest.mark.parametrize("place", ["", "order", "header:", "json:", "headers:x", "message_id:x"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="expected message_id"):
        MessageField.parse(place)


NS = 1_767_323_045_000_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_767_323_045, NS),
        (1_767_323_045.0, NS),
        (1_767_323_045_000, NS),
        (1_767_323_045_000_000, NS),
        (NS, NS),
        ("1767323045", NS),
        ("2026-01-02T03:04:05Z", NS),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), NS),
        ("soon", None),
        (None, None),
        (True, None),
        (-1, None),
        (float("nan"), None),
        (1e300, None),
    ],
)
def test_a_time_is_read_in_the_unit_it_must_have(value: object, expected: int | None) -> None:
    assert time_ns(value) == expected
