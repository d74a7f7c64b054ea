"""Conversion between our messages and Kafka's records, without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.message import Delivery, Message, Metadata
from backpressure.transports.kafka.records import Headers, content_of, dead_letter, headers_of, message_from


class Record:
    """As much of confluent-kafka's message as is read."""

    def __init__(self, body: bytes | None, headers: Headers | None, timestamp: tuple[int, int] = (1, 12_999)) -> None:
        self._body, self._headers, self._timestamp = body, headers, timestamp

    def value(self) -> bytes | None:
        return self._body

    def headers(self) -> Headers | None:
        return self._headers

    def set_headers(self, headers: Headers) -> None:
        self._headers = headers

    def key(self) -> bytes:
        return b"a key"

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp


def there_and_back(message: Message) -> Message:
    return message_from(Record(message.body, headers_of(message)))  # type: ignore[arg-type]  # a stand-in


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith("pace.")),
        VALUES | st.binary(max_size=8),
        max_size=5,
    )
)
def test_every_header_comes_back_as_it_was(headers: dict[str, object]) -> None:
    message = Message(b"body", headers=headers)  # type: ignore[arg-type]  # hypothesis does not tell
    assert there_and_back(message) == message


def test_every_property_comes_back_as_it_was() -> None:
    message = Message(b"", "id", 5, {}, persistent=False, content_type="text/plain", expiration_ms=7)
    assert there_and_back(message) == message
    assert there_and_back(Message(b"")) == Message(b"")


def test_text_and_numbers_can_be_read_by_anybody() -> None:
    headers = dict(headers_of(Message(b"", headers={"producer_id": "ada", "sequence": 17})))
    assert (headers["producer_id"], headers["sequence"]) == (b"ada", b"17")


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [("sequence", b"17")],
        [("pace.types", b"not json")],
        [("pace.types", b"[]")],
        [("pace.types", b'{"sequence": "j"}'), ("sequence", b"seventeen")],
        [("pace.types", b"{}"), ("pace.timestamp_s", b"soon")],
    ],
)
def test_what_is_not_ours_keeps_its_bytes_and_its_own_time(headers: Headers | None) -> None:
    message = message_from(Record(b"body", headers))  # type: ignore[arg-type]  # a stand-in
    assert message == Message(b"body", timestamp_s=12, headers=dict(headers or []))  # type: ignore[arg-type]  # bytes


def test_a_record_without_body_or_time_is_an_empty_message() -> None:
    record = Record(None, None, (TIMESTAMP_NOT_AVAILABLE, 0))
    assert message_from(record) == Message(b"")  # type: ignore[arg-type]  # a stand-in


class UnreadableRecord(Record):
    """A record with a header name that is not UTF-8: confluent-kafka raises once, then hands out holes."""

    raised = False

    def headers(self) -> Headers | None:
        if self._headers == []:
            return []
        assert not self.raised
        self.raised = True
        raise SystemError("returned a result with an exception set")


def test_headers_that_the_client_cannot_read_are_unknown() -> None:
    record = UnreadableRecord(b"body", None, (1, -5))
    for _ in range(2):
        message = message_from(record)  # type: ignore[arg-type]  # a stand-in
        assert (message.body, message.headers) == (b"body", {})
        assert Metadata.read(message) == Metadata()


def test_types_that_nest_too_deeply_are_not_read() -> None:
    deep = b"[" * 100_000
    message = message_from(Record(b"body", [("pace.types", deep)]))  # type: ignore[arg-type]  # a stand-in
    assert message.headers == {"pace.types": deep}


def letter_of(record: Record) -> dict[str, Any]:
    delivery = Delivery(message_from(record), 1, 1, False, "", "work", native=record)  # type: ignore[arg-type]  # a stand-in
    return content_of(dead_letter(delivery, "work", {"x-pace-reason": "why"}))


def test_a_dead_letter_of_a_foreign_record_keeps_key_time_and_every_header() -> None:
    headers: Headers = [("b", b"\xff"), ("a", b"1"), ("a", b"2"), ("none", None)]
    letter = letter_of(Record(b"body", headers))
    assert (letter["value"], letter["key"], letter["timestamp"]) == (b"body", b"a key", 12_999)
    assert letter["headers"][:4] == headers
    read = message_from(Record(b"body", letter["headers"]))  # type: ignore[arg-type]  # a stand-in
    assert read.headers["b"] == b"\xff"
    assert read.headers["x-pace-reason"] == "why"
    [death] = read.headers["x-death"]  # type: ignore[misc, union-attr]  # a list
    assert (death["queue"], death["reason"], death["count"]) == ("work", "rejected", 1)  # type: ignore[call-overload, index]


def test_a_dead_letter_of_ours_keeps_its_types_and_its_expiration_goes_into_the_history() -> None:
    message = Message(b"body", "id", 5, {"number": 1, "text": "t", "list": [1.5]}, persistent=False, expiration_ms=7)
    letter = letter_of(Record(b"body", headers_of(message)))
    read = message_from(Record(b"body", letter["headers"]))  # type: ignore[arg-type]  # a stand-in
    assert message.headers.items() <= read.headers.items()
    assert (read.message_id, read.timestamp_s, read.persistent, read.expiration_ms) == ("id", 5, False, None)
    [death] = read.headers["x-death"]  # type: ignore[misc, union-attr]  # a list
    assert death["original-expiration"] == "7"  # type: ignore[call-overload, index]


@pytest.mark.parametrize("time_ms", [-5, 0, 1 << 62])
def test_a_time_that_no_broker_takes_is_left_out_of_a_dead_letter(time_ms: int) -> None:
    assert "timestamp" not in letter_of(Record(b"body", None, (1, time_ms)))
