"""Field tables and their values, decoded and in their octets.

A table has two views. Undecoded (`split_table`), every value keeps the type and octets that its sender chose; this
view is passed on. Decoded (`decode_table`), values are read; one without a meaning in Python is None, so that reading
never fails.

Source: AMQP 0-9-1 section 4.2.5.5, with RabbitMQ's errata of the field types.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

MAX_DEPTH = 220
"""Tables and arrays nested more deeply are refused, because readers are recursive."""

Table = Mapping[str, object]
RawTable = dict[bytes, bytes]
"""Field names to the octets of their values, type octet included."""

_LENGTH = struct.Struct(">I")
_DECIMAL = struct.Struct(">Bi")
_NUMBERS = {
    ord(kind): struct.Struct(code)
    for kind, code in {
        "b": ">b",
        "B": ">B",
        "s": ">h",
        "U": ">h",
        "u": ">H",
        "I": ">i",
        "i": ">I",
        "l": ">q",
        "L": ">q",  # RabbitMQ reads it as signed
        "T": ">Q",
        "f": ">f",
        "d": ">d",
    }.items()
}
_SIZES = {kind: number.size for kind, number in _NUMBERS.items()} | {ord("t"): 1, ord("D"): 5, ord("V"): 0}
_SMALLEST, _LARGEST = -(1 << 31), (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A point in time, in whole seconds since 1970, to be encoded as AMQP's type ``T``."""

    epoch_s: int


@dataclass(frozen=True, slots=True)
class Long:
    """An integer that is always encoded in 64 bits, as RabbitMQ does in its own headers."""

    number: int


class FieldTable(dict[str, object]):
    """A received table: its values for reading, and its octets for storing and passing on."""

    __slots__ = ("octets",)

    def __init__(self, octets: bytes) -> None:
        """``octets`` begin with the table's length; `ValueError` when they do not add up."""
        check_table(octets)
        super().__init__(decode_table(octets))
        self.octets = octets


def octets_of(table: Table) -> bytes:
    """Return the octets of a table with its length prefix: as received, or else encoded."""
    return table.octets if isinstance(table, FieldTable) else encode_table(table)


# -- undecoded -------------------------------------------------------------------------------------------------------


def check_table(table: bytes) -> None:
    """Walk all of a table with its length prefix; `ValueError` when it is malformed or nested too deeply."""
    if len(table) < 4 or _LENGTH.unpack_from(table)[0] != len(table) - 4:
        raise ValueError("the table's length is wrong")
    _check_fields(table, 4, len(table), MAX_DEPTH)


def split_table(table: bytes) -> RawTable:
    """Field names and undecoded values of a table with its length prefix; `ValueError` when it is malformed."""
    fields: RawTable = {}
    position, end = 4, len(table)
    while position < end:
        name_end = position + 1 + table[position]
        following = value_end(table, name_end, end)
        fields[table[position + 1 : name_end]] = table[name_end:following]
        position = following
    return fields


def split_array(raw: bytes) -> list[bytes]:
    """The undecoded values of an array field, type octet included; none when the field is not an array."""
    items: list[bytes] = []
    position = 5
    while raw[:1] == b"A" and position < len(raw):
        end = value_end(raw, position, len(raw))
        items.append(raw[position:end])
        position = end
    return items


def join_table(fields: RawTable) -> bytes:
    """The table of these undecoded fields, with its length prefix."""
    body = b"".join(bytes((len(name),)) + name + value for name, value in fields.items())
    return _LENGTH.pack(len(body)) + body


def join_tables(tables: Iterable[RawTable]) -> bytes:
    """An array field of tables, type octet included."""
    items = b"".join(b"F" + join_table(table) for table in tables)
    return b"A" + _LENGTH.pack(len(items)) + items


def value_end(data: bytes, start: int, limit: int) -> int:
    """Where the field value at ``start`` ends; `ValueError` for an unknown type or an end beyond ``limit``."""
    if start >= limit:
        raise ValueError("field value is truncated")
    kind = data[start]
    size = _SIZES.get(kind)
    if size is None:
        if kind not in b"SxAF":
            raise ValueError(f"unknown field type {kind}")
        if start + 5 > limit:
            raise ValueError("field value is truncated")
        size = 4 + int(_LENGTH.unpack_from(data, start + 1)[0])
    end = start + 1 + size
    if end > limit:
        raise ValueError("field value is truncated")
    return end


def _check_fields(data: bytes, start: int, end: int, depth: int) -> None:
    if not depth:
        raise ValueError("tables are nested too deeply")
    position = start
    while position < end:
        position += 1 + data[position]
        position = _check_value(data, position, end, depth)


def _check_value(data: bytes, start: int, limit: int, depth: int) -> int:
    end = value_end(data, start, limit)
    if data[start] == 0x46:  # F, a table
        _check_fields(data, start + 5, end, depth - 1)
    elif data[start] == 0x41:  # A, an array
        if not depth:
            raise ValueError("arrays are nested too deeply")
        position = start + 5
        while position < end:
            position = _check_value(data, position, end, depth - 1)
    return end


# -- decoded ---------------------------------------------------------------------------------------------------------


def decode_table(table: bytes) -> dict[str, object]:
    """The decoded fields of a table with its length prefix, by their names; see `decode_value`."""
    return {name.decode(errors="surrogateescape"): decode_value(raw) for name, raw in split_table(table).items()}


def decode_value(raw: bytes) -> object:
    """The Python value of an undecoded field that `check_table` has walked.

    Text that is not UTF-8 is read with ``surrogateescape``, from which its octets can be got back. Points in time are
    whole seconds since 1970, unsigned, however far away. No value, and a number that is not finite, are None.
    """
    kind = raw[:1]
    if kind == b"S":
        return raw[5:].decode(errors="surrogateescape")
    if kind == b"F":
        return decode_table(raw[1:])
    if kind == b"A":
        return [decode_value(item) for item in split_array(raw)]
    if kind == b"x":
        return raw[5:]
    return _number(raw) if raw else None


def _number(raw: bytes) -> object:
    number = _NUMBERS.get(raw[0])
    if number is not None:
        (value,) = number.unpack_from(raw, 1)
        return value if math.isfinite(value) else None
    if raw[0] == 0x74:  # t, a boolean
        return raw[1] != 0
    if raw[0] == 0x44:  # D, a decimal
        scale, digits = _DECIMAL.unpack_from(raw, 1)
        return Decimal(digits).scaleb(-scale)
    return None


# -- encoding --------------------------------------------------------------------------------------------------------


def short_string(text: str) -> bytes:
    """A short string with its length octet; `ValueError` for more than 255 octets."""
    octets = text.encode(errors="surrogateescape")
    if len(octets) > 255:
        raise ValueError(f"{len(octets)} octets are too many for a short string")
    return bytes((len(octets),)) + octets


def encode_table(table: Table) -> bytes:
    """A table with its length prefix; raises as `encode_value`."""
    body = b"".join(short_string(name) + encode_value(value) for name, value in table.items())
    return _LENGTH.pack(len(body)) + body


def encode_value(value: object) -> bytes:
    """A field value with its type octet.

    Raises:
        TypeError: AMQP has no type for it.
        ValueError: it is a number of more than 64 bits, or its text cannot be encoded.
    """
    for kind, encode in _ENCODERS:
        if isinstance(value, kind):
            return encode(value)
    raise TypeError(f"AMQP has no field type for {type(value).__name__}")


def _sized(kind: bytes, octets: bytes) -> bytes:
    return kind + _LENGTH.pack(len(octets)) + octets


def _integer(number: int, *, short: bool) -> bytes:
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{number} has more than 64 bits")
    return b"I" + struct.pack(">i", number) if short else b"l" + struct.pack(">q", number)


def _decimal(value: Decimal) -> bytes:
    if not value.is_finite():
        raise ValueError(f"{value} is not a number")
    exponent = int(value.as_tuple().exponent)
    scale = max(-exponent, 0)
    digits = int(value.scaleb(scale))
    if scale > 255 or not _SMALLEST <= digits <= _LARGEST:
        raise ValueError(f"{value} has more digits than a decimal field")
    return b"D" + _DECIMAL.pack(scale, digits)


def _time(value: datetime) -> bytes:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return b"T" + struct.pack(">Q", max(int(aware.timestamp()), 0))


_ENCODERS: tuple[tuple[type, Callable[[Any], bytes]], ...] = (
    (str, lambda text: _sized(b"S", text.encode(errors="surrogateescape"))),
    (bool, lambda truth: b"t\x01" if truth else b"t\x00"),
    (int, lambda number: _integer(number, short=_SMALLEST <= number <= _LARGEST)),
    (Long, lambda long: _integer(long.number, short=False)),
    (float, lambda number: b"d" + struct.pack(">d", number)),
    (type(None), lambda _none: b"V"),
    (bytes, lambda octets: _sized(b"x", octets)),
    (bytearray, lambda octets: _sized(b"x", bytes(octets))),
    (Timestamp, lambda time: b"T" + struct.pack(">Q", time.epoch_s)),
    (datetime, _time),
    (Decimal, _decimal),
    (list, lambda items: _sized(b"A", b"".join(map(encode_value, items)))),
    (tuple, lambda items: _sized(b"A", b"".join(map(encode_value, items)))),
    (Mapping, lambda table: b"F" + encode_table(table)),
)
"""Tried in this order: a boolean is an integer too."""
