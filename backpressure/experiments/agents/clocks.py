"""Compares the clock of another machine with ours by round trips (Cristian 1989; NTP's four times).

A message cannot arrive before it was sent. So each round trip bounds what must be added to their clock to get ours:

    sent - received  <=  ours - theirs  <=  got - returned

The width of that interval is the time both messages were under way, whatever the two directions took each. All
intervals contain the truth, so their intersection does; an older one counts as wider, because clocks do not run equally
fast. The middle is the best estimate, and half the width bounds its error: no assumption about the network is made.
"""

from __future__ import annotations

DRIFT = 100e-6
"""By how much two clocks may run apart: more than two crystals, or two clocks that NTP keeps, differ as a rule."""


class ClockComparison:
    """What is known of one other clock. All times are nanoseconds."""

    def __init__(self) -> None:
        self._low_ns = self._high_ns = 0
        self._at_ns = 0
        self.samples = 0
        self.round_trip_ns = 0
        """The shortest so far."""
        self._anchor_ns: int | None = None
        self._worst_ns = 0

    def add(self, sent_ns: int, received_ns: int, returned_ns: int, got_ns: int) -> None:
        """Note a round trip: sent and got by our clock, received and returned by theirs."""
        low_ns, high_ns = sent_ns - received_ns, got_ns - returned_ns
        if high_ns < low_ns:
            return  # an answer to something else
        trip_ns = high_ns - low_ns
        self.round_trip_ns = min(self.round_trip_ns, trip_ns) if self.samples else trip_ns
        if self.samples:
            drifted_ns = round(DRIFT * (got_ns - self._at_ns))
            wide_low_ns = max(low_ns, self._low_ns - drifted_ns)
            wide_high_ns = min(high_ns, self._high_ns + drifted_ns)
            if wide_low_ns <= wide_high_ns:  # else one of them was set, or stood still
                low_ns, high_ns = wide_low_ns, wide_high_ns
        self._low_ns, self._high_ns, self._at_ns = low_ns, high_ns, got_ns
        self.samples += 1
        if self._anchor_ns is not None:
            self._worst_ns = max(self._worst_ns, self._error_ns(self._anchor_ns))

    @property
    def uncertainty_ns(self) -> int:
        """How wrong a clock may be that was set by `anchor`, at the worst moment since; before that, would be now."""
        return self._worst_ns if self._anchor_ns is not None else -(-(self._high_ns - self._low_ns) // 2)

    def anchor(self) -> int:
        """Return what to add to their clock to get ours; it stays the same from the first call on."""
        if self._anchor_ns is None:
            self._anchor_ns = (self._low_ns + self._high_ns) // 2
            self._worst_ns = self._error_ns(self._anchor_ns)
        return self._anchor_ns

    def _error_ns(self, anchor_ns: int) -> int:
        return max(self._high_ns - anchor_ns, anchor_ns - self._low_ns)
