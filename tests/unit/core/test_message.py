"""Message ids, and the metadata that a message carries."""

from __future__ import annotations

from decimal import Decimal
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.message import (
    MAX_PROCESSING_TIME_S,
    MAX_SEQUENCE,
    MAX_SESSION,
    HeaderValue,
    Message,
    Metadata,
    message_id,
    parse_message_id,
)

SESSIONS = st.integers(0, MAX_SESSION)
SEQUENCES = st.integers(0, MAX_SEQUENCE)


@given(SESSIONS, SEQUENCES)
def test_an_id_is_a_uuid_of_version_8_that_gives_back_session_and_sequence(session: int, sequence: int) -> None:
    text = message_id(session, sequence)
    assert (UUID(text).version, UUID(text).variant) == (8, RFC_4122)
    assert str(UUID(text)) == text
    assert parse_message_id(text) == (session, sequence)


@given(st.lists(st.tuples(SESSIONS, SEQUENCES), unique=True, max_size=20))
def test_different_messages_have_different_ids(pairs: list[tuple[int, int]]) -> None:
    assert len({message_id(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "order-4711",
        "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
        "z" * 36,
        message_id(1, 2)[:-1],
        message_id(1, 2) + "0",
    ],
)
def test_a_foreign_id_is_not_taken_for_ours(text: str | None) -> None:
    assert parse_message_id(text) is None


@given(st.text(max_size=40))
def test_no_text_makes_reading_an_id_fail(text: str) -> None:
    parsed = parse_message_id(text)
    assert parsed is None or UUID(message_id(*parsed)) == UUID(text)


METADATA = st.builds(
    Metadata,
    session=SESSIONS,
    sequence=SEQUENCES,
    producer_id=st.none() | st.text(),
    host=st.none() | st.text(),
    intended_ns=st.none() | st.integers(0, 1 << 62),
    sent_ns=st.none() | st.integers(0, 1 << 62),
    processing_time_s=st.none() | st.floats(0, MAX_PROCESSING_TIME_S),
    traceparent=st.none() | st.text(),
)


@given(METADATA)
def test_metadata_survives_the_journey(metadata: Metadata) -> None:
    assert metadata.session is not None
    assert metadata.sequence is not None
    message = Message(b"", message_id=message_id(metadata.session, metadata.sequence), headers=metadata.headers())
    assert Metadata.read(message) == metadata


@given(METADATA)
def test_headers_never_hold_a_float_which_not_every_client_can_read(metadata: Metadata) -> None:
    assert not any(isinstance(value, float) for value in metadata.headers().values())


HEADER_VALUES: st.SearchStrategy[HeaderValue] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.decimals(),
    st.datetimes(),
    st.text(),
    st.binary(),
    st.sampled_from(["nan", "1e999", "1e9"]),
)


HEADER_NAMES = ["producer_id", "host", "sequence", "intended_ns", "sent_ns", "processing_time", "traceparent"]


@given(st.dictionaries(st.sampled_from(HEADER_NAMES), HEADER_VALUES))
def test_malformed_headers_of_a_foreign_message_count_as_unknown(headers: dict[str, HeaderValue]) -> None:
    known = Metadata.read(Message(b"", headers=headers))
    assert isinstance(known.producer_id, str | None)
    assert isinstance(known.host, str | None)
    assert isinstance(known.traceparent, str | None)
    assert known.processing_time_s is None or 0 <= known.processing_time_s <= MAX_PROCESSING_TIME_S
    assert not isinstance(known.sent_ns, bool)
    for time_ns in (known.sent_ns, known.intended_ns):
        assert time_ns is None or (isinstance(time_ns, int) and 0 <= time_ns < 1 << 63)


def test_a_message_without_any_metadata_is_unknown_throughout() -> None:
    assert Metadata.read(Message(b"hello")) == Metadata()


def test_the_amqp_timestamp_stands_in_for_a_missing_time_of_sending() -> None:
    assert Metadata.read(Message(b"", timestamp_s=7)).sent_ns == 7_000_000_000
    assert Metadata.read(Message(b"", timestamp_s=7, headers={"sent_ns": 7_100_000_000})).sent_ns == 7_100_000_000


def test_a_number_or_its_text_asks_for_work() -> None:
    asked: list[HeaderValue] = [2, "0.25", 0.5, Decimal("0.75"), 3600, 3600.1, "1e9", "soon", -1, "-1", True]
    times = [Metadata.read(Message(b"", headers={"processing_time": value})).processing_time_s for value in asked]
    assert times == [2.0, 0.25, 0.5, 0.75, 3600.0, None, None, None, None, None, None]


@pytest.mark.parametrize("timestamp_s", [0, 1_772_000_000_000, (1 << 64) - 1])
def test_a_timestamp_that_is_not_a_time_of_our_days_is_unknown(timestamp_s: int) -> None:
    assert Metadata.read(Message(b"", timestamp_s=timestamp_s)).sent_ns is None


def test_times_may_come_as_floats_where_a_language_has_no_integers() -> None:
    assert Metadata.read(Message(b"", headers={"sent_ns": 1.7e18})).sent_ns == 1_700_000_000_000_000_000
    assert Metadata.read(Message(b"", headers={"sent_ns": 0.5})).sent_ns is None
