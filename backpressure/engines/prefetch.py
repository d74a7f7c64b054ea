"""The prefetch of a consumer: a fixed number, or the smallest that keeps the consumer busy, found by measuring.

The round trip is measured where it shows: when the prefetch was used up, the time from an acknowledgement to the next
delivery is one round trip, plus whatever time the queue was empty. The smallest of recent samples is therefore the
round trip itself (the windowed minimum of BBR's RTprop; Cardwell et al., "BBR", ACM Queue 2016).

When the round trip becomes longer in the middle of the work, it shows in another way. Part of the prefetch is always
under way, so the prefetch is never used up again. But the consumer runs out of messages, and the one it then waits for
was sent before the acknowledgement that made room for it: the time since is a round trip.

Until either shows, it is what the broker's answers took when consuming began, if that is far more than on a machine of
one's own: far away, the first messages would come in small groups, each a round trip after the one before.

That is the least the prefetch can be. On a machine with other work to do, a process now and then does not run for tens
of milliseconds, and a consumer that holds nothing then has lost that time. How long such stalls last shows in how late
the process's own timers fire: the longest of the last seconds, twice (the broker is stalled too), is added. If the work
takes a random time, more messages than usual are finished in some round trips; over a long one that is more than what
stalls need, and is added in their place.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf, sqrt

from backpressure.core.histogram import RecentValues
from backpressure.core.reports import ConsumerReport
from backpressure.settings import ConsumerSettings
from backpressure.transports.base import Subscriber

_LARGEST = 65_535  # the field is 16 bits wide (AMQP 0-9-1, basic.qos)
_SPARE = 2  # the one in work, and one against jitter
_SIGMAS = 2.0
_FEW = 30  # so many services and more tell their variance
_WINDOW_S = 10.0
_ASIDE_STEP = 16  # room for failed messages grows in steps: each change costs a round trip
_MOST_ASIDE = 1024
_RESIZE_EVERY_S = 1.0
_ASSUMED_ROUND_TRIP_S = 0.005  # until it is measured
_FAR_S = 0.03  # an answer after less may have waited for a processor
_LEAST_CUSHION_S = 0.02  # timers of a quiet machine are a few milliseconds late
_MOST_CUSHION_S = 0.2
_UNPACED = 1000  # where the work takes no time: what a connection carries while an acknowledgement travels


class PrefetchSizer:
    """Adaptive prefetch by Little's law.

    Formula: prefetch = ⌈rate · round trip + max(rate · cushion, 2σ)⌉ + 2, with σ² = cv² · rate · round trip. While an
    acknowledgement travels to the broker and the next message back, the consumer finishes rate · round trip messages,
    give or take σ: that many must be at hand, besides the one in work and one against jitter. The cushion is the time
    that it has to bridge when the machine stalls. Every further one only waits where neither the broker nor the
    producer sees it.
    Hysteresis: it rises at once, since starving costs capacity; it falls when fewer would have done for ``hold_s``.
    Source: Little (1961); the bandwidth-delay product of TCP.
    """

    def __init__(self, hold_s: float = 5.0) -> None:
        """Begin with the least."""
        self._hold_s = hold_s
        self._size = _SPARE
        self._most_wanted = 0
        self._lower_since = inf

    def update(
        self,
        rate_per_s: float,
        round_trip_s: float,
        service_s: float,
        now: float,
        *,
        service_cv2: float = 0.0,
        cushion_s: float = 0.0,
    ) -> int:
        """Return the prefetch to use from now on.

        Args:
            rate_per_s: messages the consumer finishes per second.
            round_trip_s: from an acknowledgement to the delivery it makes room for, on an idle path.
            service_s: mean service time; a consumer that has been starved could do 1/service_s a second.
            now: seconds, monotonic.
            service_cv2: squared coefficient of variation of service times.
            cushion_s: how long the machine may stall.
        """
        possible_per_s = max(rate_per_s, 1 / service_s if service_s > 0 else 0.0)
        passing = possible_per_s * round_trip_s
        reserve = max(possible_per_s * cushion_s, _SIGMAS * sqrt(service_cv2 * passing))
        wanted = min(_LARGEST, ceil(passing + reserve - 1e-9) + _SPARE)
        if wanted >= self._size:
            self._size, self._lower_since = wanted, inf
            return self._size
        if self._lower_since == inf:
            self._lower_since, self._most_wanted = now, wanted
        self._most_wanted = max(self._most_wanted, wanted)
        if now - self._lower_since >= self._hold_s:
            self._size, self._lower_since = self._most_wanted, inf
        return self._size


class PrefetchControl:
    """Keeps ``subscriber``'s prefetch at what the settings or the measurements ask for."""

    def __init__(self, settings: ConsumerSettings, subscriber: Subscriber) -> None:
        """``settings.prefetch`` is a number, or "auto"."""
        self._subscriber = subscriber
        self._settings = settings
        self._sizer = PrefetchSizer()
        self._told_s = _ASSUMED_ROUND_TRIP_S
        self._round_trips = RecentValues(_WINDOW_S)
        self._base = self._initial(settings)
        self._aside = 0
        self._starving_since: float | None = None
        self._settled_at: deque[float] = deque(maxlen=self.count)
        self._old_credit = 0  # messages that may still come because of an earlier, larger prefetch
        self._measured = False
        self._stalls = RecentValues(_WINDOW_S)
        self._last: tuple[float, int, float] | None = None  # time, processed, Σ service
        self._served: tuple[int, float, float] = (0, 0.0, 0.0)  # processed, Σ service, Σ service²
        self._cv2 = 0.0

    @property
    def count(self) -> int:
        """The prefetch in force: what work needs, and room for messages that wait for another attempt."""
        return min(_LARGEST, self._base + self._aside)

    @property
    def _round_trip_s(self) -> float:
        return self._round_trips.least(self._told_s)

    def reconfigure(self, settings: ConsumerSettings) -> None:
        """Switch to other settings."""
        if settings.prefetch != self._settings.prefetch:
            self._sizer = PrefetchSizer()
            self._change(self._initial(settings), self._aside)
        elif settings.prefetch == "auto":
            self._change(max(self._base, self._initial(settings)), self._aside)  # about to be faster: do not starve
        self._settings = settings

    def connected(self, round_trip_s: float | None) -> None:
        """Consuming has begun; the broker has answered within ``round_trip_s``, if it is known."""
        self._told_s = round_trip_s if round_trip_s and round_trip_s > _FAR_S else _ASSUMED_ROUND_TRIP_S
        if self._settings.prefetch == "auto" and not self._measured:
            self._change(max(self._base, self._initial(self._settings)), self._aside)

    def set_aside(self, waiting: int) -> None:
        """Make room for ``waiting`` messages between two attempts, so that they block no other."""
        steps = -(-waiting // _ASIDE_STEP)
        self._change(self._base, min(_MOST_ASIDE, steps * _ASIDE_STEP))

    def settling(self, held: int, now: float) -> None:
        """One of ``held`` messages is about to be acknowledged."""
        if self._old_credit > 0:
            self._old_credit -= 1
            return
        self._settled_at.append(now)
        if held >= self.count:
            self._starving_since = now

    def delivered(self, now: float, *, dry_for_s: float = 0.0) -> None:
        """A message arrived; ``dry_for_s``: how long ago it was sent, if there was nothing to do without it, else 0."""
        since = self._starving_since
        if since is None and len(self._settled_at) == self.count and dry_for_s > now - self._settled_at[0]:
            since = self._settled_at[0]
        if since is None:
            return
        self._round_trips.add(now - since, now)
        self._starving_since = None

    def stalled(self, late_s: float, now: float) -> None:
        """A timer fired ``late_s`` after its time."""
        self._stalls.add(late_s, now)

    def tick(self, report: ConsumerReport, now: float) -> None:
        """Compute the prefetch from the last second's service times; does nothing when it is fixed."""
        if self._settings.prefetch != "auto":
            return
        if self._last is None:
            self._last = (now, report.processed, report.service_sum_s)
            return
        since, processed, service_sum_s = self._last
        done = report.processed - processed
        first = not self._measured and self._round_trips.least(0.0) > 0  # what was assumed until then may be far off
        if not done or (now - since < _RESIZE_EVERY_S and not first):
            return
        self._measured = self._measured or first
        self._last = (now, report.processed, report.service_sum_s)
        service_s = (report.service_sum_s - service_sum_s) / done
        self._learn_variance(report)
        if service_s > 0:
            round_trip_s = self._round_trip_s
            base = self._sizer.update(
                1 / service_s, round_trip_s, service_s, now, service_cv2=self._cv2, cushion_s=self._cushion_s()
            )
            self._change(base, self._aside)

    def _learn_variance(self, report: ConsumerReport) -> None:
        count, total_s, total_s2 = self._served
        count, total_s = report.processed - count, report.service_sum_s - total_s
        if count >= _FEW and total_s > 0:
            self._served = (report.processed, report.service_sum_s, report.service_sum_s2)
            self._cv2 = max(0.0, (report.service_sum_s2 - total_s2) * count / total_s**2 - 1)

    def _cushion_s(self) -> float:
        return min(_MOST_CUSHION_S, max(_LEAST_CUSHION_S, 2 * self._stalls.greatest(0.0)))

    def _change(self, base: int, aside: int) -> None:
        before = self.count
        self._base, self._aside = base, aside
        if self.count != before:
            self._settled_at = deque(maxlen=self.count)  # what was acknowledged before made room by another measure
            self._old_credit = max(0, self._old_credit + before - self.count)
            self._starving_since = None
            self._subscriber.set_prefetch(self.count)

    def _initial(self, settings: ConsumerSettings) -> int:
        if settings.prefetch != "auto":
            return settings.prefetch
        if settings.mean_service_s <= 0:
            return _UNPACED
        rate_per_s = 1 / settings.mean_service_s
        return min(_LARGEST, ceil(rate_per_s * (self._round_trip_s + _LEAST_CUSHION_S)) + _SPARE)
