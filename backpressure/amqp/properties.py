"""Content properties as raw octets: where each one is, what a field table holds, how to replace one.

A message's properties travel from publisher to consumer undecoded. The few the broker must understand (delivery mode,
expiration, headers) are found by walking lengths; the few it must change (``x-death``, ``x-delivery-count``) are
spliced in, so every other value keeps the exact type and octets its publisher gave it.
May not know: frames, messages, queues.

Source: AMQP 0-9-1 section 4.2.5.5 and 4.2.6.1, with RabbitMQ's errata of the field types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pamqp import decode

__all__ = [
    "Properties",
    "Raw",
    "Table",
    "Timestamp",
    "decode_value",
    "encode_value",
    "join_tables",
    "split_array",
    "split_table",
]

_SHORT, _LONG = struct.Struct(">H"), struct.Struct(">I")
_HEADER = struct.Struct(">HHQ")
_MAX_DEPTH = 64

Table = Mapping[str, object]
Raw = dict[bytes, bytes]
"""Field names to the octets of their values, type octet included."""

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
_LAYOUT = tuple((name, 0x8000 >> place, _FIXED.get(name)) for place, name in enumerate(_NAMES))
_VALUE_SIZES = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"sUu", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"lLdT", 8),
    ord("D"): 5,
    ord("V"): 0,
}


@dataclass(slots=True)
class Properties:
    """The properties of one message, each still in its octets (headers: with the table's length prefix)."""

    body_size: int
    raw: dict[str, bytes]

    @classmethod
    def parse(cls, payload: bytes) -> Properties:
        """Read a content header frame's payload; ValueError when its lengths do not add up."""
        try:
            return cls._parse(payload)
        except (IndexError, struct.error) as cause:
            raise ValueError("content header is truncated") from cause

    @classmethod
    def _parse(cls, payload: bytes) -> Properties:
        _, _, body_size = _HEADER.unpack_from(payload)
        (flags,) = _SHORT.unpack_from(payload, 12)
        if flags & 0x0003:
            raise ValueError("unknown property flags")
        position, end = 14, len(payload)
        raw: dict[str, bytes] = {}
        for name, bit, size in _LAYOUT:
            if flags & bit:
                start = position
                if size is not None:
                    position += size
                elif name == "headers":
                    position += _LONG.unpack_from(payload, position)[0] + 4
                else:
                    position += payload[position] + 1
                raw[name] = payload[start:position]
        if position != end:
            raise ValueError("properties do not fill the content header")
        if "headers" in raw:
            _check_table(raw["headers"], 4, len(raw["headers"]), _MAX_DEPTH)
        return cls(body_size, raw)

    def payload(self) -> bytes:
        """The content header frame's payload."""
        flags = sum(bit for name, bit, _ in _LAYOUT if name in self.raw)
        values = (self.raw[name] for name in _NAMES if name in self.raw)
        return b"".join((_HEADER.pack(60, 0, self.body_size), _SHORT.pack(flags), *values))

    @property
    def persistent(self) -> bool:
        """Whether the delivery mode is 2."""
        return self.raw.get("delivery_mode") == b"\x02"

    def text(self, name: str) -> str | None:
        """A short string property, or None when it is absent; undecodable octets are replaced."""
        value = self.raw.get(name)
        return None if value is None else value[1:].decode(errors="replace")

    def headers(self) -> Raw:
        """The headers table, values undecoded."""
        return split_table(self.raw["headers"]) if "headers" in self.raw else {}

    def set_headers(self, table: Raw) -> None:
        """Replace the headers table."""
        self.raw["headers"] = _join_table(table)


def split_table(table: bytes) -> Raw:
    """Field names and undecoded values of a table with its length prefix; ValueError when it is malformed."""
    fields: Raw = {}
    position, end = 4, len(table)
    while position < end:
        name_end = position + 1 + table[position]
        value_end = _value_end(table, name_end, end)
        fields[table[position + 1 : name_end]] = table[name_end:value_end]
        position = value_end
    return fields


def split_array(raw: bytes) -> list[bytes]:
    """The undecoded values of an array field, type octet included; none when the field is no array."""
    items: list[bytes] = []
    position = 5
    while raw[:1] == b"A" and position < len(raw):
        end = _value_end(raw, position, len(raw))
        items.append(raw[position:end])
        position = end
    return items


def join_tables(tables: Iterable[Raw]) -> bytes:
    """An array field of tables, type octet included."""
    items = b"".join(b"F" + _join_table(table) for table in tables)
    return b"A" + _LONG.pack(len(items)) + items


def decode_value(raw: bytes) -> object:
    """The Python value of an undecoded field; None for what cannot be decoded, such as a date beyond the calendar."""
    try:
        return decode.embedded_value(raw)[1]
    except (ValueError, OverflowError, OSError):
        return None


def encode_value(value: object) -> bytes:
    """A field value with its type octet, in the types RabbitMQ uses for its own headers (every integer is 64 bits).

    Raises TypeError for what the broker never sends.
    """
    match value:
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int():
            return b"l" + struct.pack(">q", value)
        case str():
            encoded = value.encode()
            return b"S" + _LONG.pack(len(encoded)) + encoded
        case Timestamp():
            return b"T" + struct.pack(">Q", value.epoch_s)
        case list():
            items = b"".join(map(encode_value, value))
            return b"A" + _LONG.pack(len(items)) + items
    raise TypeError(f"no field type for {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A point in time, in whole seconds since 1970: AMQP's type ``T``."""

    epoch_s: int


def _join_table(fields: Raw) -> bytes:
    body = b"".join(bytes((len(name),)) + name + value for name, value in fields.items())
    return _LONG.pack(len(body)) + body


def _value_end(data: bytes, start: int, limit: int) -> int:
    if start >= limit:
        raise ValueError("field value is truncated")
    kind = data[start]
    size = _VALUE_SIZES.get(kind)
    if size is None:
        if kind not in b"SxAF":
            raise ValueError(f"unknown field type {kind}")
        if start + 5 > limit:
            raise ValueError("field value is truncated")
        size = 4 + int(_LONG.unpack_from(data, start + 1)[0])
    end = start + 1 + size
    if end > limit:
        raise ValueError("field value is truncated")
    return end


def _check_table(data: bytes, start: int, end: int, depth: int) -> None:
    """Walk a table's fields, so that no consumer meets a table its broker let through broken."""
    if not depth:
        raise ValueError("tables are nested too deeply")
    position = start
    while position < end:
        position += 1 + data[position]
        position = _check_value(data, position, end, depth)


def _check_value(data: bytes, start: int, limit: int, depth: int) -> int:
    end = _value_end(data, start, limit)
    if data[start] == 0x46:  # F, a table
        _check_table(data, start + 5, end, depth - 1)
    elif data[start] == 0x41:  # A, an array
        if not depth:
            raise ValueError("arrays are nested too deeply")
        position = start + 5
        while position < end:
            position = _check_value(data, position, end, depth - 1)
    return end
