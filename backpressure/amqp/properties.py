"""Content properties as raw octets: where each one is, and how to replace one.

A message's properties travel from publisher to consumer undecoded. The few that must be understood (delivery mode,
expiration, headers) are found by walking lengths; the few that must be changed (``x-death``, ``x-delivery-count``) are
spliced in, so every other value keeps the exact type and octets its publisher gave it.
Must not know: frames, messages, queues.

Source: AMQP 0-9-1 section 4.2.6.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from backpressure.amqp.field_tables import RawTable, check_table, join_table, split_table
from backpressure.amqp.frames import BASIC

__all__ = ["BASIC_HEADER", "FLAGS", "LAYOUT", "Properties", "header_class"]

_SHORT, _LONG = struct.Struct(">H"), struct.Struct(">I")
_HEADER, _HEADER_AND_FLAGS = struct.Struct(">HHQ"), struct.Struct(">HHQH")
BASIC_HEADER = struct.pack(">HH", BASIC, 0)
"""Class and weight, with which each content header begins."""

_NAMES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
_FIXED = {"delivery_mode": 1, "priority": 1, "timestamp": 8}
LAYOUT = tuple((name, 0x8000 >> place, _FIXED.get(name)) for place, name in enumerate(_NAMES))
"""Name, flag and size in octets (None: it begins with its length) of each property, in the order they stand."""
FLAGS = {name: flag for name, flag, _ in LAYOUT}


def header_class(payload: bytes) -> int:
    """Return the class that a content header is for."""
    return int.from_bytes(payload[:2], "big")


@lru_cache(maxsize=256)
def _present(flags: int) -> tuple[tuple[str, int | None], ...]:
    """Return name and size of the properties with these flags; publishers use few combinations."""
    if flags & 0x0003:
        raise ValueError("unknown property flags")
    return tuple((name, size) for name, flag, size in LAYOUT if flags & flag)


@dataclass(slots=True)
class Properties:
    """The properties of one message, each still in its octets (headers: with the table's length prefix)."""

    body_size: int
    raw: dict[str, bytes]

    @classmethod
    def parse(cls, payload: bytes) -> Properties:
        """Read a content header frame's payload; `ValueError` when its lengths do not add up."""
        try:
            return cls._parse(payload)
        except (IndexError, struct.error) as cause:
            raise ValueError("content header is truncated") from cause

    @classmethod
    def _parse(cls, payload: bytes) -> Properties:
        _, _, body_size, flags = _HEADER_AND_FLAGS.unpack_from(payload)
        position = _HEADER_AND_FLAGS.size
        raw: dict[str, bytes] = {}
        for name, size in _present(flags):
            start = position
            if size is not None:
                position += size
            elif name == "headers":
                position += _LONG.unpack_from(payload, position)[0] + 4
            else:
                position += payload[position] + 1
            raw[name] = payload[start:position]
        if position != len(payload):
            raise ValueError("properties do not fill the content header")
        if "headers" in raw:
            check_table(raw["headers"])
        return cls(body_size, raw)

    def payload(self) -> bytes:
        """The content header frame's payload."""
        flags = sum(bit for name, bit, _ in LAYOUT if name in self.raw)
        values = (self.raw[name] for name in _NAMES if name in self.raw)
        return b"".join((_HEADER.pack(BASIC, 0, self.body_size), _SHORT.pack(flags), *values))

    @property
    def persistent(self) -> bool:
        """Whether the delivery mode is 2."""
        return self.raw.get("delivery_mode") == b"\x02"

    def number(self, name: str) -> int | None:
        """An integer property, or None when it is absent."""
        value = self.raw.get(name)
        return None if value is None else int.from_bytes(value, "big")

    def text(self, name: str) -> str | None:
        """A short string property, or None when it is absent; undecodable octets are replaced."""
        value = self.raw.get(name)
        return None if value is None else value[1:].decode(errors="replace")

    def headers(self) -> RawTable:
        """The headers table, values undecoded."""
        return split_table(self.raw["headers"]) if "headers" in self.raw else {}

    def set_headers(self, table: RawTable) -> None:
        """Replace the headers table."""
        self.raw["headers"] = join_table(table)
