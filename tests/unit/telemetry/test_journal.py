"""Journals on disk: everything written is kept, whenever the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from backpressure.core.journal import RECORD_BYTES, Outcome, ProducerRecord, read_records
from backpressure.telemetry.journal_file import JournalWriter

PER_STEP = (1 << 20) // RECORD_BYTES


def record(sequence: int) -> ProducerRecord:
    return ProducerRecord(7, sequence, Outcome.CONFIRMED, intended_ns=1, sent_ns=2, settled_ns=3)


def test_a_closed_journal_holds_its_records_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "producer.journal"
    with JournalWriter(path) as journal:
        for sequence in range(3):
            journal.write(record(sequence))
    assert path.stat().st_size == 3 * RECORD_BYTES
    assert list(read_records(path.read_bytes())) == [record(sequence) for sequence in range(3)]


def test_an_open_journal_can_be_read_up_to_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "open.journal"
    with JournalWriter(path) as journal:
        journal.write(record(1))
        journal.write(record(2))
        assert list(read_records(path.read_bytes())) == [record(1), record(2)]


def test_a_journal_grows_past_its_first_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "long.journal"
    count = 2 * PER_STEP + 1
    with JournalWriter(path) as journal:
        for sequence in range(count):
            journal.write(record(sequence))
    assert [entry.sequence for entry in read_records(path.read_bytes())] == list(range(count))


def test_a_new_journal_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "again.journal"
    for sequence in (1, 2):
        with JournalWriter(path) as journal:
            journal.write(record(sequence))
    assert list(read_records(path.read_bytes())) == [record(2)]


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "twice.journal")
    journal.close()
    journal.close()
    assert (tmp_path / "twice.journal").read_bytes() == b""


WRITES_UNTIL_KILLED = """
import os, signal, sys
from pathlib import Path
from backpressure.core.journal import Outcome, ProducerRecord
from backpressure.telemetry.journal_file import JournalWriter

journal = JournalWriter(Path(sys.argv[1]))
for sequence in range(1000):
    journal.write(ProducerRecord(7, sequence, Outcome.CONFIRMED, 1, 2, 3))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_outright_loses_no_record(tmp_path: Path) -> None:
    path = tmp_path / "killed.journal"
    process = subprocess.run(
        [sys.executable, "-c", WRITES_UNTIL_KILLED, str(path)],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.returncode == -signal.SIGKILL
    assert list(read_records(path.read_bytes())) == [record(sequence) for sequence in range(1000)]
