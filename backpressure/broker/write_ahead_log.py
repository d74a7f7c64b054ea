"""Whether a write-ahead log of SQLite can be read to its end.

SQLite reads a log up to the first frame with a wrong checksum, and silently drops the rest. That is right after a crash
in the middle of the last write, but wrong for a log that was damaged later, because confirmed messages may follow. In
the second case there are complete writes after the broken place. Must not know: what is in the database.

Source: the SQLite file format, chapter 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["LogDamage", "find_damage"]

_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page, pages of the database after a commit or 0, two salts, two checksums
_BIG_ENDIAN, _LITTLE_ENDIAN = 0x377F0683, 0x377F0682
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class LogDamage:
    """Where reading ends, and how much is lost."""

    offset: int
    """The octet at which the first unreadable frame begins."""
    commits: int
    """How many transactions the log holds."""
    lost: int
    """How many of them cannot be read."""


def find_damage(log: bytes) -> LogDamage | None:
    """Return the damage of a log; None if there is none, or only an unfinished last write."""
    if len(log) < _HEADER.size:
        return None
    magic, _, page_size, _, *rest = _HEADER.unpack_from(log)
    salts, checksums = tuple(rest[:2]), tuple(rest[2:])
    order = {_BIG_ENDIAN: ">", _LITTLE_ENDIAN: "<"}.get(magic)
    if order is None or _checksum(order, log[:24], (0, 0)) != checksums:
        return LogDamage(0, 0, 0) if len(log) > _HEADER.size else None
    size = _FRAME.size + page_size
    starts = range(_HEADER.size, len(log) - size + 1, size)
    frames = [(start, *_FRAME.unpack_from(log, start)) for start in starts]
    commits = [start for start, _, pages, *found, _, _ in frames if pages and tuple(found) == salts]
    for start, _, _, *found in frames:
        checksums = _checksum(order, log[start : start + 8], checksums)
        checksums = _checksum(order, log[start + _FRAME.size : start + size], checksums)
        if tuple(found) != (*salts, *checksums):
            lost = sum(commit >= start for commit in commits)
            return LogDamage(start, len(commits), lost) if lost else None
    return None


def _checksum(order: str, octets: bytes, seed: tuple[int, int]) -> tuple[int, int]:
    """Continue the Fibonacci-weighted checksum over pairs of 32-bit words."""
    one, two = seed
    words = iter(struct.unpack(f"{order}{len(octets) // 4}I", octets))
    for word in words:
        one = (one + word + two) & _MASK
        two = (two + next(words) + one) & _MASK
    return one, two
