"""Sums: what a few producers of a large fleet tell all others, so that not everybody has to hear everybody.

Every producer of a queue hears every report as long as they are few. In a large fleet only two of them do. They tell
the others what all reports add up to, in a `FleetSum`. There is no coordinator. Whoever hears all reports knows all
producers, so the two agree who they are: those with the lowest sessions. Each sum names both, so the others know it,
too. The first one sends sums; the second sends few, and as many once the first is silent. Whoever hears no sums for a
while listens to all reports, as in a small fleet. `FleetRole` decides all this for one producer.

A sum is octets, like compact reports: version, ``s``, length and name of the queue, and numbers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from enum import IntEnum
from math import inf, sqrt
from struct import Struct, error

from backpressure.core.compact_reports import COMPACT_VERSION
from backpressure.core.reports import ASK_EVERY, MOST_DELIVERIES_PER_S, Early, report_interval_s
from backpressure.errors import FeedbackError

SEATS = 2
SUMS_SUFFIX = ".sums"
"""What the name of the exchange for sums has behind that of the exchange for reports."""
_ROLE = b"s"
_LARGEST = float(1 << 63)
_LARGE_S = 0.5  # a fleet is large if each would report as rarely as this to everybody
_SMALL_S = 0.3
_FEW_PRODUCERS = 4  # hear all reports, however many consumers there are
_MISSED = 2.5
_SPARE = 4  # the second one sends one sum of so many
_GRACE_S = 0.3
_SETTLED = 2.0  # intervals, after which everybody has reported
_USUAL_S = 0.1
_EARLY_SUMS = 8.0  # intervals
_PLANNED = 0.95  # of all deliveries: those who join, leave, or tell of a change, come on top
_AGAIN = 2  # usual intervals, after which what was just learnt of a change is told once more


@dataclass(slots=True, kw_only=True)  # not frozen: that takes three times as long to make
class FleetSum:
    """What all reports of a queue added up to, for the producer ``session`` at its time ``at_ns``.

    ``departed``, ``observed_s``, ``busy_s`` and ``told_s`` are the totals of `Signals`, so only differences between two
    sums of one sender count; ``confirmed`` is what was confirmed to all producers. ``departed_age_s`` and ``newest_s``
    are how old the reports were: on average, and the newest one. ``reporting`` consumers report every ``interval_s``,
    and ``working`` of them are not paused; they hold ``held`` messages. ``service_cv2`` and ``service_mean_s``: of
    recent service times; 0: not known.

    ``producers`` share what all send, ``flow_per_s``: those with ``weights`` together are limited by their laws alone,
    and send ``left_per_s``. ``first`` and ``second`` are the sessions of those who send sums.

    ``bottleneck_per_s`` is what the one who sends it takes the rate of all consumers for; 0: not known.
    It keeps ``extra`` messages queued because consumers lack work without them.

    ``counted_ready`` and ``counted_unacked`` are what the broker counted ``counted_age_s`` before; without such a
    count, the age is infinite. The next sum follows in ``next_s``. Every process reports every ``report_s``.
    """

    queue: str
    session: int
    first: int
    second: int
    at_ns: int
    confirmed: int
    departed: float
    observed_s: float
    busy_s: float
    told_s: float
    reporting: int
    working: int
    held: int
    producers: int
    counted_ready: int
    counted_unacked: int
    counted_age_s: float
    departed_age_s: float
    newest_s: float
    interval_s: float
    service_mean_s: float
    service_cv2: float
    flow_per_s: float
    left_per_s: float
    weights: float
    bottleneck_per_s: float
    extra: float
    next_s: float
    report_s: float
    guests: bool = False


_NAMES = tuple(spec.name for spec in fields(FleetSum))[1:]
_FORMAT = Struct(">5Q4d6I13f?")
_ENDLESS = {"counted_age_s", "departed_age_s", "newest_s"}


class SumNews(IntEnum):
    """What a sum means for a producer: it goes by another one, or by this, or by this and it tells of another rate."""

    NONE = 0
    USUAL = 1
    CHANGE = 2


def encode_sum(sum_: FleetSum) -> bytes:
    """Return ``sum_`` as octets; raises `ValueError` for a number that does not fit."""
    queue = sum_.queue.encode()
    try:
        head = bytes([COMPACT_VERSION, _ROLE[0], len(queue)])
        return head + queue + _FORMAT.pack(*(getattr(sum_, name) for name in _NAMES))
    except (error, OverflowError) as reason:
        raise ValueError(f"not a sum that can be told: {reason}") from None


def is_sum(data: bytes) -> bool:
    """Return whether ``data`` is a sum, not a report."""
    return data[1:2] == _ROLE and data[:1] != b"{"


def decode_sum(data: bytes) -> FleetSum:
    """Return the sum in ``data``; raises `FeedbackError` when it is not one that this version understands."""
    if data[:2] != bytes([COMPACT_VERSION]) + _ROLE:
        raise FeedbackError("not a sum of feedback reports of this version")
    try:
        begin = 3 + data[2]
        queue, values = data[3:begin].decode(), _FORMAT.unpack_from(data, begin)
    except (IndexError, error, UnicodeDecodeError):
        raise FeedbackError("not a sum of feedback reports: it is cut off") from None
    if not (min(values) >= 0 and sum(values) <= _LARGEST):  # NaN fails as well
        _check(values)
    return FleetSum(queue=queue, **dict(zip(_NAMES, values, strict=True)))


def _check(values: tuple[float, ...]) -> None:
    for name, value in zip(_NAMES, values, strict=True):
        if not (0 <= value <= _LARGEST or (value == inf and name in _ENDLESS)):
            raise FeedbackError(f"not a sum of feedback reports: {name} is out of range")


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How many processes of a queue report, and how many producers hear all of them whatever the fleet's size."""

    consumers: int
    producers: int
    old_listeners: int = 0

    @property
    def usual_interval_s(self) -> float:
        """How often each would report if everybody heard everybody."""
        return report_interval_s(self.consumers, self.producers, 0.0)

    def intervals_s(self, usual_s: float) -> tuple[float, float]:
        """Return how often each process reports, and how often a sum follows, where a few add up for all.

        Reports cost N·L/T deliveries a second, with L listeners: those who sum, a monitor, and those that know no sums;
        and answers to C consumers C/10T. Sums cost (1 + ¼)·(P + 1)/S. With T and S as the roots of what each costs,
        their sum is the shortest one within the bound, of which a twentieth is left for what cannot be planned.
        """
        listeners = SEATS + 1 + self.old_listeners
        heard = (self.consumers + self.producers) * listeners + self.consumers / ASK_EVERY
        told = (1 + 1 / _SPARE) * self.producers
        planned_per_s = _PLANNED * MOST_DELIVERIES_PER_S
        best_s = sqrt(told) * (sqrt(heard) + sqrt(told)) / planned_per_s
        sum_s = usual_s * max(1, round(best_s / usual_s))
        return max(usual_s, heard / (planned_per_s - told / sum_s)), sum_s


class FleetRole:
    """Whether one producer listens to all reports, sends sums, or goes by the sums of others.

    Attributes:
        possible: whether there is a way for sums; otherwise it hears all reports, as in a small fleet.
        listens: whether it has to hear all reports.
        hears_sums: whether it has to hear sums.
        adds_up: whether it sends sums.
        seats: the sessions of those who do.
        report_every_s: how often every process reports; None: as rarely as where everybody hears everybody.
        first: whether it is the one that speaks for all; others notice soon if it is gone.
    """

    def __init__(self, session: int, usual_s: float = _USUAL_S) -> None:
        """``session`` is its own; processes report every ``usual_s`` where they are few."""
        self._session = session
        self._usual_s = usual_s
        self._heard: dict[int, tuple[FleetSum, float]] = {}
        self._listens_since: float | None = None
        self._hears_since = inf
        self._sent_at = -inf
        self._sum_every_s = usual_s
        self._early = Early(_EARLY_SUMS)
        self._next_sum_s = 0.0
        self._again_s = self._again_at = inf
        self._large = False
        self.possible = False
        self.listens = True
        self.adds_up = False
        self.seats: tuple[int, ...] = ()
        self.report_every_s: float | None = None
        self.first = False

    @property
    def leader(self) -> FleetSum | None:
        """The sum that it goes by; None: it goes by the reports that it hears."""
        return None if self.adds_up or not self._large or not self._heard else self._heard[min(self._heard)][0]

    @property
    def hears_sums(self) -> bool:
        """Whether it has to hear sums."""
        return self._large

    def on_sum(self, sum_: FleetSum, now: float) -> None:
        """Take in what another producer has summed."""
        if sum_.session != self._session:
            self._heard[sum_.session] = sum_, now

    def update(self, size: FleetSize, sessions: Collection[int], now: float) -> None:
        """Decide at ``now``.

        ``size`` and the other producers' ``sessions`` are what reports tell; what they do not tell is in sums.
        """
        self.first = self._session < min(sessions, default=inf)
        if not self.possible:
            return
        self._heard = {
            session: (sum_, at)
            for session, (sum_, at) in self._heard.items()
            if now - at < _MISSED * sum_.next_s + _GRACE_S
        }
        told = self._heard[min(self._heard)][0] if self._heard else None
        if self._listens_since is None:
            self._listens_since = now
        settled_s = max(_GRACE_S, 1.5 * self._sum_every_s) if told is None else _SETTLED * told.report_s
        since = self._hears_since if told is None else self._listens_since
        knows = self.adds_up or (self.listens and now - since >= settled_s)
        seats: tuple[int, ...]
        if told is not None and not knows:
            size, seats, report_every_s = (
                FleetSize(told.reporting, told.producers),
                (told.first, told.second),
                told.report_s,
            )
        else:
            seats = tuple(sorted({self._session, *sessions})[:SEATS])
            report_every_s, self._sum_every_s = size.intervals_s(self._usual_s)
        usual_s = size.usual_interval_s if size.producers > _FEW_PRODUCERS else 0.0
        self._large = usual_s > (_SMALL_S if self._large else _LARGE_S)
        if not self._large:
            self._hears_since = inf
        elif self._hears_since == inf:
            self._hears_since = now
        self.seats = seats if self._large else ()
        self.report_every_s = report_every_s if self._large else None
        seated = self._session in self.seats
        self.adds_up = seated and knows
        if self._large:
            self.first = self.adds_up and self._session < min(self._heard, default=inf)
        listens = seated or told is None or not self._large
        if listens and not self.listens:
            self._listens_since = now
        self.listens = listens

    def next_sum_s(self, now: float, *, news: bool = False) -> float | None:
        """Return after how long the sum after this one is to be sent; None: none is due at ``now``.

        ``news``: what all others go by is not true any more; that is told at once by the first. What is known just
        after a change is rough, and all act on it until the next sum. So others follow, each after twice as long as
        the one before, until that is as long as usual.
        """
        first = self._session < min(self._heard, default=inf)
        every_s = self._sum_every_s * (1 if first else _SPARE)
        due_at = self._sent_at + min(self._next_sum_s or every_s, 1.5 * every_s)
        early = first and (news or now >= self._again_at - self._usual_s / 2)
        if not self.adds_up or (now < due_at and not (early and self._early.take(due_at - now, every_s))):
            return None
        self._again_s = _AGAIN * self._usual_s if news else 2 * self._again_s
        self._again_at = now + self._again_s if self._again_s < every_s else inf
        self._sent_at = max(due_at, now - every_s / 2) if now >= due_at else now
        self._next_sum_s = self._early.next_s(every_s) if first else every_s
        return self._next_sum_s
