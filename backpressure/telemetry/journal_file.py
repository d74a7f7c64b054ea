"""Journals on disk: every settled message of one process, safe against ``kill -9`` the moment it is recorded.

The file is mapped into memory, so a record is in the operating system's page cache as soon as it is written and needs
no flush; the file grows in steps of one megabyte whose unused rest stays zero.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Self

from backpressure.core.fields import MessageField
from backpressure.core.journal import RECORD_BYTES, ConsumerRecord, ProducerRecord
from backpressure.core.message import Message

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


class IdJournal:
    """Notes by which id a service that is not ours knows each message, before the message is sent.

    A line is session, sequence and id (JSON). It is written at once, so it survives ``kill -9`` as a journal does.
    """

    def __init__(self, path: Path, session: int, field: MessageField) -> None:
        """Create ``path``; ``field`` is where the id stands in a message. Raises `OSError`."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._session = session
        self._field = field

    def note(self, sequence: int, message: Message) -> None:
        """Write the id of ``message``, if it has one."""
        found = self._field.read(message)
        if isinstance(found, (str, int)) and not isinstance(found, bool):
            line = f"{self._session}\t{sequence}\t{json.dumps(str(found))}\n"
            os.write(self._descriptor, line.encode())
