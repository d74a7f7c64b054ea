"""Logging of a process: one line per event worth a line, on standard error; never payloads, never secrets."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from backpressure.settings import LogSettings

__all__ = ["configure"]


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


def configure(settings: LogSettings) -> None:
    """Send the package's log to standard error; other libraries only speak up when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonLines() if settings.format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("backpressure").setLevel(settings.level)
