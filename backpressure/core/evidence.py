"""What a broker tells of a queue whose consumers do not report, and the moment each number speaks of.

Numbers of different moments are never added. `BacklogCounts` turns them into counts of everything in the system, each
exact at its moment.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import fmean

from backpressure.core.filters import Timeline
from backpressure.core.signals import SignalQuality

_USUAL_INTERVAL_S = 5.0  # RabbitMQ's and Kafka's default
_GAPS = 8
_LATE = 1.15
_ALIKE = 1.5  # times the time between two answers: so far may two equal gaps be apart
_FRESH_S = 1.0
_OFTEN_S = 0.5
_INTERVALS_MISSED = 3
_LONGEST_INTERVAL_S = 30.0
_HISTORY_S = 60.0
_GRACE_S = 3.0
_UNKNOWN = "what consumers hold is not known"
_LET_REPORT = "let the consumers report"
_NO_COUNTS = f"only what is ready is told; {_LET_REPORT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """``ready`` and ``unacked`` of one moment, as a broker answered at ``arrived_s``.

    If they were counted for this answer (``fresh``), that is their moment. Otherwise it is inferred from when the
    answers change, so unchanged ones count too. ``collected``: between the moment and the change lies up to another
    period (the management API's collector, unlike the queue's own tick).
    """

    ready: int
    unacked: int
    arrived_s: float
    fresh: bool = False
    collected: bool = False


class LateCommits:
    """Notices that commits have stalled, by the consumers' reports.

    The depth of a topic is what is behind its commits. While the broker that takes them hesitates, or another one
    takes over, consumers go on, and their queue seems to grow.
    """

    def __init__(self) -> None:
        self._left = -1
        self._departed = self._told = 0.0
        self._told_at = -inf

    def stalled(self, left: int, departed: float, now: float) -> bool:
        """Return whether more is done by reports, ``departed``, than by commits, ``left``; only growth counts.

        A report may tell later than a commit that a message was done: one more is no sign. Consumers of which nothing
        has been heard for a second may have stopped.
        """
        if left != self._left:
            self._left, self._departed = left, departed
        if departed != self._told:
            self._told, self._told_at = departed, now
        return departed - self._departed > 1 and now - self._told_at <= _FRESH_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerTerms:
    """On what terms ``count`` consumers get messages.

    ``prefetch`` is what they may hold together; None: at least one of them has no limit. ``auto_ack`` of them settle
    a message when it is delivered to them: nothing tells when their work ends.
    """

    count: int
    prefetch: int | None
    auto_ack: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetReading:
    """The ends of a topic's partitions at ``arrived_s``, and what the group has committed, which grows in steps."""

    ends: tuple[int, ...]
    committed: tuple[int, ...]
    arrived_s: float


class Steps:
    """Finds out when a value was counted that is told many times and counted rarely, at even intervals.

    A value that changes between two answers was counted between them. One that does not change when the next count is
    due was counted again and found the same. The interval is the mean of the shortest of the last ones between two
    changes, as far as only the moments of the answers make them differ: in a longer one, a count found no change.

    Attributes:
        interval_s: how far apart the counts are.
    """

    def __init__(self, interval_s: float = _USUAL_INTERVAL_S) -> None:
        """``interval_s`` is assumed until it is seen."""
        self.interval_s = interval_s
        self._value: object = None
        self._asked_s: float | None = None
        self._moment_s = -inf
        self._known = False
        self._changed_s: float | None = None
        self._gaps: deque[float] = deque(maxlen=_GAPS)

    def see(self, value: object, arrived_s: float) -> float | None:
        """Return the moment at which ``value`` was counted; None: it is not known."""
        asked_s, self._asked_s = self._asked_s, arrived_s
        if asked_s is None:
            self._value, self._moment_s = value, arrived_s - self.interval_s / 2
            return None
        gap_s = min(arrived_s - asked_s, self.interval_s)
        if value != self._value:
            self._value, self._moment_s = value, arrived_s - gap_s / 2
            if self._changed_s is not None:
                self._gaps.append(self._moment_s - self._changed_s)
                self.interval_s = self._usual_s(gap_s)
            self._changed_s, self._known = self._moment_s, True
        # Until it has changed once, nothing tells when in each interval it is counted: the middle is nearest as a rule.
        due_s = (_LATE if self._changed_s is not None else 1.5) * self.interval_s + gap_s
        while arrived_s - self._moment_s > due_s:
            self._moment_s += self.interval_s
            self._known = True
        return self._moment_s if self._known else None

    def _usual_s(self, gap_s: float) -> float:
        """Return how far apart counts are, by the last gaps between changes.

        Some gaps are longer, because a count found no change. The shortest ones that are alike count; one that is alone
        does not: a consumer also commits when it leaves, or its group changes.
        """
        gaps = sorted(self._gaps)
        for least_s, next_s in pairwise(gaps):
            if next_s <= least_s + _ALIKE * min(gap_s, least_s):
                break
        else:
            least_s = gaps[0]
        longest_s = least_s + _ALIKE * min(gap_s, least_s)
        return fmean(each_s for each_s in gaps if least_s <= each_s <= longest_s)

    @property
    def next_s(self) -> float:
        """When the next count is due; -∞ as long as that is not known."""
        return -inf if self._changed_s is None else self._moment_s + self.interval_s


class _Partition:
    """One partition of a topic: how much of it is not committed, and since when that is known.

    Attributes:
        steps: finds out when it was committed.
        moment_s: when the last commit was made; None: not known.
        empty_s: when everything was committed last.
    """

    def __init__(self) -> None:
        self.steps = Steps()
        self.moment_s: float | None = None
        self.empty_s = -inf
        self._committed = 0
        self._ends = Timeline(_HISTORY_S)

    def see(self, end: int, committed: int, now: float) -> None:
        """Take in its end, and what was committed of it, as they are told ``now``."""
        self._ends.record(now, end)
        self._committed, self.moment_s = committed, self.steps.see(committed, now)
        if committed >= end:
            self.empty_s = now

    @property
    def emptied(self) -> bool:
        """Whether it was empty after the last commit, so that this tells nothing of how fast it is consumed."""
        return self.empty_s > -inf and (self.moment_s is None or self.empty_s >= self.moment_s)

    def backlog(self, moment_s: float) -> float:
        """Return how many messages were not done at ``moment_s``, or at its own commit."""
        at_s = moment_s if self.emptied or self.moment_s is None else self.moment_s
        return max(0.0, self._ends.at(at_s) - self._committed)


class BacklogCounts:
    """Everything in the system, as the broker's numbers tell it, each count with its moment.

    Three sources, each exact: ready and unacked, counted together; what a consumer group has committed, subtracted from
    the ends of its partitions; and ready alone while messages wait, because consumers then hold all that they may. What
    they may hold is known from their terms, or seen whenever both were counted together and messages waited.

    Attributes:
        latest: the newest count and its moment.
        terms: on what terms consumers get messages; None: not known.
        error: how far the newest count may be from exact, because its moment is.
        doubt_s: how much earlier or later the moment of the newest count may be.
        interval_s, next_s: how far apart the broker's own counts are (0: whenever asked), and when the next is due; -∞
        if that is not known.
    """

    def __init__(self) -> None:
        self.latest: tuple[int | None, float] = (None, -inf)
        self.terms: ConsumerTerms | None = None
        self._steps = Steps()
        self._partitions: list[_Partition] = []
        self._ends = Timeline(_HISTORY_S)
        self._consumers: int | None = None
        self._full: tuple[int | None, int] | None = None  # how many consumers hold how much when messages wait
        self._told = False
        self._asked_s = inf
        self.error = 0.0
        self.doubt_s = 0.0
        self.interval_s = 0.0
        self.next_s = -inf

    @property
    def held_at_most(self) -> int | None:
        """What the consumers hold together when messages wait; None: not known, or without limit."""
        terms = self.terms
        if terms is not None and (terms.auto_ack or terms.prefetch is None):
            return None
        if self._full is not None and self._full[0] == self._consumers:
            return self._full[1]
        if terms is not None and terms.count == self._consumers:
            return terms.prefetch
        return None

    @property
    def auto_ack(self) -> bool:
        """Whether counts say nothing about the work of some consumers."""
        return self.terms is not None and self.terms.auto_ack > 0

    def on_reading(self, ready: int | None, unacked: int | None, consumers: int | None, now: float) -> None:
        """Take in what is ready now, and perhaps unacked, counted together."""
        if consumers != self._consumers:
            self._full = None  # others may hold more, or less
        self._consumers = consumers
        if ready is None:
            return
        if unacked is not None:
            self.on_statistics(QueueStatistics(ready=ready, unacked=unacked, arrived_s=now, fresh=True))
        elif ready > 0 and (held := self.held_at_most) is not None:
            self._count(ready + held, now)

    def on_terms(self, terms: ConsumerTerms, _now: float) -> None:
        """Take in on what terms consumers get messages."""
        self.terms = terms

    def on_statistics(self, statistics: QueueStatistics) -> None:
        """Take in ready and unacked, counted together at a moment that may have to be inferred."""
        self._told = True
        moment_s: float | None = statistics.arrived_s
        if statistics.fresh:
            self.interval_s, self.doubt_s, self.next_s = 0.0, 0.0, -inf
        else:
            moment_s = self._steps.see((statistics.ready, statistics.unacked), statistics.arrived_s)
            self.interval_s = self._steps.interval_s
            self.next_s = self._steps.next_s
            self.doubt_s = self.interval_s / 2 if statistics.collected else 0.0
            if moment_s is not None:
                moment_s -= self.doubt_s  # on average
            if self.latest[0] is None and not statistics.ready + statistics.unacked:
                moment_s = statistics.arrived_s  # nobody has sent anything for a while: that is so now
        if statistics.ready > 0 and statistics.unacked > 0:
            self._full = (self._consumers, statistics.unacked)
        if moment_s is not None:
            self._count(statistics.ready + statistics.unacked, moment_s)

    def on_offsets(self, offsets: OffsetReading) -> None:
        """Take in commits: of each partition the total is exact at the moment of its last commit.

        A partition of which everything is committed is empty now, and was at that moment: nothing has come since. So
        the others tell the moment; their sum counts as one of the mean moment, which is right where they are consumed
        equally fast.
        """
        now, self._told = offsets.arrived_s, True
        self._ends.record(now, sum(offsets.ends))
        if len(self._partitions) != len(offsets.committed):
            self._partitions = [_Partition() for _ in offsets.committed]
        for partition, end, committed in zip(self._partitions, offsets.ends, offsets.committed, strict=True):
            partition.see(end, committed, now)
        behind = [partition for partition in self._partitions if not partition.emptied]
        self.interval_s = max((each.steps.interval_s for each in self._partitions), default=0.0)
        dated = [each.moment_s for each in behind if each.moment_s is not None]
        if self._partitions and len(dated) == len(behind):
            moment_s = fmean(dated) if dated else min(each.empty_s for each in self._partitions)
            told = behind or self._partitions
            self.next_s = fmean(each.steps.next_s for each in told)
            self.error = max(0.0, self._ends.at(now) - self._ends.at(self._asked_s)) / 2
            self._count(round(sum(each.backlog(moment_s) for each in self._partitions)), moment_s)
        self._asked_s = now

    @property
    def entered(self) -> float | None:
        """How many messages have entered a topic, by its ends; None: not known."""
        return self._ends.last

    def arrived_since(self, moment_s: float, now: float) -> float:
        """Return how many messages came into a topic between two moments."""
        return self._ends.at(now) - self._ends.at(moment_s)

    def quality(self, now: float, missing: str, silent_s: float) -> tuple[SignalQuality, str]:
        """Return how well the backlog is known at ``now``, and why no better, with what to do.

        ``missing`` is what the reader misses, ``silent_s`` how long consumers have been silent: counts take a while.
        """
        terms, (count, moment_s) = self.terms, self.latest
        if self.auto_ack:
            assert terms is not None
            return SignalQuality.BLIND, (
                f"{terms.auto_ack} of {terms.count} consumers acknowledge before they work (auto-ack): nothing tells "
                "when they are done; let them acknowledge after the work, or report"
            )
        if missing:
            return SignalQuality.BLIND, f"{_UNKNOWN}: {missing}"
        if count is None:
            expected = (self._told or self.terms is not None) and silent_s < _LONGEST_INTERVAL_S
            return SignalQuality.BLIND, "" if expected else f"{_UNKNOWN}: {_NO_COUNTS}"
        if (age_s := now - moment_s) > max(_INTERVALS_MISSED * self.interval_s, _GRACE_S):
            return SignalQuality.BLIND, f"{_UNKNOWN}: the broker's last count is {age_s:.0f} s old; {_LET_REPORT}"
        return SignalQuality.LATE if self.interval_s > _FRESH_S else SignalQuality.COUNTED, ""

    def known(self, now: float) -> tuple[int | None, float]:
        """Return the newest count and its moment, unless it is so old that nothing can be concluded from it."""
        if now - self.latest[1] > max(_INTERVALS_MISSED * self.interval_s, _LONGEST_INTERVAL_S):
            return None, -inf
        return self.latest

    @property
    def changing(self) -> bool:
        """Whether the broker's own counts are made about as often as they are read."""
        return 0 < self.interval_s <= _OFTEN_S

    def _count(self, count: int, moment_s: float) -> None:
        if moment_s > self.latest[1]:
            self.latest = (max(0, count), moment_s)
