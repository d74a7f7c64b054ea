"""What `pace` knows about the depth of the queue at this moment; knows nothing of setpoints and gains."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import exp, inf
from statistics import pvariance

from backpressure.core.filters import Timeline
from backpressure.core.signals import FAR_S, Signals

_TRACKING_S = 0.5
_UNREPORTED_PER_S2 = 0.5
_USUAL_WEIGHT = 0.02
_SILENCE = 3.0
_OVERDUE = 1.5
_HISTORY_S = 40.0
_COUNTS = 6
_SHIFTS = 10  # either way


class DepthObserver:
    """Combines readings of the queue, which are late, with counters, which are exact.

    Formula: depth = sent − departed − μ̂·(age of departed) + c. Sent is known up to this moment, departed as of the
    last reports. The readings are needed only for the constant c (what was in the queue before the first reading). So
    their noise is averaged over half a second (an α-β filter), and a message that moves from ready to unacked between a
    reading and a report is not counted twice. The slope of c is a flow that no counter explains: foreign producers,
    expiry, requeueing. Without departure counters: depth = reading + sent that had not arrived then − μ̂·(age of the
    reading). What had arrived at a moment was confirmed half a round trip later. What is unconfirmed for longer is on
    its way, or waits in the client, and is in no reading.

    If the moments of counts are in doubt, all are too early or too late by about the same time. Of the times that are
    possible that one is taken for which what left between the counts, as the law sent now more and now less, is most
    even.

    Attributes:
        depth: messages queued, in work or on their way; None before anything is known.
        unreported_per_s: unreported arrivals: messages a second that no producer reports.
        reading, read_at: the last reading, and when it was taken.
        there: what of it was with the consumers or waited for them.
        lowest: the least of this since the reading before, if they are far away.
        before: the reading before it, and when it was taken, if moments are in doubt.
    """

    def __init__(self, report_interval_s: float) -> None:
        """Consumers report every ``report_interval_s``."""
        self.depth: float | None = None
        self.unreported_per_s = 0.0
        self.read_at = self._told_at = -inf
        self.before: tuple[float, float] | None = None
        self._told: deque[tuple[float, float]] = deque(maxlen=_COUNTS)
        self._sent = Timeline(_HISTORY_S)
        self._arrived = Timeline(_HISTORY_S)
        self._corrected = 0
        self._arrived_at = -inf
        self.reading = self.lowest = self._on_way = self._way_s = 0.0
        self._offset: float | None = None
        self._tracked_at = -inf
        self._usual_age_s = self._interval_s = report_interval_s

    def read(self, signals: Signals, now: float) -> bool:
        """Record what has been sent, and the reading if it is new; return whether it was."""
        self._corrected = signals.corrected_total  # it was sent before, nobody knows when
        confirmed = signals.confirmed_total - self._corrected
        self._sent.record(now, confirmed + signals.in_flight)
        self._arrived_at = max(self._arrived_at, now - signals.there_and_back_s / 2)
        self._arrived.record(self._arrived_at, confirmed)
        reading, read_at = signals.depth, now - signals.depth_age_s
        if signals.backlog is not None:
            reading, read_at = signals.backlog, now - signals.backlog_age_s
        if reading is None or read_at <= self._told_at + 1e-9:
            return False
        self._told_at = read_at
        before = (self.done_at, self.there) if self.far else None
        self.read_at, self.reading, self.before = read_at, reading, None
        if signals.backlog is not None and signals.backlog_doubt_s:
            self._date(signals.backlog_doubt_s, now)
        silent, way_s = signals.backlog is not None and signals.departed_total is None, signals.way_s or 0.0
        # Where the moment of a count has to be inferred, it is not known to a part of the way what was on it.
        self._way_s = way_s if silent and way_s > FAR_S and not signals.count_interval_s else 0.0
        if self.far:
            self._on_way = self._arrived.at(self.read_at) - self._arrived.at(self.read_at - self._way_s)
            self.lowest = self.there if before is None else self._lowest(*before)
        return True

    def _lowest(self, start: float, depth: float) -> float:
        """Return the least that was with the consumers since it was ``depth`` at ``start``, if they left evenly."""
        came = self._sent.at(start - self._way_s)
        points = [
            (moment + self._way_s, total - came)
            for moment, total in self._sent.between(start - self._way_s, self.done_at - self._way_s)
        ]
        if not points:
            return min(depth, self.there)
        per_s = (depth + points[-1][1] - self.there) / (self.done_at - start)
        return max(0.0, min(depth, *(depth + total - per_s * (moment - start) for moment, total in points)))

    def _date(self, doubt_s: float, now: float) -> None:
        """Find out how much earlier or later than told the counts were made."""
        told = self._told
        told.append((self.read_at, self.reading))
        while self.read_at - told[0][0] > _HISTORY_S - 2 * doubt_s:
            told.popleft()
        noise = 0.0

        def uneven(shift_s: float) -> float:
            """Return the variance of what left a second; without a difference beyond noise, no shift is best."""
            left = [(at, self.left_by(at + shift_s, backlog)) for at, backlog in told]
            rates = [(after - before) / (end - start) for (start, before), (end, after) in pairwise(left)]
            return pvariance(rates) + noise * (shift_s / doubt_s) ** 2

        if len(told) > 2:
            (start, first), (end, last) = told[0], told[-1]
            sent = self._arrived.at(end) - self._arrived.at(start)
            noise = max(1.0, sent - last + first) * len(told) / (end - start) ** 2
            shift_s = min((doubt_s * step / _SHIFTS for step in range(-_SHIFTS, _SHIFTS + 1)), key=uneven)
            self.read_at = min(now, self.read_at + shift_s)
            self.before = told[-2][0] + shift_s, told[-2][1]

    def left_by(self, moment: float, backlog: float) -> float:
        """Return how many messages had left the system at ``moment``, as arrived minus the ``backlog`` there was."""
        return self._arrived.at(moment) - backlog

    def busiest(self, start: float, least_s: float) -> tuple[float, float]:
        """Return how many must have left in how many seconds at the end of ``start`` to the last reading, at the most.

        Consumers that were idle at ``start`` could do no more than what came; in a burst that is what they can do.
        """
        return self._arrived.busiest(start, self.read_at, self.reading, least_s)

    def forget(self) -> None:
        """Start again with the next reading: the counters were interrupted."""
        self._offset, self.unreported_per_s = None, 0.0

    @property
    def far(self) -> bool:
        """Whether the last reading was a count, exact and of a known moment, of what silent consumers hold far away."""
        return self._way_s > 0

    @property
    def done_at(self) -> float:
        """The moment by which consumers had done what the last reading shows to have left."""
        return self.read_at - self._way_s / 2

    @property
    def there(self) -> float:
        """What of the reading was with the consumers or waited for them, and not on its way to them and back."""
        return max(0.0, self.reading - self._on_way)

    def predict(self, rate_per_s: float, now: float, way_s: float = 0.0) -> None:
        """Compute the depth from the last reading alone: a Smith predictor.

        Far from the broker, the depth that a message meets which is sent now, by what silent consumers had settled half
        a way before the count. If the moment of the count had to be inferred, what is on its way to them and back,
        ``way_s``, is taken to be what they do in that time.
        """
        self.forget()
        if self.far:
            start = self.done_at
            begun = self._sent.at(start - self._way_s) - self.left_by(self.read_at, self.reading)
            self.depth = self._flow(begun, start, now + self._way_s, self._way_s, rate_per_s)
            return
        self._on_way = rate_per_s * way_s if way_s > FAR_S else 0.0
        if self.read_at > -inf:
            since = self._sent.at(now) - self._arrived.at(self.read_at)
            self.depth = max(0.0, self.there + since - rate_per_s * (now - self.read_at))

    def bound(self, signals: Signals, rate_per_s: float, now: float) -> None:
        """Correct the depth by what is ready: no less is there; where nothing is, consumers hold less than they may."""
        most, read_at = signals.held_at_most, now - signals.depth_age_s
        if signals.ready is None or self.depth is None or read_at <= self.read_at:
            return
        since = max(0.0, self._sent.at(now) - self._arrived.at(read_at) - rate_per_s * (now - read_at))
        if signals.ready:
            self.depth = max(self.depth, signals.ready + since)
        elif most is not None:
            self.depth = min(self.depth, most + since)

    def count(self, signals: Signals, rate_per_s: float, now: float, *, busy: float, stalled: bool) -> None:
        """Compute the depth now from the counters, and learn c from a reading that was not used yet.

        ``busy`` is the depth above which departures between reports continue at μ̂. Below it they are less certain, and
        while the broker ``stalled`` they are unknown.
        """
        age_s = signals.departed_age_s
        if age_s < inf:  # infinite while all reporting consumers are paused: the broker counts none then
            self._usual_age_s += _USUAL_WEIGHT * (age_s - self._usual_age_s)
        if age_s > _OVERDUE * self._interval_s and signals.told_rate_per_s is None:
            # A report is missing: its consumer may have stopped. That a sum is missing says nothing of consumers.
            age_s = min(age_s, _SILENCE * self._usual_age_s)
        way_s = signals.there_and_back_s
        departed = (signals.departed_total or 0) - self._corrected
        if way_s > FAR_S and self._offset is not None:
            self._count_far(departed, age_s, way_s, rate_per_s, now, busy=busy, stalled=stalled)
            return
        gone = departed + rate_per_s * age_s
        if self._offset is None:
            self._offset = gone - self._sent.at(now) + (self.reading if self.read_at > -inf else signals.unacked or 0)
        elif self.read_at > self._tracked_at and not stalled:
            counted = self._sent.at(self.read_at) - gone + rate_per_s * (now - self.read_at) + self._offset
            self._track(self.reading - counted, 2.0 + 2.0 * rate_per_s * age_s, steady=self.reading >= busy)
        self._tracked_at = self.read_at
        self.depth = max(0.0, self._sent.at(now) - gone + self._offset)

    def _count_far(
        self, departed: int, age_s: float, way_s: float, rate_per_s: float, now: float, *, busy: float, stalled: bool
    ) -> None:
        """Compute the depth that a message meets which is sent now, and learn c.

        A report has been on its way as long as a message will be. So the depth is that of its moment, with all that
        was on its way then, and has been sent since, coming and going until this message arrives. Nothing goes while
        nothing is there. A reading is of half a way ago, and of messages that are half a way from the consumers.
        """
        assert self._offset is not None
        start = now - age_s - way_s
        begun = self._sent.at(start - way_s) - departed
        if self.read_at > self._tracked_at and not stalled:
            counted = self._flow(begun + self._offset, start, self.read_at + way_s / 2, way_s, rate_per_s)
            possible = 2.0 + 2.0 * rate_per_s * (age_s + 2 * way_s)
            self._track(self.reading - counted, possible, steady=self.reading >= busy)
        self._tracked_at = self.read_at
        self.depth = self._flow(begun + self._offset, start, now + way_s, way_s, rate_per_s)

    def _flow(self, depth: float, start: float, until: float, way_s: float, rate_per_s: float) -> float:
        """Return the depth ``until`` then, if it was ``depth`` at ``start``: what was sent arrives ``way_s`` later."""
        depth, sent, at = max(0.0, depth), self._sent.at(start - way_s), start
        for moment, total in self._sent.between(start - way_s, until - way_s):
            depth = max(0.0, depth + total - sent - rate_per_s * (moment + way_s - at))
            sent, at = total, moment + way_s
        return depth

    def _track(self, error: float, possible: float, *, steady: bool) -> None:
        """Correct c by the error of a reading; ``possible`` is how much of it may be due to the age of the reading."""
        assert self._offset is not None
        elapsed_s = min(1.0, self.read_at - self._tracked_at)
        expected = self.unreported_per_s * elapsed_s
        error -= expected
        noise = max(-possible, min(possible, error))
        self._offset += expected + error - noise
        if steady or noise < 0:  # counting makes a starved queue only seem deeper: departures are overestimated then
            self._offset += (1 - exp(-elapsed_s / _TRACKING_S)) * noise
            self.unreported_per_s += _UNREPORTED_PER_S2 * elapsed_s * noise
        if (
            self.reading <= 0
        ):  # unreported arrivals would show in the queue; keeping the estimate could hold an empty queue at rate 0
            self.unreported_per_s *= exp(-elapsed_s / _TRACKING_S)
