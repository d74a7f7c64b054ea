"""Watched queues: which ones, and where each is heading. Pure; ``now`` is monotonic seconds.

Growth is told only if it is more than noise. Between counts that are not far apart, a queue through which n messages
have passed changes by some √n even if it does not grow; from six counts on the counts themselves show how much it
varies. The shortest time that is enough for a conclusion is used: a sudden change shows at once, a slow one later.

The management API serves the same numbers until the broker takes them again, by default every 5 s. So a count is dated
to when it changed. It may be two intervals old even then: a queue tells its counts once an interval, and they are
copied for the API once an interval (measured: 3.5 to 9 s on RabbitMQ 3.10 and 4.0).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from math import inf, isinf, sqrt
from statistics import fmean, median, stdev

from backpressure.core.snapshot import Outlook, QueueState
from backpressure.engines import observer_view as view
from backpressure.engines.observer_view import Consumers, Listing, Producers, Reading
from backpressure.transports.base import QueueReading
from backpressure.transports.management_models import QueueInfo

_MOST_PROBED = 50  # a pattern may match thousands; the others are as fresh as the management API
_WINDOWS_S = (8.0, 15.0, 30.0, 60.0)
_APART_S = 0.9  # counts that are closer together say nothing new
_SURE = 3.0  # standard deviations
_NEAR = 0.1  # reports and counts of the same messages are not further apart
_FEW = 2  # messages: a difference that is never worth telling
_ENOUGH = 6  # counts
_USUAL_INTERVAL_S = 5.0  # RabbitMQ's default, until the intervals are seen
_LONGEST_INTERVAL_S = 35.0  # a longer time without a change is a queue without traffic
_GAPS = 6
_RATE_WINDOW_S = 5.0
_PATIENCE_S = 10.0  # for the next message of consumers that report
_MOST_GAPS = 4  # longer than usual: their mean work, or the time since the message before


class StepRate:
    """The rate of a total that may grow in steps: between two changes, over at least five seconds if possible."""

    def __init__(self, steps_s: float = 0.0) -> None:
        """``steps_s`` is how far apart the steps may be, until they are seen."""
        self._changes: deque[tuple[float, int]] = deque()
        self._longest_s = steps_s
        self._begins_at_a_step = not steps_s

    def take(self, total: int, now: float) -> None:
        """Take the total as it is ``now``."""
        changes = self._changes
        if changes and total < changes[-1][1]:  # it was created again
            changes.clear()
        if changes and total == changes[-1][1]:
            return
        if changes and not self._begins_at_a_step:  # what this step contains began before the first look
            changes.clear()
            self._begins_at_a_step = True
        if len(changes) > 1:
            self._longest_s = now - changes[-1][0]
        changes.append((now, total))
        while len(changes) > 2 and now - changes[1][0] >= _RATE_WINDOW_S:
            changes.popleft()

    def still(self, now: float, usual_s: float = 0.0) -> float:
        """Return for how long nothing has come, 0 while that may be as usual.

        ``usual_s`` is how far apart the steps are, if that is known otherwise.
        """
        still_s = now - self._changes[-1][0] if self._changes else 0.0
        return still_s if still_s >= max(_PATIENCE_S, _MOST_GAPS * max(usual_s, self._longest_s)) else 0.0

    def per_s(self, now: float) -> float | None:
        """Return the rate; None while nothing is known of it."""
        if not self._changes:
            return None
        (start, first), (end, last) = self._changes[0], self._changes[-1]
        if now - end > 2 * self._longest_s + 1:
            end = now  # nothing has come for longer than usual
        return (last - first) / (end - start) if end > start else None


class ToldRate:
    """What programs report of a rate, beside what the broker counts, which is an average and some seconds old.

    Reports are all there is if the count is within what they said over that time, a tenth and noise apart.
    """

    def __init__(self) -> None:
        """Begin without a past."""
        self._told: deque[tuple[float, float, float]] = deque(maxlen=round(_RATE_WINDOW_S / _APART_S))
        self._means: deque[tuple[float, float, float]] = deque()

    def take(self, least: float, most: float, now: float) -> None:
        """Take between what two rates the count has to be, by the reports of the last second."""
        told, means = self._told, self._means
        if told and now - told[-1][0] < _APART_S:
            return
        told.append((now, least, most))
        means.append((now, fmean(each[1] for each in told), fmean(each[2] for each in told)))
        while now - means[0][0] > _WINDOWS_S[-1]:
            means.popleft()

    def explains(self, counted_per_s: float, within_s: float) -> bool:
        """Return whether reports of the last ``within_s`` seconds, and those of an average before, are all of it."""
        if not self._means:
            return True
        now = self._means[-1][0]
        recent = [mean for mean in self._means if now - mean[0] <= within_s + _RATE_WINDOW_S]
        least, most = min(mean[1] for mean in recent), max(mean[2] for mean in recent)
        return least - _doubt(least) <= counted_per_s <= most + _doubt(most)


def _doubt(per_s: float) -> float:
    return 1.0 + max(_NEAR * per_s, _SURE * sqrt(per_s / _RATE_WINDOW_S))


class Balance:
    """What enters a queue: what it holds and what is done, over some seconds. Counts are a fraction of one apart."""

    def __init__(self) -> None:
        """Begin without a past."""
        self._counts: deque[tuple[float, int]] = deque()

    def take(self, entered: int, now: float) -> None:
        """Take what is in the queue now, and has been done until now."""
        counts = self._counts
        if counts and now - counts[-1][0] < _APART_S:
            return
        counts.append((now, entered))
        while len(counts) > 2 and now - counts[1][0] >= _WINDOWS_S[0]:
            counts.popleft()

    def forget(self) -> None:
        """Take note that not everything is known."""
        self._counts.clear()

    def per_s(self) -> float | None:
        """Return the rate; None: not seen for long enough, or what was done is counted by fewer than before."""
        if not self._counts or self._counts[-1][0] - self._counts[0][0] < _RATE_WINDOW_S:
            return None
        (start, first), (end, last) = self._counts[0], self._counts[-1]
        return max(0.0, (last - first) / (end - start))


class QueueTrend:
    """The recent depths of one queue."""

    def __init__(self) -> None:
        self._source = ""
        self._counts: deque[tuple[float, int]] = deque()
        self._told_growth_per_s: float | None = None
        self._depth = (0, 0)
        self._dated = -inf
        self._published: int | None = None
        self._published_at = -inf
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._left: int | None = None
        self._left_at = -inf
        self._still_s = 0.0

    @property
    def age_s(self) -> float:
        """How old a statistic may be, as far as they were seen to change."""
        return 2 * max(1.0, round(median(self._gaps))) if len(self._gaps) > 1 else 2 * _USUAL_INTERVAL_S

    @property
    def is_still(self) -> bool:
        """Whether nothing left the queue while statistics of that time came in: one of them may be older than that."""
        return self._still_s >= self.age_s

    def take(self, depth: int, now: float) -> None:
        """Take the depth as it is at this moment."""
        self._begin("fresh")
        self._add(depth, now)

    def take_statistics(self, published: int, told_growth_per_s: float | None, now: float) -> None:
        """Take what the management API tells besides the depth.

        Args:
            published: a total that changes each time the broker takes statistics of a queue that is published to.
            told_growth_per_s: what the broker itself says about its growth.
            now: when it was read.
        """
        self._told_growth_per_s = told_growth_per_s
        if published != self._published:
            if self._published is not None and now - self._published_at < _LONGEST_INTERVAL_S:
                self._gaps.append(now - self._published_at)
            self._published, self._published_at = published, now

    def take_departures(self, left: int, per_s: float, now: float) -> None:
        """Take how many messages have left for good, and how fast they leave, as the management API tells."""
        if left != self._left or per_s:
            self._left, self._left_at = left, now
        self._still_s = now - self._left_at

    def take_listed(self, ready: int, unacked: int, now: float) -> None:
        """Take the depth as the management API tells it, of one moment."""
        if self._begin("listed"):
            self._depth, self._dated = (ready, unacked), now  # nobody knows when that was
        depth = (ready, unacked)
        if depth != self._depth or now - self._dated > self.age_s:
            self._depth, self._dated = depth, now
            self._add(sum(depth), now)

    def forget(self) -> None:
        """Take note that the depth is not known."""
        self._counts.clear()

    def growth_per_s(self, flow_per_s: float | None) -> float | None:
        """Return how fast the queue grows, 0 for what may be noise; None: not known yet.

        ``flow_per_s``: how many messages pass through it; None: not known.
        """
        counts = list(self._counts)
        if len(counts) < 2:
            return self._told(flow_per_s or 0.0)
        end, last = counts[-1]
        for window_s in _WINDOWS_S:
            recent = [(at, depth) for at, depth in counts if end - at <= window_s + _APART_S]
            (start, first), (_, middle) = recent[0], recent[(len(recent) - 1) // 2]
            steps = [after - before for (_, before), (_, after) in pairwise(recent)]
            if len(recent) >= _ENOUGH:
                spread = sqrt(len(steps)) * stdev(steps)
            elif steps and flow_per_s is not None:
                spread = sqrt(flow_per_s * (end - start))
            else:
                continue
            if abs(last - first) > _SURE * spread + _FEW and (last - first) * (last - middle) > 0:
                return (last - first) / (end - start)
        return 0.0 if end - counts[0][0] >= _USUAL_INTERVAL_S - _APART_S else self._told(flow_per_s or 0.0)

    def _told(self, flow_per_s: float) -> float | None:
        told, noise = self._told_growth_per_s, _SURE * sqrt(flow_per_s * _USUAL_INTERVAL_S) + _FEW
        return told if told is None or abs(told) * _USUAL_INTERVAL_S > noise else 0.0

    def _begin(self, source: str) -> bool:
        if source == self._source:
            return False
        self._source = source
        self._counts.clear()
        return True

    def _add(self, depth: int, now: float) -> None:
        counts = self._counts
        if counts and now - counts[-1][0] < _APART_S:
            return
        counts.append((now, depth))
        while now - counts[0][0] > _WINDOWS_S[-1] + _APART_S:
            counts.popleft()


@dataclass(slots=True)
class _Watched:
    """What is remembered of a queue."""

    trend: QueueTrend = field(default_factory=QueueTrend)
    entered: StepRate = field(default_factory=StepRate)
    left: StepRate = field(default_factory=lambda: StepRate(_USUAL_INTERVAL_S))  # consumers commit now and then
    done: StepRate = field(default_factory=StepRate)  # by the reports of all consumers
    sent_told: ToldRate = field(default_factory=ToldRate)
    done_told: ToldRate = field(default_factory=ToldRate)
    balance: Balance = field(default_factory=Balance)


class QueueWatch:
    """The queues that the user asked for, and where these and the work queue are heading."""

    def __init__(self, asked: str) -> None:
        """``asked``: names and patterns, with commas between."""
        self.asked = tuple(dict.fromkeys(name for part in asked.split(",") if (name := part.strip())))
        self._watched: defaultdict[str, _Watched] = defaultdict(_Watched)
        self._unreadable: dict[str, str] = {}

    @property
    def several(self) -> bool:
        """Whether they may be more than one."""
        return len(self.asked) > 1 or any(map(_is_pattern, self.asked))

    def covers(self, name: str) -> bool:
        """Return whether the user asked for this queue, by its name or a pattern, if it exists."""
        return any(_matching(asked, [name]) if _is_pattern(asked) else asked == name for asked in self.asked)

    def names(self, listing: Listing) -> list[str]:
        """Return the queues that were asked for; a pattern stands for all queues that are listed and match it."""
        names: dict[str, None] = {}
        for name in self.asked:
            names |= dict.fromkeys(_matching(name, listing.queues) if _is_pattern(name) else [name])
        return list(names)

    def probed(self, listing: Listing) -> list[str]:
        """Return those to be read one by one: not each of thousands that match a pattern; these are listed."""
        return self.names(listing)[:_MOST_PROBED]

    def absent(self, listing: Listing, *, listable: bool) -> dict[str, str]:
        """Return why what was asked for is not shown; ``listable``: whether the broker can list its queues."""
        reasons = {}
        for name in self.asked:
            if not _is_pattern(name):
                if name in self._unreadable:
                    reasons[name] = self._unreadable[name]
            elif not listable:
                reasons[name] = "patterns are for the queues of a RabbitMQ; name topics in full"
            elif not listing.at:
                reasons[name] = "a pattern needs the management API, which lists the queues"
            elif not _matching(name, listing.queues):
                reasons[name] = "no queue matches"
        return reasons

    def took(self, name: str, queue: QueueReading, unacked: int | None, *, listed: bool, now: float) -> Reading:
        """Take a reading; ``unacked`` is None where it is not known at this moment, ``listed``: it is known later."""
        self._unreadable.pop(name, None)
        watched = self._watched[name]
        if unacked is not None:
            watched.trend.take(queue.ready + unacked, now)
        elif not listed:  # nobody tells what consumers hold: while messages wait, that is all they may hold
            watched.trend.take(queue.ready, now) if queue.ready else watched.trend.forget()
        if queue.entered is None or queue.left is None:
            return Reading(now, queue)
        watched.entered.take(queue.entered, now)
        watched.left.take(queue.left, now)
        return Reading(now, queue, watched.entered.per_s(now), watched.left.per_s(now))

    def compared(
        self, name: str, reading: Reading, listed: QueueState | None, producers: Producers, consumers: Consumers
    ) -> Reading:
        """Return ``reading`` with whether reports explain what the broker counts.

        Args:
            name: of the queue.
            reading: what was just read.
            listed: what the management API tells; None: nothing.
            producers: its producers that report.
            consumers: its consumers that report.
        """
        watched, now, all_report = self._watched[name], reading.at, view.all_report(reading.queue, consumers)
        unacked = view.unacked_now(reading.queue, consumers)
        if all_report and unacked is not None:
            watched.balance.take(reading.queue.ready + unacked + view.done(consumers)[0], now)
        else:
            watched.balance.forget()
        watched.sent_told.take(*view.sent_per_s(producers, now), now)
        watched.done_told.take(*view.done_per_s(consumers, now), now)
        reading = replace(reading, balance_per_s=watched.balance.per_s())
        entered, left = view.entered_per_s(reading, listed), view.left_per_s(reading, listed)
        age_s = watched.trend.age_s
        # Where nothing else tells what others send to a queue of the user's, a part is not shown as all of it.
        sent_is_all = all_report or not self.asked if entered is None else watched.sent_told.explains(entered, age_s)
        done_is_all = left is None or watched.done_told.explains(left, age_s)
        return replace(reading, sent_is_all=sent_is_all, done_is_all=done_is_all)

    def settled(self, queue: QueueState, done: int, work_s: float | None, now: float) -> tuple[QueueState, float]:
        """Return ``queue`` with the rate out of it, and for how long nothing has left it, as its consumers report.

        If their work takes longer than the time over which rates are computed, nothing leaves in most of these.

        Args:
            queue: with the rate of the last second.
            done: total of what they have done.
            work_s: how long they take for one message, together; None: not known.
            now: when that was reported.
        """
        rate = self._watched[queue.name].done
        rate.take(done, now)
        still_s = rate.still(now, work_s or 0.0)
        if still_s or (queue.acked_per_s or 0.0) >= _ENOUGH:
            return queue, still_s
        per_s = rate.per_s(now) or queue.acked_per_s or (1 / work_s if work_s else None)
        return replace(queue, acked_per_s=per_s), 0.0

    def failed(self, name: str, reason: str) -> bool:
        """Take note that a queue cannot be read; return whether that is news."""
        news = self._unreadable.get(name) != reason
        self._unreadable[name] = reason
        return news

    def listed(self, info: QueueInfo, *, counted: bool, now: float, known_better: bool) -> None:
        """Take what the management API tells of a queue.

        Args:
            info: its statistics.
            counted: whether the broker counts what passes through.
            now: when it was read.
            known_better: its depth of this moment is known.
        """
        trend = self._watched[info.name].trend
        growth = info.publish_rate - info.departure_rate if info.growth_rate is None and counted else info.growth_rate
        trend.take_statistics(info.published, growth, now)
        trend.take_departures(info.acknowledged + info.taken_without_ack, info.departure_rate, now)
        if not known_better:
            trend.take_listed(info.messages_ready, info.messages_unacknowledged, now)

    def keep(self, names: Iterable[str]) -> None:
        """Forget all other queues."""
        self._watched = defaultdict(_Watched, {name: self._watched[name] for name in names if name in self._watched})
        self._unreadable = {name: why for name, why in self._unreadable.items() if name in self.asked}

    def judged(
        self,
        queue: QueueState,
        reading: Reading | None,
        listed: QueueState | None,
        *,
        fresh: bool,
        late: bool = False,
        hidden: bool = False,
        still_s: float | None = None,
    ) -> QueueState:
        """Return ``queue`` with its outlook.

        Args:
            queue: with its rates.
            reading: what the probe read; None: nothing yet.
            listed: what the management API tells; None: nothing.
            fresh: whether depth and rate out are known of this moment.
            late: whether the rate in is not.
            hidden: whether some of its consumers acknowledge automatically.
            still_s: for how long nothing has left it, by reports; None: not all of its consumers report.
        """
        if queue.kind == "stream":
            return queue  # its length is no backlog: consumers take nothing out of it
        trend = self._watched[queue.name].trend
        counted_late = listed is not None and not fresh
        if fresh or (reading is not None and queue.consumers == 0):
            backlog: int | None = queue.depth
        else:
            backlog = None if listed is None else listed.depth  # of one moment
        outlook = _outlook(queue, backlog, trend, trend.age_s if late or counted_late else None)
        if counted_late and queue.consumers and isinf(outlook.wait_s or 0) and not trend.is_still:
            outlook = replace(outlook, wait_s=None)  # the statistics may be from before the consumers' first message
        growth, out = outlook.growth_per_s or 0.0, queue.acked_per_s
        if late and out is not None and (queue.published_per_s or 0.0) < growth:
            # RabbitMQ counts nothing that another queue dead-letters into this one.
            queue = replace(queue, published_per_s=out + growth)
        return replace(queue, outlook=replace(outlook, hidden=hidden, still_s=still_s))


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    # A bracket stands for itself: names contain brackets more often than a user wants a class of characters.
    return sorted(name for name in names if fnmatchcase(name, pattern.replace("[", "[[]")))


def _outlook(queue: QueueState, backlog: int | None, trend: QueueTrend, statistics_age_s: float | None) -> Outlook:
    out = queue.acked_per_s
    flows = [flow for flow in (queue.published_per_s, out) if flow is not None]
    growth = trend.growth_per_s(max(flows, default=None))
    wait_s = None
    if backlog is not None and out is not None:
        wait_s = backlog / out if out else inf if backlog else 0.0
    full_in_s = empty_in_s = None
    if growth and growth > 0 and queue.fill and queue.ready:
        full_in_s = max(0.0, (1 - queue.fill) / queue.fill * queue.ready / growth)
    elif growth and growth < 0 and backlog:
        empty_in_s = backlog / -growth
    return Outlook(
        growth_per_s=growth,
        wait_s=wait_s,
        full_in_s=full_in_s,
        empty_in_s=empty_in_s,
        statistics_age_s=statistics_age_s,
    )
