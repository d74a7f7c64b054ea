"""Journals on disk: every settled message of one process, safe against ``kill -9`` the moment it is recorded.

The file is mapped into memory, so a record is in the operating system's page cache as soon as it is written and needs
no flush; the file grows in steps of one megabyte whose unused rest stays zero.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Self

from backpressure.core.journal import RECORD_BYTES, ConsumerRecord, ProducerRecord

__all__ = ["JournalWriter"]

_STEP_BYTES = 1 << 20


class JournalWriter:
    """Appends records to one file; use it as a context manager or call `close`."""

    def __init__(self, path: Path) -> None:
        """Create ``path`` (an existing file is replaced); raises `OSError`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w+b")
        self._file.truncate(_STEP_BYTES)
        self._map = mmap.mmap(self._file.fileno(), _STEP_BYTES)
        self._end = 0

    def write(self, record: ProducerRecord | ConsumerRecord) -> None:
        """Append one record."""
        if self._end + RECORD_BYTES > len(self._map):
            self._grow()
        self._map[self._end : self._end + RECORD_BYTES] = record.pack()
        self._end += RECORD_BYTES

    def _grow(self) -> None:
        size = len(self._map) + _STEP_BYTES
        self._map.close()  # a new mapping: not every system can resize one
        self._file.truncate(size)
        self._map = mmap.mmap(self._file.fileno(), size)

    def close(self) -> None:
        """Cut the file to what was written; closing twice is harmless."""
        if self._file.closed:
            return
        self._map.close()
        self._file.truncate(self._end)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
