"""Logging of a process: one line per event, on standard error; never payloads, never secrets.

A warning that repeats a thousand times a second is logged a few times and then counted, so that logging does not become
the load.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from backpressure.program import printable_lines
from backpressure.settings import LogSettings

_BURST = 5
_WINDOW_S = 10.0
_MOST_KINDS = 1000


class _TextLines(logging.Formatter):
    """A line for people; text of other processes in it does not steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class _JsonLines(logging.Formatter):
    """One object per line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


@dataclass(slots=True)
class _Window:
    """What was said of one kind since ``begun_at`` (seconds since the epoch)."""

    begun_at: float
    said: int = 0
    left_out: int = 0


class _Repeats(logging.Filter):
    """Lets at most five warnings of one kind through in ten seconds; the next one says how many it left out.

    A kind is a logger and a text before its values are filled in: the same warning about another message is a repeat.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[str, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, str(record.msg))
        window = self._windows.get(kind)
        left_out = 0
        if window is None or record.created - window.begun_at >= _WINDOW_S:
            left_out = window.left_out if window is not None else 0
            if len(self._windows) >= _MOST_KINDS:
                self._windows.clear()  # a library that formats its messages itself has endlessly many
            window = self._windows[kind] = _Window(record.created)
        if window.said >= _BURST:
            window.left_out += 1
            return False
        window.said += 1
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more of these were left out)", None
        return True


def for_machines() -> bool:
    """Return whether the log is JSON for machines: then nothing else may be written to standard error."""
    return any(isinstance(handler.formatter, _JsonLines) for handler in logging.root.handlers)


def configure(settings: LogSettings) -> None:
    """Send the package's log to standard error; of other libraries, warnings and errors only."""
    handler = logging.StreamHandler(sys.stderr)
    text = _TextLines("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonLines() if settings.format == "json" else text)
    handler.addFilter(_Repeats())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("backpressure").setLevel(settings.level)
