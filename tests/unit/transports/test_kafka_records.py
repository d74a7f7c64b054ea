"""Between our messages and Kafka's records, without any broker."""

from __future__ import annotations

import pytest
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.message import Message
from backpressure.transports.kafka.records import Headers, headers_of, message_from


class Record:
    """As much of confluent-kafka's message as is read."""

    def __init__(self, body: bytes | None, headers: Headers | None, timestamp: tuple[int, int] = (1, 12_999)) -> None:
        self._body, self._headers, self._timestamp = body, headers, timestamp

    def value(self) -> bytes | None:
        return self._body

    def headers(self) -> Headers | None:
        return self._headers

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
