"""Law ``pace``: know the bottleneck, hold a small queue.

With what it knows about confirms, and the queue wait that no law can avoid (derivation in docs/pace-law.md).
"""

from __future__ import annotations

from collections import deque
from math import ceil, erfc, exp, inf, pi, sqrt

from backpressure.core.controllers.bottleneck import Bottleneck
from backpressure.core.controllers.registry import LawConfig, Parameter
from backpressure.core.signals import FAR_S, Decision, SignalQuality, Signals

_FLOOR_PER_S = 1.0
_PROBES = 2.0
_MOST_BEYOND_DEMAND = 4.0
_FASTEST_PER_S = 1e7
_INTERVALS_MISSED = 2.5
_HALF_LIFE_S = 0.5
_IDLE_ALLOWED = 0.01
_IDLE_GAIN = 2.0
_EXTRA_MEMORY_S = 10.0
_EXTRA_MEMORY = 100.0  # times a message is in work
_LONGEST_EXTRA_S = 60.0
_AGREED_PER_S = 0.3
_DISAGREED = 0.5
_CAP_RECOVERY_PER_S = 0.1
_SPARE = 0.3
_IDLE_AGE_S = 2.0
_BURSTS = (1.5, 3.0)
_BURST = 0.2
_TRUST = 1.5  # times what is proven
_LONG_BURSTS = (1.25, 1.5)
_MOST_UNSEEN = 1000
_FILLED_IN_S = 1.0
_UNEVEN = 4.0
_TRIAL_FIRST_S = 4.0
_TRIAL_RARELY_S = 64.0
_TRIAL_SHORTEST_S = 1.0
_TRIAL_LONGEST_S = 5.0
_TRIAL_EVENTS = 50.0
_WAYS = 2  # of a report, and then of a message
_WAYS_COUNTED = 3  # the consumer's half a way, a question and its answer, which the next one waits for, and a message
_DATED = 3.0  # more may be lost where the moments of counts are inferred, or the queue would have to hide their error
_UNDOUBTED = 1.5  # times what a rare count would take for nothing, so that it does not when all is well
_UNSEEN = 1.5  # whether silent consumers are idle now and then is not seen
_EFFECT_MEMORY_S = 3.0
_EFFECT_SAMPLES = 10.0


class PaceLaw:
    """Send at the estimated bottleneck rate, corrected so that a small standing queue is held.

    Formula, with μ̂ the bottleneck rate, φ the dispersion of its departures, f unreported arrivals, a the age of the
    readings, b that of departures, w the way to the broker and back, s the messages in work, x extra: K =
    gain/(tick + a); T = b + 2w + tick/(g(2 − g)) with g = min(1, K·tick); σ = √(φ·μ̂·T); k from σ·L(k) = idle·μ̂·T, L
    the normal loss function; q* = s + max(target_wait·μ̂, k·σ) + x; rate = share · max(0, μ̂ − f + K·(q* − depth)),
    within floor and ceiling. In a fleet whose consumers report rarely, K = gain/(tick + a + time a message is in work).
    Where the broker counts what silent consumers hold, w is in T once, target_wait is 1.5
    times as long and idle grows with T. Rare counts take a few messages for none (1 % of what leaves between two): half
    as many more are least queued by then. Counts less than 0.6 s apart need no a in K, and have three times the idle.

    Regimes:
    - *finding the bottleneck*: no departure seen yet. Two messages more than are in work are queued, at no more than
      the start rate; both double once a loop time while the queue is empty. Where *nobody consumes* no more is sent.
      Before silent consumers this goes on until a count finds messages waiting.
    - *holding the queue*: the formula. Depth > 2q* is called *draining*. When the consumers stop, μ̂ → 0: the formula
      then keeps about one message queued as a probe, so that their return shows without sending anything.
    - *starved: growing*: the queue stays empty and no signal explains it. μ̂ doubles, at most once in two loop times
      (in three when the consumers report that they are busy), and never while application-limited. Where the broker
      counts what silent consumers hold, it grows by what idle consumers could do more, until messages wait again; where
      it counts rarely, a burst goes out just before the next count, which tells how much of it they did.
    - *blocked* by the broker: estimators frozen. *Refused* (a nack): half the rate for two loop times, once, and q* is
      kept below the depth at which it happened, growing back by a tenth a second.
    - *blind*: what consumers hold, or when they finish it, is not known, and 1000 messages were sent without any sign
      that some have left: the floor. (Messages that wait in the queue are one: consumers are full.)
    - *no fresh signal*: the rate halves every half second, down to the floor (1 msg/s unless set).

    Silent consumers get messages in turn, however long each takes; so n of them have 4φ(n − 1) more.

    x grows while consumers are idle more than 1 % of the time although enough is queued: part of the depth is useless
    to them then (spread unevenly over their prefetch, or waiting for a retry). It fades in 10 s; in a fleet in the time
    of 100 works, at most 60 s. In a large fleet the producer that adds up tells its x to all. Otherwise each sees that
    at its own time, so x also follows what the others keep queued; or the one with the largest x would send most.

    Window: at most share·q* + 2·rate·L + 1 messages may be unconfirmed, L the usual confirm latency: when the broker
    stalls, no more is sent than the consumers use up meanwhile. What they could not do for lack of messages does not
    change μ̂.

    Parameters: ``gain``, ``idle`` (share of capacity), ``start_per_s`` (msg/s), ``stale_s`` (s).
    Source: ours; the estimator is `Bottleneck`, the depth `DepthObserver`; derivation and bounds in docs/pace-law.md.
    """

    PARAMETERS = (
        Parameter("gain", 0.6, "", "part of the queue's error corrected in one loop time", 0.01, 2.0),
        Parameter("idle", 0.001, "", "share of the capacity that may be lost to an empty queue", 1e-6, 0.5),
        Parameter("start_per_s", 50.0, "msg/s", "rate of a cold start, for all producers together", 0.01),
        Parameter("stale_s", 0.5, "s", "signals older than this (or than 2.5 reports) are not used", 0.01),
    )

    def __init__(self, config: LawConfig) -> None:
        """Take target, tick, floor and ceiling from ``config``."""
        values = config.values("pace", self.PARAMETERS)
        self._config = config
        self._gain = values["gain"]
        self._idle = values["idle"]
        self._start_per_s = self._began_per_s = values["start_per_s"]
        self._total_per_s = self._start_per_s
        interval_s = config.report_interval_s
        self._bottleneck = Bottleneck(max(values["stale_s"], _INTERVALS_MISSED * interval_s), interval_s)
        self._extra = 0.0
        self._raised_at = -inf
        self._raised_by = 1.0
        self._asked_at: float | None = None
        self._nacked = 0
        self._cut_until = -inf
        self._cap = inf
        self._share = 1.0
        self._confirms = ConfirmLatencyTracker()
        self._held = 0.0
        self._seen_sent = 0
        self._seen_left = 0.0
        self._trial = _DepthTrial()

    def update(self, signals: Signals, now: float) -> Decision:
        """Return the rate for this tick."""
        elapsed_s = 0.0 if self._asked_at is None else now - self._asked_at
        self._asked_at = now
        bottleneck = self._bottleneck
        self._confirms.update(signals, elapsed_s)
        bottleneck.update(signals, now, stalled=self._confirms.stalled)
        blind = self._has_sent_enough_unseen(signals)
        if signals.blocked:
            return self._decide(signals, "blocked: estimators frozen")
        self._share = signals.share if bottleneck.fresh else min(signals.share, self._share)
        if not bottleneck.fresh or blind:
            self._total_per_s = 0.0 if blind else self._total_per_s * 0.5 ** (elapsed_s / _HALF_LIFE_S)
            reason = "blind: no more is sent unseen" if blind else "no fresh signal: decaying to the floor"
            return self._decide(signals, reason, floor_per_s=_FLOOR_PER_S)
        loop_s = self._config.tick_s + bottleneck.age_s
        grew = self._grow(signals, now, loop_s)
        self._watch_refusals(signals, now, loop_s, elapsed_s)
        rate = bottleneck.rate_per_s
        if rate is None:
            return self._find(signals)
        self._adapt_extra(signals, rate, elapsed_s)
        self._trial.update(bottleneck, signals, self._held)
        setpoint = self._held = self._setpoint(rate)
        depth = setpoint if bottleneck.queue.depth is None else bottleneck.queue.depth
        correction = self._gain_per_s * (setpoint - depth)
        self._total_per_s = max(0.0, rate - bottleneck.queue.unreported_per_s + correction)
        if bottleneck.counted and bottleneck.starting and not bottleneck.late:
            self._total_per_s = max(self._total_per_s, self._probing_per_s(signals))
        if now < self._cut_until:
            self._total_per_s *= 0.5
            return self._decide(signals, "refused: cut until the effect can be seen")
        if self._bursts(signals):
            self._total_per_s = max(self._total_per_s, rate * self._burst(signals))
            grew = True
        if grew:
            return self._decide(signals, "starved: growing")
        state = "draining the queue" if depth > 2 * setpoint else "holding the queue"
        return self._decide(signals, "nobody consumes" if signals.consumers == 0 else state)

    def _find(self, signals: Signals) -> Decision:
        """Queue a few messages more than are in work, and wait for the first departure."""
        self._total_per_s = self._probing_per_s(signals)
        if self._bursts(signals):
            self._total_per_s *= self._burst(signals)
        return self._decide(signals, "nobody consumes" if signals.consumers == 0 else "finding the bottleneck")

    def _probing_per_s(self, signals: Signals) -> float:
        room = self._bottleneck.servers + _PROBES * self._start_per_s / self._began_per_s
        # Nothing can be known of what is on its way, and of what was when the last report was made.
        ways = _WAYS_COUNTED if self._bottleneck.queue.far else _WAYS
        room += self._start_per_s * ways * self._bottleneck.way_s
        room -= self._bottleneck.queue.depth or 0.0
        late = signals.quality <= SignalQuality.LATE and signals.consumers != 0
        if late and not signals.ready and not signals.missing:
            room = inf  # it takes seconds until a departure shows, unless consumers soon hold all they may
        return max(0.0, min(self._start_per_s, room / self._config.tick_s))

    def _decide(self, signals: Signals, reason: str, *, floor_per_s: float = 0.0) -> Decision:
        rate = self._config.clamp(self._share * self._total_per_s, floor_per_s=floor_per_s)
        window = self._confirms.window(signals, rate, self._share * self._held)
        if signals.quality is SignalQuality.BLIND and signals.missing:
            reason = f"{reason}; {signals.missing}"
        return Decision(rate, reason, window, self._bottleneck.rate_per_s, self._extra)

    def _setpoint(self, rate_per_s: float) -> float:
        tick_s, bottleneck = self._config.tick_s, self._bottleneck
        step = min(1.0, self._gain_per_s * tick_s)
        ways = 1 if bottleneck.counted else _WAYS
        blind_s = bottleneck.departed_age_s + ways * bottleneck.way_s + tick_s / (step * (2 - step))
        passing = rate_per_s * blind_s
        sigma = sqrt(bottleneck.variance(blind_s) if bottleneck.counted else bottleneck.dispersion * passing)
        idle = self._idle * (1 + blind_s / _IDLE_AGE_S) if bottleneck.counted else self._idle
        idle *= _DATED if bottleneck.dated else 1
        if bottleneck.late and bottleneck.hides and not bottleneck.starting and bottleneck.way_s <= FAR_S:
            # A rate from few departures lasts for one interval; a queue for all that it may be is late for many.
            idle *= 1 + bottleneck.doubt(blind_s)
        spread = inverse_loss(idle * passing / sigma) * sigma if sigma > 0 else 0.0
        least = self._config.target_wait_s * rate_per_s * (_UNSEEN if bottleneck.counted else 1.0)
        if bottleneck.late:
            least += _UNDOUBTED * bottleneck.hardly_any
        wanted = bottleneck.servers + max(least, spread) + self._extra
        if bottleneck.counted:
            wanted += _UNEVEN * bottleneck.dispersion * (bottleneck.servers - 1)
        return min(self._cap, wanted + self._trial.depth)

    @property
    def _gain_per_s(self) -> float:
        """What part of the queue's error is corrected in a second: where counts are exact, age is no reason to wait."""
        exact = self._bottleneck.counted and not self._bottleneck.late
        service_s = self._bottleneck.service_s if self._bottleneck.rare and not self._bottleneck.counted else 0.0
        return self._gain / (self._config.tick_s + (0.0 if exact else self._bottleneck.age_s) + service_s)

    def _adapt_extra(self, signals: Signals, rate_per_s: float, elapsed_s: float) -> None:
        if signals.told_extra is not None:
            self._extra = signals.told_extra
            return
        bottleneck = self._bottleneck
        surplus = max(0.0, bottleneck.idle - _IDLE_ALLOWED)
        memory_s = _EXTRA_MEMORY_S
        if bottleneck.rare:
            memory_s = max(memory_s, min(_LONGEST_EXTRA_S, _EXTRA_MEMORY * bottleneck.service_s))
        self._extra += elapsed_s * (_IDLE_GAIN * surplus * rate_per_s - self._extra / memory_s)
        depth, most = bottleneck.queue.depth, _DISAGREED * self._held
        if bottleneck.rare and depth is not None and not signals.adds_up:
            self._extra += elapsed_s * _AGREED_PER_S * max(-most, min(most, depth - self._held))
            self._extra = max(0.0, self._extra)

    def _grow(self, signals: Signals, now: float, loop_s: float) -> bool:
        """Double the estimate when the queue stays empty; return whether it did."""
        bottleneck = self._bottleneck
        if bottleneck.rate_per_s is None and self._soon_full(signals):
            if now - self._raised_at >= 2 * loop_s and not signals.application_limited:
                self._start_per_s *= 1.0 if self._raised_at == -inf else 2.0
                self._raised_at = now
            return False
        if signals.quality is SignalQuality.BLIND and not signals.missing:
            return False  # counts will come
        if bottleneck.counted:
            return self._grow_as_counted(signals, now, loop_s)
        if bottleneck.empty_since is None or signals.application_limited or signals.consumers == 0:
            return False
        loops = 1 if bottleneck.rate_per_s is None else 3 if bottleneck.measured else 2
        since = max(self._raised_at, bottleneck.empty_since)
        if now - since < loops * loop_s or not bottleneck.may_be_faster:
            return False
        self._raised_at = now
        if bottleneck.rate_per_s is None:
            self._start_per_s *= 2
        elif bottleneck.rate_per_s * signals.share < _MOST_BEYOND_DEMAND * min(signals.demand_per_s, _FASTEST_PER_S):
            bottleneck.raise_rate(2.0)
        return True

    def _soon_full(self, signals: Signals) -> bool:
        """Whether silent consumers may hold so little that it may be sent to see when they have it.

        What they hold is then known, and what leaves the queue is seen.
        """
        most = signals.held_at_most
        few = most is not None and most <= self._began_per_s * _FILLED_IN_S
        return few and signals.quality <= SignalQuality.LATE and not signals.ready and bool(signals.consumers)

    def _has_sent_enough_unseen(self, signals: Signals) -> bool:
        """Whether more may be with the consumers than should be, when nothing has been seen to leave since.

        Where ready alone is known, messages that wait show that consumers are full, and what leaves then is seen.
        """
        sent = signals.confirmed_total + signals.in_flight
        if signals.quality is not SignalQuality.BLIND or signals.ready or not signals.consumers:
            self._seen_sent = sent
        return bool(signals.missing) and sent - self._seen_sent >= _MOST_UNSEEN

    def _bursts(self, signals: Signals) -> bool:
        """Whether to send a burst now, just before a count that is rare, because the last one found consumers idle.

        The count then tells how much of the burst they have done.
        """
        interval_s, tick_s = signals.count_interval_s, self._config.tick_s
        if not self._bottleneck.idle_counts or signals.application_limited or not signals.consumers:
            return False
        if signals.backlog_doubt_s:
            return True  # nobody knows when the next count is made: a little more is sent all the time
        return 0 < signals.next_count_in_s <= max(2 * tick_s, _BURST * interval_s)

    def _burst(self, signals: Signals) -> float:
        """Return by how much the rate grows in a burst."""
        if signals.backlog_doubt_s:
            return _LONG_BURSTS[min(self._bottleneck.idle_counts, len(_LONG_BURSTS)) - 1]
        idle_counts = len(_BURSTS) if self._bottleneck.starting else self._bottleneck.idle_counts
        factor = _BURSTS[min(idle_counts, len(_BURSTS)) - 1]
        return factor / self._raised_by  # of what is proven

    def _grow_as_counted(self, signals: Signals, now: float, loop_s: float) -> bool:
        """Raise the estimate when counts show consumers idle, by what they could do more.

        It is a question: without a newer count soon the answer is no.
        """
        bottleneck = self._bottleneck
        if bottleneck.late:
            return self._trust_the_first_count(signals, now)
        if bottleneck.starting:
            return self._probe_more(signals, now, loop_s)
        self._answer_growth(now, loop_s)
        if signals.application_limited or now - self._raised_at < 2 * loop_s:
            return False
        if bottleneck.spare < _SPARE or signals.backlog_age_s > loop_s:
            return False
        self._raised_at = now
        factor = min(2.0, 1 / (1 - bottleneck.spare))
        if bottleneck.rate_per_s is None:
            self._start_per_s *= factor
            bottleneck.spare = 0.0
        elif bottleneck.rate_per_s * signals.share < _MOST_BEYOND_DEMAND * min(signals.demand_per_s, _FASTEST_PER_S):
            bottleneck.raise_rate(factor)
            self._raised_by = factor
        return True

    def _answer_growth(self, now: float, loop_s: float) -> None:
        """Take back what was added to the estimate, if messages wait now, or no newer count has come for long.

        If consumers are in fact faster, what leaves now says so.
        """
        bottleneck, queue = self._bottleneck, self._bottleneck.queue
        if self._raised_by == 1 or bottleneck.changed_at >= self._raised_at:
            self._raised_by = 1.0
            return
        newer = queue.read_at > self._raised_at
        if (newer and queue.there > bottleneck.servers) or (not newer and now - self._raised_at >= 2 * loop_s):
            bottleneck.raise_rate(1 / self._raised_by)
            self._raised_by = 1.0

    def _probe_more(self, signals: Signals, now: float, loop_s: float) -> bool:
        """At the start, let twice as many messages go if a count shows that those before did not keep consumers busy.

        All of them were done within a loop time then, so twice as many wait no longer than another one.
        """
        bottleneck, queue = self._bottleneck, self._bottleneck.queue
        busy = max(0.0, queue.there - 1) / max(1, signals.consumers or 1)  # one message may just have come
        way_s = bottleneck.way_s if queue.far else 0.0
        new = queue.done_at - way_s >= self._raised_at + self._config.tick_s / 2  # what was sent since may be done
        seen = new and signals.backlog_age_s <= loop_s + way_s
        left = queue.left_by(queue.read_at, queue.reading)
        if signals.application_limited or not seen or left <= self._seen_left or busy > 1 - _SPARE:
            return False
        self._raised_at, self._seen_left = now, left
        if self._start_per_s * signals.share < _MOST_BEYOND_DEMAND * min(signals.demand_per_s, _FASTEST_PER_S):
            self._start_per_s *= min(2.0, 1 / busy) if busy else 2.0
        bottleneck.spare = 0.0
        return bottleneck.rate_per_s is not None

    def _trust_the_first_count(self, signals: Signals, now: float) -> bool:
        """At the start, take a rare count that found consumers idle for more than the lower bound it is.

        They can do half as much again, as a rule, and until the next count nothing else could tell.
        """
        bottleneck = self._bottleneck
        if bottleneck.queue.read_at > self._raised_at:
            self._raised_by = 1.0
        if self._raised_at == -inf and self._bursts(signals):
            self._raised_at = now  # it asks for more than that
        proven = bottleneck.starting and bottleneck.idle_counts > 0 and bottleneck.rate_per_s is not None
        if not proven or signals.application_limited or self._raised_at > -inf:
            return False
        self._raised_at, self._raised_by = now, _TRUST
        bottleneck.raise_rate(_TRUST, until_counted=True)
        return True

    def _watch_refusals(self, signals: Signals, now: float, loop_s: float, elapsed_s: float) -> None:
        """After a nack the queue's bound is below the setpoint: cut the rate once, and aim lower for a while."""
        self._cap *= 1 + _CAP_RECOVERY_PER_S * elapsed_s
        if signals.nacked_total > self._nacked and now >= self._cut_until:
            self._cut_until = now + 2 * loop_s  # until its effect can be seen
            self._cap = max(1.0, 0.7 * min(self._cap, self._bottleneck.queue.depth or 1.0))
        self._nacked = signals.nacked_total


class _DepthTrial:
    """Finds out how many messages silent consumers have in work at once, by trying a deeper and a shallower queue.

    A consumer may hand what it holds to threads or processes of its own. Then more leaves the deeper the queue is, up
    to what it has in work when all are busy. So now and then, once departures are even, the queue is twice as deep for
    a moment: if clearly more leaves, the depth stays and the next trial follows at once, or else the next comes later.
    What is kept is given up again in quarters, where that costs no departures. Where the depth varies anyway, as before
    irregular consumers, and no more leaves when it is deeper, there is nothing to try.

    Attributes:
        depth: messages in addition to those in work if each consumer works on one.
    """

    def __init__(self) -> None:
        self.depth = 0.0
        self._kept = 0.0
        self._pause_s = _TRIAL_FIRST_S
        self._stage = 0  # waiting, watching what is usual, letting the step take effect, watching what it does
        self._since = (0.0, 0.0)  # moment, and how many messages had left by then
        self._usual_per_s = 0.0
        self._step = 0.0
        self._down = False
        self._effect = _DepthEffect()

    def update(self, bottleneck: Bottleneck, signals: Signals, held: float) -> None:
        """Begin, watch or judge a trial; ``held`` is the setpoint at the last tick."""
        rate, queue = bottleneck.rate_per_s, bottleneck.queue
        at = queue.read_at
        left = (at, queue.left_by(at, queue.reading))
        self._effect.see(at, left[1], queue.reading)
        if not bottleneck.counted or bottleneck.late or signals.application_limited or not rate or not held:
            self.depth, self._stage, self._since = self._kept, 0, left
            return
        watch_s = min(_TRIAL_LONGEST_S, max(_TRIAL_SHORTEST_S, _TRIAL_EVENTS / rate))
        elapsed_s = at - self._since[0]
        if elapsed_s < (self._pause_s, watch_s, watch_s / 2, watch_s)[self._stage]:
            return
        per_s = (left[1] - self._since[1]) / elapsed_s
        self._since = left
        if self._stage == 0 and not self._kept and self._effect.none:
            self._pause_s = min(_TRIAL_RARELY_S, 2 * self._pause_s)
            return
        self._stage = (self._stage + 1) % 4
        if self._stage == 2:
            self._usual_per_s = per_s
            self._step = -self._kept / 4 if self._down and self._kept > 1 else max(2.0, held)
            self.depth = max(0.0, self._kept + self._step)
        elif self._stage == 0:
            self._judge(per_s, bottleneck.dispersion, elapsed_s)

    def _judge(self, per_s: float, dispersion: float, watched_s: float) -> None:
        doubt = 2 * sqrt(2 * dispersion * max(1.0, self._usual_per_s) / watched_s)
        grew = per_s > 1.1 * self._usual_per_s + doubt
        fell = per_s < 0.95 * self._usual_per_s - doubt / 2
        if self._step > 0 and grew:
            self._kept, self._pause_s = self.depth, _TRIAL_FIRST_S / 4
        else:
            self._kept = self.depth if self._step < 0 and not fell else self._kept
            self._down = self._pause_s >= _TRIAL_RARELY_S and not self._down
            self._pause_s = min(_TRIAL_RARELY_S, 2 * self._pause_s)
        self.depth = self._kept


class _DepthEffect:
    """Whether more leaves when the queue is deeper, as far as it varies by itself: a regression, discounted over 3 s.

    What leaves between two counts is held against the depth at the count before both: the error of a count is in what
    left before and after it.
    """

    def __init__(self) -> None:
        self._counts: deque[tuple[float, float, float]] = deque(maxlen=3)
        self._sums = [0.0] * 6

    def see(self, at: float, left: float, depth: float) -> None:
        """Take in a count, if it is new."""
        if self._counts and at <= self._counts[-1][0]:
            return
        self._counts.append((at, left, depth))
        if len(self._counts) == 3:
            (_, _, x), (start, before, _), _ = self._counts
            span_s = at - start
            y, keep = (left - before) / span_s, exp(-span_s / _EFFECT_MEMORY_S)
            new = (1.0, x, y, x * x, x * y, y * y)
            self._sums = [keep * total + one for total, one in zip(self._sums, new, strict=True)]

    @property
    def none(self) -> bool:
        """Whether it is beyond doubt that what leaves grows by less than half as much as the depth."""
        n, x, y, xx, xy, yy = self._sums
        if n < _EFFECT_SAMPLES:
            return False
        spread, slope_sum = xx / n - (x / n) ** 2, xy / n - x * y / n**2
        if spread <= 0 or x <= 0:
            return False
        slope = slope_sum / spread
        rest = max(0.0, yy / n - (y / n) ** 2 - slope * slope_sum)
        return slope + 2 * sqrt(rest / n / spread) < y / x / 2


_MEMORY_S = 1.0
_SLOW_S = 0.1
_SLOW_RATIO = 10
_LONGEST_FLIGHT_S = 0.25
_LEAST = 1


class ConfirmLatencyTracker:
    """Learns how long confirms usually take, and computes how many messages may be unconfirmed.

    Formula: window = queued + 2·rate·L + 1, with L the usual latency. Of two successive ticks the quicker one counts,
    so that a single stall does not look like a slower broker; a lower latency is adopted gradually, over a second. If
    the broker stopped now, the consumers would use up the queue, and ``queued`` messages in its place are all they need
    when it continues. More would only wait behind the stall.

    When confirms take ten times their minimum and more than 100 ms, the broker itself queues messages: then 2·L counts
    as a quarter of a second at most.

    Attributes:
        stalled: whether confirms took more than twice the usual time, or more are missing than is usual. It includes
        the tick before, because what is reported now began then.
    """

    def __init__(self) -> None:
        self.stalled = False
        self._stalls = False
        self._usual_s: float | None = None
        self._last_s: float | None = None
        self._rate_per_s = 0.0

    def update(self, signals: Signals, elapsed_s: float) -> None:
        """Take in the latencies and the messages in flight; the last call was ``elapsed_s`` ago."""
        latency_s, usual_s = signals.confirm_latency_s, self._usual_s
        if usual_s is not None:
            before, allowed = self._stalls, _LEAST + 2 * usual_s * self._rate_per_s
            self._stalls = signals.in_flight > allowed or (latency_s or 0.0) > 2 * usual_s
            self.stalled = self._stalls or before
        if latency_s is None:
            return
        sample_s = latency_s if self._last_s is None else min(latency_s, self._last_s)
        self._last_s = latency_s
        if usual_s is None or sample_s > usual_s:
            self._usual_s = sample_s
        else:
            self._usual_s = usual_s + min(1.0, elapsed_s / _MEMORY_S) * (sample_s - usual_s)

    def window(self, signals: Signals, rate_per_s: float, queued: float) -> int | None:
        """Return how many messages may be unconfirmed at this rate; None: no limit but the settings'."""
        self._rate_per_s = rate_per_s
        if self._usual_s is None or not queued:
            return None
        flight_s, latency_s, least_s = 2 * self._usual_s, signals.confirm_latency_s, signals.confirm_latency_min_s
        if latency_s and least_s and latency_s >= max(_SLOW_S, _SLOW_RATIO * least_s):
            flight_s = min(flight_s, _LONGEST_FLIGHT_S)
        return _LEAST + ceil(queued + rate_per_s * flight_s)


_Z99 = 2.326
_BEYOND = 0.01
_AGES = 20


def wait_bound_s(
    bottleneck_per_s: float,
    service_cv2: float,
    feedback_age_s: float,
    *,
    tick_s: float = 0.1,
    target_wait_s: float = 0.02,
    utilisation: float = 0.99,
    counted_every_s: float = 0.0,
) -> float:
    """Return the p99 queue wait in seconds of a law that corrects its whole error at every tick (normal approximation).

    Formula, with T = feedback age + tick (the time no correction can reach), C the time between two counts, and
    σ²(u) = cv²·μ·(T + u), u being the time since the last count, between 0 and C: k from σ(C)·L(k) =
    (1 − utilisation)·μ·(T + C), where L is the normal loss function; w = max(target, kσ/μ) + (1 + cv²)/(2μ); the wait
    at each u is normal, with mean w and variance σ²/μ² + cv²·w/μ. The bound is the p99 of their mixture; for C = 0,
    w + 2.33·√(σ²/μ² + cv²·w/μ).

    Args:
        bottleneck_per_s: μ.
        service_cv2: squared coefficient of variation of the bottleneck's service times; 0 for fixed ones.
        feedback_age_s: mean age of what is known about departures when it is used; with ``counted_every_s``, of a new
            count.
        tick_s: how often the law decides.
        target_wait_s: wait it aims for in any case.
        utilisation: part of the capacity that must not be wasted.
        counted_every_s: how far apart counts are, if nothing is known between two; 0: something always is.
    """
    blind_s = feedback_age_s + tick_s
    longest_s = blind_s + counted_every_s
    sigma = sqrt(service_cv2 * bottleneck_per_s * longest_s)
    k = inverse_loss((1 - utilisation) * bottleneck_per_s * longest_s / sigma) if sigma > 0 else 0.0
    waits = []
    for part in range(_AGES):
        age_s = blind_s + counted_every_s * (part + 0.5) / _AGES
        spread_s = sqrt(service_cv2 * age_s / bottleneck_per_s)
        mean_s = max(target_wait_s, k * spread_s) + (1 + service_cv2) / (2 * bottleneck_per_s)
        waits.append((mean_s, sqrt(spread_s**2 + service_cv2 * mean_s / bottleneck_per_s)))
    low_s, high_s = 0.0, max(mean_s + 2 * _Z99 * spread_s for mean_s, spread_s in waits)
    for _ in range(40):
        wait_s = (low_s + high_s) / 2
        beyond = sum(_beyond(wait_s - mean_s, spread_s) for mean_s, spread_s in waits) / _AGES
        low_s, high_s = (wait_s, high_s) if beyond > _BEYOND else (low_s, wait_s)
    return high_s


def _beyond(distance_s: float, spread_s: float) -> float:
    """Return how likely a normal variable is above its mean by more than ``distance_s``."""
    return erfc(distance_s / spread_s / sqrt(2)) / 2 if spread_s > 0 else float(distance_s < 0)


def inverse_loss(loss: float) -> float:
    """Return k ≥ 0 with E[max(0, Z − k)] = ``loss`` for a standard normal Z; 0 where even that loses less."""
    low, high = 0.0, 10.0
    for _ in range(30):
        k = (low + high) / 2
        if exp(-k * k / 2) / sqrt(2 * pi) - k * erfc(k / sqrt(2)) / 2 > loss:
            low = k
        else:
            high = k
    return low
