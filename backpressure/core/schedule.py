"""Schedules: when messages are offered to the producer, when the work on them ends, and when it is tried again.

Schedules keep an ideal timeline. Late timers delay single messages but never add up, so the mean rate is exact. They
limit how far they catch up, so that a stall of the machine is not followed by a burst.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf


class ArrivalSchedule:
    """The offered load: arrival times at ``rate_per_s``, kept until they are taken or there is no more room.

    An arrival that finds ``room_s`` seconds' worth of others waiting is *held back*: its source was throttled. It
    counts as offered and is never sent, so that a throttled source builds up no hidden queue in front of the queue.
    At an infinite rate one arrival always waits: the next one comes when it is taken, and none is held back. At rate 0
    none comes.

    With recorded ``times_s`` arrivals come at these seconds after the start, whatever the rate; none is held back, and
    after the last one the schedule is exhausted.
    """

    def __init__(
        self,
        rate_per_s: float,
        room_s: float,
        now: float,
        gap: Callable[[], float] | None = None,
        times_s: Sequence[float] | None = None,
    ) -> None:
        """Begin at ``now``.

        Args:
            rate_per_s: mean arrivals per second, 0 … infinite (as fast as they are taken).
            room_s: how many seconds' worth may wait.
            now: seconds, monotonic.
            gap: returns random gaps with mean 1, for example exponential ones (Poisson arrivals); None: even gaps.
            times_s: recorded times, which take the place of the rate.
        """
        self.rate_per_s = rate_per_s
        self.offered = 0
        self.held_back = 0
        self._room_s = room_s
        self._gap = gap
        self._waiting: deque[float] = deque()
        self._anchor = now
        self._since_anchor = 0  # even gaps count from an anchor: adding them up would drift
        self._next_at = now if rate_per_s else inf
        self._times_s = times_s
        self._begun_at = now

    @property
    def exhausted(self) -> bool:
        """Whether all recorded arrivals have come and were taken."""
        return self._times_s is not None and self.offered >= len(self._times_s) and not self._waiting

    def set_rate(self, rate_per_s: float, now: float) -> None:
        """Arrive at ``rate_per_s`` from ``now`` on."""
        self.pending(now)
        if rate_per_s != self.rate_per_s:
            remaining = 1.0
            if 0 < self.rate_per_s < inf:
                remaining = max(0.0, self._next_at - now) * self.rate_per_s
            self.rate_per_s = rate_per_s
            self._anchor = self._next_at = now + remaining / rate_per_s if rate_per_s else inf
            self._since_anchor = 0
            while len(self._waiting) > self._room:  # a slower source keeps no burst from its faster rate
                self._waiting.popleft()
                self.held_back += 1

    def reshape(self, room_s: float, gap: Callable[[], float] | None, now: float) -> None:
        """Use another room and other gaps from the next arrival on; see the constructor."""
        self.pending(now)
        self._room_s, self._gap = room_s, gap
        self._anchor = self._next_at
        self._since_anchor = 0

    def restart(self, now: float) -> None:
        """Forget what waits and arrive again from ``now`` on, after a pause in which nothing was offered."""
        self._waiting.clear()
        self._anchor = self._next_at = now if self.rate_per_s else inf
        if not self.offered:
            self._begun_at = now
        self._since_anchor = 0

    def pending(self, now: float) -> int:
        """Return how many arrivals wait to be sent at ``now``."""
        if self._times_s is not None:
            return self._recorded(now, self._times_s)
        if self.rate_per_s == inf:
            if not self._waiting:
                self._waiting.append(now)
                self.offered += 1
            return len(self._waiting)
        room = self._room
        while self._next_at <= now:
            if len(self._waiting) < room:
                self._waiting.append(self._next_at)
                self._step(1)
            elif self._gap is None:
                missed = int((now - self._next_at) * self.rate_per_s) + 1
                self.held_back += missed
                self._step(missed)
            else:
                self.held_back += 1
                self._step(1)
        return len(self._waiting)

    def _recorded(self, now: float, times_s: Sequence[float]) -> int:
        while self.offered < len(times_s) and self._begun_at + times_s[self.offered] <= now:
            self._waiting.append(self._begun_at + times_s[self.offered])
            self.offered += 1
        return len(self._waiting)

    @property
    def _room(self) -> float:
        return max(1, int(self.rate_per_s * self._room_s)) if self.rate_per_s < inf else inf

    def take(self) -> float:
        """Remove the oldest waiting arrival and return its time; raises `IndexError` when none waits."""
        return self._waiting.popleft()

    def wait_s(self, now: float) -> float:
        """Return the seconds until an arrival waits: 0 if one does."""
        if self.pending(now):
            return 0.0
        if self._times_s is not None:
            more = self.offered < len(self._times_s)
            return self._begun_at + self._times_s[self.offered] - now if more else inf
        return self._next_at - now

    def _step(self, count: int) -> None:
        self.offered += count
        if self._gap is None:
            self._since_anchor += count
            self._next_at = self._anchor + self._since_anchor / self.rate_per_s
        else:
            self._next_at += self._gap() / self.rate_per_s


class ServiceSchedule:
    """Simulated work, one message at a time: when it starts and when it ends, on an ideal timeline.

    Work starts when both the message and the worker are free. A worker that wakes up late continues from its ideal
    time, at most ``catch_up_s`` behind: more than that was a real stall, whose capacity is lost.
    """

    def __init__(self, catch_up_s: float = 0.1) -> None:
        self._catch_up_s = catch_up_s
        self._free_at = 0.0

    def begin(self, available_at: float, service_s: float, now: float) -> tuple[float, float]:
        """Return (start, end) of the work on a message that was there at ``available_at``; seconds, monotonic."""
        start = max(available_at, self._free_at, now - self._catch_up_s)
        self._free_at = start + service_s
        return start, self._free_at


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """After which pause an attempt is repeated, and when to give up.

    Pauses are ``backoff_min_s · multiplierⁿ``, at most ``backoff_max_s``, varied by ±``jitter``, so that simultaneous
    failures are not repeated simultaneously (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """

    max_attempts: int
    backoff_min_s: float
    backoff_max_s: float
    multiplier: float = 2.0
    jitter: float = 0.0

    def pause_s(self, failed_attempts: int, draw: float) -> float | None:
        """Return the pause before the next attempt, or None to give up.

        Args:
            failed_attempts: how many have failed so far, from 1.
            draw: a random number in [0, 1) that decides the jitter.
        """
        if failed_attempts >= self.max_attempts:
            return None
        pause = min(self.backoff_max_s, self.backoff_min_s * self.multiplier ** min(failed_attempts - 1, 64))
        return pause * (1 + self.jitter * (2 * draw - 1))
