"""Properties and headers of a received message as Python values, read without ever failing.

Other programs may publish anything: a time beyond the calendar, text that is not UTF-8, an unknown type. Reading
takes what it can and leaves out the rest, because a delivered message must be processed in spite of bad metadata.
Times are `datetime`, and a long string that is not UTF-8 is bytes, as client libraries have them.
Must not know: frames, methods.

Source: AMQP 0-9-1 sections 4.2.5 and 4.2.6, with RabbitMQ's errata of the field types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime

from backpressure.amqp.field_tables import MAX_DEPTH, decode_value, value_end
from backpressure.amqp.properties import LAYOUT

__all__ = ["UNREADABLE", "read_properties", "read_table", "read_value"]

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
