"""Reports as octets: the form in which this project's own processes send them (version 3 of the format).

Fields are at fixed places, so that a report of a fleet costs few octets and little time. ``docs/feedback.md`` has the
layout. What only people look at (distributions, texts) follows as JSON, now and then: a *brief* report leaves it out.
Other programs send JSON, which `backpressure.core.reports` reads and writes; nothing there depends on the form.
"""

from __future__ import annotations

from math import inf
from struct import Struct, error

COMPACT_VERSION = 3

_LARGEST = float(1 << 63)
_HEAD = 5  # version, role, and the lengths of host, id and queue
_PID_OCTETS = 4
_TEXTS = ("host", "id", "queue")


class Layout:
    """Where the numbers of one role are.

    Attributes:
        role: the second octet.
        struct: of all numbers, big-endian.
        whole: names of integers, in order; the first is the pid.
        real: names of the numbers with a fraction that follow.
        flags: names of the bits of the last octet, from the lowest on.
        optional: names of the numbers that may be unknown: the next bits say so.
        more: names of the bits after these.
        names: of everything in it.
    """

    __slots__ = ("flags", "more", "names", "optional", "real", "role", "struct", "whole")

    def __init__(
        self, role: bytes, whole: dict[str, str], real: dict[str, str], flags: str, optional: str, more: str = ""
    ) -> None:
        """``whole`` and ``real`` map a name to its `struct` format."""
        self.role = role
        self.whole, self.real = tuple(whole), tuple(real)
        self.flags = tuple(flags.split())
        self.optional = tuple(optional.split())
        self.more = tuple(more.split())
        self.names = {*_TEXTS, *whole, *real, *self.flags, *self.more}
        self.struct = Struct(">" + "".join(whole.values()) + "".join(real.values()) + "B")


CONSUMER = Layout(
    b"c",
    whole={
        "pid": "I", "at_ns": "Q", "processed": "Q", "delivered": "Q", "held": "I", "prefetch": "I", "failed": "I",
        "retried": "I", "dead_lettered": "I", "redelivered": "I", "duplicates": "I", "out_of_order": "I",
        "rss_bytes": "Q",
    },
    real={
        "interval_s": "f", "recent_s": "f", "recent": "f", "recent_busy_s": "f", "capacity_per_s": "f",
        "busy_s": "d", "service_sum_s": "d", "service_sum_s2": "d",
        "cpu_s": "d",
    },
    flags="paused prefetch_auto",
    optional="capacity_per_s",
)  # fmt: skip
PRODUCER = Layout(
    b"p",
    whole={
        "pid": "I", "session": "Q", "at_ns": "Q", "offered": "Q", "published": "Q", "confirmed": "Q", "nacked": "I",
        "rejected": "I", "returned": "I", "republished": "I", "blocked_events": "I", "in_flight": "I", "window": "I",
        "producers": "I", "rss_bytes": "Q",
    },
    real={
        "interval_s": "f", "target_rate_per_s": "f", "pacing_rate_per_s": "f", "usable_rate_per_s": "f", "weight": "f",
        "bottleneck_per_s": "f", "signal_age_s": "f", "tick_lateness_s": "f", "cpu_s": "d",
    },
    flags="application_limited blocked",
    optional="bottleneck_per_s signal_age_s tick_lateness_s",
    more="knows_sums",
)  # fmt: skip


def pack(layout: Layout, report: object, tail: bytes) -> bytes | None:
    """Return ``report`` as octets, followed by ``tail``; None if a value does not fit."""
    try:
        texts = [getattr(report, name).encode() for name in _TEXTS]
        head = bytes([COMPACT_VERSION, layout.role[0], *map(len, texts)])
        whole = [getattr(report, name) for name in layout.whole]
        real = [getattr(report, name) or 0.0 for name in layout.real]
        states = [*(getattr(report, name) for name in layout.flags)]
        states += [getattr(report, name) is None for name in layout.optional]
        states += (getattr(report, name) for name in layout.more)
        flags = sum(1 << bit for bit, state in enumerate(states) if state)
        numbers = layout.struct.pack(*whole, *real, flags)
    except (error, ValueError, OverflowError):
        return None
    return b"".join((head, *texts, numbers, tail))


def unpack(layout: Layout, data: bytes) -> tuple[dict[str, object], int]:
    """Return the values in ``data`` by name, and where the rest begins; raises `ValueError`."""
    try:
        host_at, id_at = _HEAD + data[2], _HEAD + data[2] + data[3]
        numbers_at = id_at + data[4]
        values: tuple[float, ...] = layout.struct.unpack_from(data, numbers_at)
    except (IndexError, error):
        raise ValueError("it is cut off") from None
    content: dict[str, object] = {
        "host": data[_HEAD:host_at].decode(),
        "id": data[host_at:id_at].decode(),
        "queue": data[id_at:numbers_at].decode(),
    }
    count = len(layout.whole)
    content.update(zip(layout.whole, values, strict=False))
    if max(values[:count]) > _LARGEST:
        raise ValueError("a count is out of range")
    real = values[count:-1]
    content.update(zip(layout.real, real, strict=True))
    if not (min(real) >= 0 and sum(real) <= _LARGEST):  # NaN fails as well
        _check(layout.real, real)
    flags = int(values[-1])
    for name in layout.flags:
        content[name] = bool(flags & 1)
        flags >>= 1
    if flags:
        content.update((name, None) for bit, name in enumerate(layout.optional) if flags >> bit & 1)
    flags >>= len(layout.optional)
    for name in layout.more:
        content[name] = bool(flags & 1)
        flags >>= 1
    return content, numbers_at + layout.struct.size


def _check(names: tuple[str, ...], values: tuple[float, ...]) -> None:
    for name, value in zip(names, values, strict=True):
        if not (0 <= value <= _LARGEST or (value == inf and name.endswith("_per_s"))):
            raise ValueError(f"{name} is out of range")


def sender_in(data: bytes) -> bytes:
    """Return the octets that all reports of one process begin with."""
    return data[: _HEAD + sum(data[2:_HEAD]) + _PID_OCTETS]
