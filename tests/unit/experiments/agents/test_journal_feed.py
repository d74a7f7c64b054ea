"""A journal is sent while it grows, without what may be half written."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backpressure.core.journal import RECORD_BYTES, Outcome, ProducerRecord
from backpressure.experiments.agents.agent import JournalFeed
from backpressure.experiments.agents.conversation import PIECE_BYTES
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.telemetry.journal_file import JournalWriter


def record(number: int) -> ProducerRecord:
    return ProducerRecord(7, number, Outcome.CONFIRMED, 1, 2, 3)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return create(tmp_path, "run", datetime.now(UTC))


def test_the_last_record_waits_until_another_follows_it(directory: RunDirectory) -> None:
    feed = JournalFeed(directory, "producer-1")
    assert feed.read(to_the_end=False) == b""  # there is no file yet
    with JournalWriter(directory.journal("producer-1")) as writer:
        assert feed.read(to_the_end=False) == b""
        writer.write(record(1))
        assert feed.read(to_the_end=False) == b""
        writer.write(record(2))
        assert feed.read(to_the_end=False) == record(1).pack()
        assert feed.read(to_the_end=False) == b""
    assert feed.read(to_the_end=True) == record(2).pack()
    assert feed.read(to_the_end=True) == b""


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 514, 5000])
def test_all_of_it_comes_in_bounded_pieces(directory: RunDirectory, count: int, *, killed: bool) -> None:
    writer = JournalWriter(directory.journal("producer-1"))
    feed = JournalFeed(directory, "producer-1")
    pieces = []
    for number in range(count):
        writer.write(record(number))
        if number % 700 == 0:
            pieces.append(feed.read(to_the_end=False))
    if not killed:  # else the rest of its file is zero
        writer.close()
    while piece := feed.read(to_the_end=True):
        pieces.append(piece)
    writer.close()
    whole = b"".join(record(number).pack() for number in range(count))
    assert b"".join(pieces) == whole
    assert max(map(len, pieces), default=0) <= PIECE_BYTES
    assert all(len(piece) % RECORD_BYTES == 0 for piece in pieces)
    assert (feed.size, feed.digest) == (len(whole), hashlib.sha256(whole).hexdigest())
