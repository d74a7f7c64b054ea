"""What `pace` believes about the depth of the queue at this very moment; knows nothing of setpoints and gains."""

from __future__ import annotations

from math import exp, inf

from backpressure.core.filters import Timeline
from backpressure.core.signals import Signals

__all__ = ["DepthObserver"]

_TRACKING_S = 0.5
_STRAYS_PER_S2 = 0.5
_USUAL_WEIGHT = 0.02
_SILENCE = 3.0
_OVERDUE = 1.5


class DepthObserver:
    """Joins readings of the queue, which are late, with counters, which are exact.

    Formula: depth = sent − departed − μ̂·(age of departed) + c. Sent is known to this moment and departed as of the
    last reports. The constant c (what was there before we looked) is all that the readings are needed for, so their
    noise is averaged over half a second (an α-β filter), and a message that moves from ready to unacked between a
    reading and a report is not counted twice. The slope of c is a flow that no counter explains: foreign producers,
    expiry, requeueing. Without departure counters: depth = reading + sent since − μ̂·(age of the reading).

    Attributes:
        depth: messages queued, in work or on their way; None before anything is known.
        strays_per_s: arrivals per second that no producer reports.
        read_at: when the last reading was taken.
    """

    def __init__(self, report_interval_s: float) -> None:
        """Consumers report every ``report_interval_s``."""
        self.depth: float | None = None
        self.strays_per_s = 0.0
        self.read_at = -inf
        self._sent = Timeline()
        self._reading = 0.0
        self._offset: float | None = None
        self._tracked_at = -inf
        self._usual_age_s = self._interval_s = report_interval_s

    def read(self, signals: Signals, now: float) -> bool:
        """Note what has been sent, and take the reading if there is a new one; return whether there was."""
        self._sent.record(now, signals.confirmed_total + signals.in_flight)
        read_at = now - signals.depth_age_s
        if signals.depth is None or read_at <= self.read_at + 1e-9:
            return False
        self.read_at, self._reading = read_at, signals.depth
        return True

    def left_by_reading(self) -> float:
        """Return how many messages have left the queue up to the last reading, as sent minus what is still there."""
        return self._sent.at(self.read_at) - self._reading

    def forget(self) -> None:
        """Begin anew with the next reading: the counters have been interrupted."""
        self._offset, self.strays_per_s = None, 0.0

    def predict(self, rate_per_s: float, now: float) -> None:
        """Say how deep the queue is now, from the last reading alone."""
        self.forget()
        if self.read_at > -inf:
            sent = self._sent.at(now) - self._sent.at(self.read_at)
            self.depth = max(0.0, self._reading + sent - rate_per_s * (now - self.read_at))

    def count(self, signals: Signals, rate_per_s: float, now: float, *, busy: float, stood_still: bool) -> None:
        """Say how deep the queue is now, from the counters, and learn c from a reading that has not been used yet.

        ``busy`` is the depth from which on departures go on at μ̂ between reports; below, they are not known so well,
        and not at all while the broker ``stood_still``.
        """
        age_s = signals.departed_age_s
        if age_s < inf:  # infinite while all who report are paused: the broker counts no consumers then
            self._usual_age_s += _USUAL_WEIGHT * (age_s - self._usual_age_s)
        if age_s > _OVERDUE * self._interval_s:  # a report is missing: whoever falls silent may have stopped
            age_s = min(age_s, _SILENCE * self._usual_age_s)
        gone = (signals.departed_total or 0) + rate_per_s * age_s
        if self._offset is None:
            self._offset = gone - self._sent.at(now) + (self._reading if self.read_at > -inf else signals.unacked or 0)
        elif self.read_at > self._tracked_at and not stood_still:
            counted = self._sent.at(self.read_at) - gone + rate_per_s * (now - self.read_at) + self._offset
            self._track(self._reading - counted, 2.0 + 2.0 * rate_per_s * age_s, steady=self._reading >= busy)
        self._tracked_at = self.read_at
        self.depth = max(0.0, self._sent.at(now) - gone + self._offset)

    def _track(self, error: float, possible: float, *, steady: bool) -> None:
        """Correct c by what a reading differs; ``possible`` is how much of that may be due to its age."""
        assert self._offset is not None
        elapsed_s = min(1.0, self.read_at - self._tracked_at)
        expected = self.strays_per_s * elapsed_s
        error -= expected
        noise = max(-possible, min(possible, error))
        self._offset += expected + error - noise
        if steady or noise < 0:  # a starved queue can only seem deeper by counting: departures are overrated then
            self._offset += (1 - exp(-elapsed_s / _TRACKING_S)) * noise
            self.strays_per_s += _STRAYS_PER_S2 * elapsed_s * noise
        if (
            self._reading <= 0
        ):  # they would show in the queue: believing in them now could hold an empty queue at rate 0
            self.strays_per_s *= exp(-elapsed_s / _TRACKING_S)
