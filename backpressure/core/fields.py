"""Where a value stands in a message: ``message_id``, ``correlation_id``, ``header:order_id`` or ``json:order.id``.

Ids and times that programs of others put into messages are found by these paths.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from backpressure.core.message import Message

_PROPERTIES = ("message_id", "correlation_id")
_EXPECTED = "expected message_id, correlation_id, header:NAME or json:KEY.KEY"


@dataclass(frozen=True, slots=True)
class MessageField:
    """A place in a message; ``path`` is the name of the header, or the keys (and indices) into the JSON body."""

    kind: str
    path: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> MessageField:
        """Return the field that ``text`` names; raises `ValueError`."""
        kind, colon, path = text.partition(":")
        if not colon and kind in _PROPERTIES:
            return cls(kind)
        if kind == "header" and path:
            return cls(kind, (path,))
        if kind == "json" and path:
            return cls(kind, tuple(path.split(".")))
        raise ValueError(_EXPECTED)

    def read(self, message: Message, correlation_id: str | None = None) -> object:
        """Return the value in ``message``, None where there is none."""
        if self.kind == "json":
            return self.find(message.body)
        if self.kind == "header":
            value: object = message.headers.get(self.path[0])
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return message.message_id if self.kind == "message_id" else correlation_id or message.correlation_id

    def find(self, body: bytes | str) -> object:
        """Return the value in a JSON document, None where there is none."""
        try:
            found: object = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return self.within(found)

    def within(self, document: object) -> object:
        """Return the value in a document that is read already."""
        for key in self.path:
            if isinstance(document, dict):
                document = document.get(key)
            elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
                document = document[int(key)]
            else:
                return None
        return document


_UNITS_PER_S = (
    (1e17, 1_000_000_000),
    (1e14, 1_000_000),
    (1e11, 1_000),
)
"""A time since 1973 in nanoseconds, microseconds or milliseconds is at least this large; seconds are smaller."""


def time_ns(value: object) -> int | None:
    """Return nanoseconds since the epoch of a number (s, ms, µs or ns) or of an ISO 8601 time; None: it is no time."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                return round(datetime.fromisoformat(str(value)).timestamp() * 1_000_000) * 1_000
            except (ValueError, OverflowError):
                return None
    if isinstance(value, datetime):
        return round(value.timestamp() * 1_000_000) * 1_000
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1 << 63:
        return None
    for least, per_s in _UNITS_PER_S:
        if value >= least:
            return round(value * (1_000_000_000 // per_s))
    return round(value * 1_000_000_000)
