"""Journal records: 64 bytes, written and read back, also from a journal that ends anywhere."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.journal import (
    RECORD_BYTES,
    ConsumerRecord,
    Outcome,
    ProducerRecord,
    count_outcomes,
    read_records,
)
from backpressure.core.message import MAX_SEQUENCE, MAX_SESSION

IDS = {"session": st.integers(0, MAX_SESSION), "sequence": st.integers(0, MAX_SEQUENCE)}
TIME_NS = st.integers(0, (1 << 63) - 1)
PRODUCED = st.sampled_from([Outcome.CONFIRMED, Outcome.REJECTED, Outcome.RETURNED, Outcome.UNSETTLED])
CONSUMED = st.sampled_from([Outcome.PROCESSED, Outcome.DEAD_LETTERED])
ATTEMPTS = st.integers(1, (1 << 32) - 1)
RECORDS = st.one_of(
    st.builds(ProducerRecord, **IDS, outcome=PRODUCED, intended_ns=TIME_NS, sent_ns=TIME_NS, settled_ns=TIME_NS,
              attempts=ATTEMPTS),
    st.builds(ConsumerRecord, **IDS, outcome=CONSUMED, intended_ns=TIME_NS, sent_ns=TIME_NS, received_ns=TIME_NS,
              started_ns=TIME_NS, done_ns=TIME_NS, redelivered=st.booleans(), attempts=ATTEMPTS),
)  # fmt: skip


@given(st.lists(RECORDS))
def test_records_are_read_as_they_were_written(records: list[ProducerRecord | ConsumerRecord]) -> None:
    data = b"".join(record.pack() for record in records)
    assert len(data) == len(records) * RECORD_BYTES
    assert list(read_records(data)) == records


@given(st.lists(RECORDS, min_size=1), st.integers(1, RECORD_BYTES - 1))
def test_a_last_record_that_was_cut_off_is_ignored(
    records: list[ProducerRecord | ConsumerRecord], missing_bytes: int
) -> None:
    data = b"".join(record.pack() for record in records)
    assert list(read_records(memoryview(data)[:-missing_bytes])) == records[:-1]


@given(st.lists(RECORDS), st.integers(0, 200))
def test_zeros_mark_the_end_of_a_journal_whose_process_was_killed(
    records: list[ProducerRecord | ConsumerRecord], zeros: int
) -> None:
    data = b"".join(record.pack() for record in records) + bytes(zeros)
    assert list(read_records(data)) == records
    assert count_outcomes(data) == Counter(record.outcome for record in records)


@given(RECORDS)
def test_no_record_looks_like_the_end(record: ProducerRecord | ConsumerRecord) -> None:
    assert len(record.pack()) == RECORD_BYTES == 64
    assert any(record.pack())
