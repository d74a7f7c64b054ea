"""Content properties: as raw octets, of which single ones can be found and replaced, and as Python values.

A message's properties travel from publisher to consumer undecoded. The few that must be understood (delivery mode,
expiration, headers) are found by walking lengths; the few that must be changed (``x-death``, ``x-delivery-count``) are
spliced in, so every other value keeps the exact type and octets its publisher gave it.

A consumer reads properties and headers without ever failing. Other programs may publish anything: a time beyond the
calendar, text that is not UTF-8, an unknown type. Reading takes what it can and leaves out the rest, because a
delivered message must be processed in spite of bad metadata. Times are `datetime`, and a long string that is not UTF-8
is bytes, as client libraries have them.
Must not know: frames, messages, queues.

Source: AMQP 0-9-1 sections 4.2.5 and 4.2.6, with RabbitMQ's errata of the field types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from backpressure.amqp.field_tables import (
    MAX_DEPTH,
    RawTable,
    check_table,
    decode_value,
    join_table,
    split_table,
    value_end,
)
from backpressure.amqp.frames import BASIC

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


UNREADABLE = object()
"""Stands for a value that is there and cannot be read."""

_SHORT, _LONG, _CLOCK = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_FLAGS_AT, _PROPERTIES_AT = 12, 14
_MORE_FLAGS = 1


def read_properties(payload: bytes) -> dict[str, object]:
    """Return the properties in a content header frame's payload, by name; what cannot be read is absent."""
    known: dict[str, object] = {}
    try:
        (flags,) = _SHORT.unpack_from(payload, _FLAGS_AT)
        at, more = _PROPERTIES_AT, flags
        while more & _MORE_FLAGS:
            (more,) = _SHORT.unpack_from(payload, at)
            at += 2
        for name, bit, size in LAYOUT:
            if flags & bit:
                if name == "headers":
                    start, at = at + 4, at + 4 + _LONG.unpack_from(payload, at)[0]
                    known[name] = read_table(payload, start, min(at, len(payload)))
                elif size is None:
                    start, at = at + 1, at + 1 + payload[at]
                    known[name] = _text(payload[start:at]) if at <= len(payload) else UNREADABLE
                else:
                    start, at = at, at + size
                    known[name] = int.from_bytes(payload[start:at], "big") if at <= len(payload) else UNREADABLE
    except (IndexError, struct.error):  # it ends in the middle
        pass
    return {name: value for name, value in known.items() if value is not UNREADABLE}


def read_table(data: bytes, start: int, end: int, depth: int = MAX_DEPTH) -> dict[str, object]:
    """Return the fields between ``start`` and ``end``, up to the first whose length is not known."""
    table: dict[str, object] = {}
    at = start
    while at < end:
        name_end = at + 1 + data[at]
        try:
            following = value_end(data, name_end, end)
        except ValueError:
            break
        name, value = _text(data[at + 1 : name_end]), read_value(data, name_end, following, depth)
        if isinstance(name, str) and value is not UNREADABLE:
            table[name] = value
        at = following
    return table


def read_value(data: bytes, start: int, end: int, depth: int = MAX_DEPTH) -> object:
    """Return the value whose type octet is at ``start``, or `UNREADABLE`; `value_end` tells where it ends."""
    kind = data[start]
    reader = _READERS.get(kind)
    if reader is not None:
        return reader(data, start + 1, end, depth - 1) if depth else UNREADABLE
    value = decode_value(data[start:end])
    return UNREADABLE if value is None and kind != _NOTHING else value


def _read_text(data: bytes, at: int, end: int, _depth: int) -> object:
    octets = data[at + 4 : end]
    text = _text(octets)
    return octets if text is UNREADABLE else text


def _read_time(data: bytes, at: int, _end: int, _depth: int) -> object:
    try:
        return datetime.fromtimestamp(_CLOCK.unpack_from(data, at)[0], UTC)
    except (ValueError, OverflowError, OSError):  # beyond the calendar: milliseconds, as a rule
        return UNREADABLE


def _read_array(data: bytes, at: int, end: int, depth: int) -> object:
    items: list[object] = []
    at += 4
    while at < end:
        try:
            following = value_end(data, at, end)
        except ValueError:
            break
        item = read_value(data, at, following, depth)
        items.append(None if item is UNREADABLE else item)  # the others keep their places
        at = following
    return items


def _text(octets: bytes) -> object:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return UNREADABLE


_NOTHING = ord("V")
_READERS: dict[int, Callable[[bytes, int, int, int], object]] = {
    ord("S"): _read_text,
    ord("T"): _read_time,
    ord("F"): lambda data, at, end, depth: read_table(data, at + 4, end, depth),
    ord("A"): _read_array,
}
