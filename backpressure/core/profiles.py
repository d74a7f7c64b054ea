"""How the offered load varies over time: bursts, a day, a table of rates.

A profile returns a share of the peak rate for each moment, and when that may change next. What makes the gaps between
messages even or random is the schedule's business.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

_STEP_S = 0.1
_HOURS = (22, 15, 11, 9, 9, 12, 22, 42, 66, 82, 90, 94, 96, 92, 88, 86, 88, 94, 100, 98, 86, 68, 48, 32)
"""Percent of the busiest hour, for each hour of a day: a quiet night, a plateau, an evening peak."""


class Profile:
    """The steady one; the others vary."""

    def share(self, at_s: float) -> float:  # noqa: ARG002 - others vary
        """Return the share of the peak rate that is offered ``at_s`` seconds after the start."""
        return 1.0

    def next_change_s(self, at_s: float) -> float:  # noqa: ARG002 - as above
        """Return when the share may change next; infinite: never."""
        return inf

    def peak_per_s(self) -> float | None:
        """Return the largest rate in messages a second, where the profile itself says it."""
        return None


@dataclass(frozen=True, slots=True)
class Bursts(Profile):
    """On and off in turns: everything for ``on_s``, then the share ``low`` for ``off_s``."""

    on_s: float = 1.0
    off_s: float = 4.0
    low: float = 0.0

    def share(self, at_s: float) -> float:
        """See `Profile.share`."""
        return 1.0 if at_s % (self.on_s + self.off_s) < self.on_s - 1e-9 else self.low

    def next_change_s(self, at_s: float) -> float:
        """See `Profile.next_change_s`."""
        period = self.on_s + self.off_s
        within = at_s % period
        return at_s - within + (self.on_s if within < self.on_s - 1e-9 else period)


@dataclass(frozen=True, slots=True)
class Day(Profile):
    """A day in ``length_s`` seconds, from midnight, over and over again."""

    length_s: float = 60.0

    def share(self, at_s: float) -> float:
        """See `Profile.share`."""
        hour = at_s % self.length_s / self.length_s * len(_HOURS)
        before, part = int(hour), hour % 1.0
        first, second = (_HOURS[index % len(_HOURS)] for index in (before, before + 1))
        return (first + (second - first) * part) / 100

    def next_change_s(self, at_s: float) -> float:
        """See `Profile.next_change_s`."""
        return at_s + _STEP_S


@dataclass(frozen=True, slots=True)
class RateTable(Profile):
    """Rates that were recorded: each holds from its time until the next one's; the last one stays."""

    times_s: tuple[float, ...]
    rates_per_s: tuple[float, ...]
    peak: float

    def share(self, at_s: float) -> float:
        """See `Profile.share`."""
        index = bisect_right(self.times_s, at_s + 1e-9) - 1
        return self.rates_per_s[index] / self.peak if index >= 0 else 0.0

    def next_change_s(self, at_s: float) -> float:
        """See `Profile.next_change_s`."""
        index = bisect_right(self.times_s, at_s + 1e-9)
        return self.times_s[index] if index < len(self.times_s) else inf

    def peak_per_s(self) -> float | None:
        """See `Profile.peak_per_s`."""
        return max(self.rates_per_s)


def read_rates(text: str, speed: float, peak_per_s: float) -> RateTable:
    """Return the profile in a CSV of seconds and messages a second, with or without a line of names.

    ``speed`` times faster than recorded; ``peak_per_s`` is the rate that a share of 1 stands for. Raises `ValueError`.
    """
    times: list[float] = []
    rates: list[float] = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        if not row or row[0].lstrip().startswith("#"):
            continue
        try:
            at_s, rate = float(row[0]), float(row[1])
        except (ValueError, IndexError):
            if number == 1:
                continue  # the names of the columns
            raise ValueError(f"line {number}: expected seconds and messages a second, with a comma between") from None
        if not 0 <= rate < inf or (times and at_s / speed <= times[-1]):
            raise ValueError(f"line {number}: times have to rise, and rates cannot be negative")
        times.append(at_s / speed)
        rates.append(rate)
    if not times or max(rates) <= 0:
        raise ValueError("there is no rate above 0 in it")
    first = times[0]
    return RateTable(tuple(at_s - first for at_s in times), tuple(rates), peak_per_s)


_KINDS: Mapping[str, tuple[type, tuple[str, ...]]] = {
    "bursts": (Bursts, ("on_s", "off_s", "low")),
    "day": (Day, ("length_s",)),
    "table": (RateTable, ("file", "speed")),
}
_EXAMPLES = "steady, bursts:on_s=1,off_s=4, day:length_s=60 or table:file=rates.csv,speed=60"


def parse_profile(text: str, peak_per_s: float, read: Callable[[str], str] | None = None) -> Profile:
    """Return the profile that ``text`` asks for; ``read`` returns the text of a file, None: do not look.

    Raises `ValueError`, and whatever ``read`` raises.
    """
    name, _, rest = text.partition(":")
    if name in {"", "steady"} and not rest:
        return Profile()
    if name not in _KINDS:
        raise ValueError(f"expected {_EXAMPLES}")
    kind, known = _KINDS[name]
    given: dict[str, str] = {}
    for assignment in filter(None, map(str.strip, rest.split(","))):
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals or key not in known:
            raise ValueError(f"{name} takes {', '.join(f'{one}=…' for one in known)}")
        given[key] = value
    numbers = {key: _positive(key, value) for key, value in given.items() if key != "file"}
    if kind is RateTable:
        if not given.get("file"):
            raise ValueError("table needs file=rates.csv")
        if read is None:
            return Profile()
        return read_rates(read(given["file"]), numbers.get("speed", 1.0), peak_per_s)
    profile: Profile = kind(**numbers)
    return profile


def _positive(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 < value < 1e9 or (key == "low" and 0 <= value <= 1)):
        raise ValueError(f"{key}: expected a number above 0, not {text!r}")
    return value
