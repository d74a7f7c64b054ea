"""The outbox: every message that a producer has accepted and not yet settled, and what becomes of it.

It guarantees that the producer loses no message: each is in exactly one place (waiting, in flight, or settled), is kept
until the broker has answered for it, and is sent again with its old id after a nack or a lost connection. The outbox
counts, writes the journal, and knows nothing about rates.
"""

from __future__ import annotations

from collections import deque

from backpressure.core.histogram import Histogram
from backpressure.core.journal import Outcome, ProducerRecord
from backpressure.core.limiters import ConfirmWindow
from backpressure.engines.clock import Clock
from backpressure.engines.composer import Outgoing, Settlement
from backpressure.telemetry.journal_file import JournalWriter
from backpressure.transports.base import FULL, Cause, Refusal

__all__ = ["Outbox"]


class Outbox:
    """Waiting, in flight, settled: with totals, confirm latency and the journal."""

    def __init__(
        self, session: int, window: int, nack_pause_s: float, clock: Clock, journal: JournalWriter | None
    ) -> None:
        """At most ``window`` messages are in flight; a refused one goes again after ``nack_pause_s``."""
        self.session = session
        self.in_flight: ConfirmWindow[Outgoing] = ConfirmWindow(window)
        self.confirmed = self.nacked = self.rejected = self.returned = self.published = self.republished = 0
        self.unsettled = 0
        self.confirm_latency = Histogram()
        self._again: deque[tuple[float, Outgoing]] = deque()
        self._urgent: deque[Outgoing] = deque()
        self.nack_pause_s = nack_pause_s
        self._clock = clock
        self._journal = journal

    @property
    def settled(self) -> int:
        """Messages whose fate is known."""
        return self.confirmed + self.rejected + self.returned

    @property
    def open(self) -> int:
        """Accepted messages that are not settled yet."""
        return len(self.in_flight) + len(self._again) + len(self._urgent)

    @property
    def urgent(self) -> int:
        """Messages sent regardless of the pace: requested ones, and those unconfirmed when a connection was lost."""
        return len(self._urgent)

    def due_again(self, now: float) -> bool:
        """Return whether a refused message may be sent again at ``now``."""
        return bool(self._again) and self._again[0][0] <= now

    def again_wait_s(self, now: float) -> float | None:
        """Return the seconds until the first refused message may be sent again, or None when there is none."""
        return max(0.0, self._again[0][0] - now) if self._again else None

    def add_urgent(self, item: Outgoing) -> None:
        """Accept a message that is sent next, regardless of the pace."""
        self._urgent.append(item)

    def next_urgent(self) -> Outgoing:
        """Remove and return the next urgent message."""
        return self._urgent.popleft()

    def next_again(self) -> Outgoing:
        """Remove and return the refused message that has waited longest."""
        return self._again.popleft()[1]

    def sent(self, tag: int, item: Outgoing) -> None:
        """Record that ``item`` was handed to the transport under ``tag``."""
        if item.attempts == 1:
            self.published += 1
        else:
            self.republished += 1
        self.in_flight.sent(tag, item)

    def not_sent(self, item: Outgoing) -> None:
        """The transport did not take ``item``: it is sent next, and this does not count as an attempt."""
        item.attempts -= 1
        self._urgent.appendleft(item)

    def confirm(self, tag: int, *, multiple: bool) -> None:
        """The broker answers for one message, or for all up to it."""
        now_ns = self._clock.wall_ns()
        for item in self.in_flight.settle(tag, multiple=multiple):
            self.confirm_latency.record((now_ns - item.sent_ns) * 1e-9)
            if item.returned:
                self.returned += 1
                self._settle(item, Outcome.RETURNED, now_ns, item.returned)
            else:
                self.confirmed += 1
                self._settle(item, Outcome.CONFIRMED, now_ns)

    def nack(self, tag: int, *, multiple: bool, refusal: Refusal = FULL) -> None:
        """The broker refuses one message, or all up to it: they wait to go again, or are rejected."""
        now_ns = self._clock.wall_ns()
        not_before = self._clock.now() + self.nack_pause_s
        for item in self.in_flight.settle(tag, multiple=multiple):
            self.nacked += 1
            if item.may_retry and not refusal.final:
                self._again.append((not_before, item))
            else:
                self.rejected += 1
                self._settle(item, Outcome.REJECTED, now_ns, refusal.reason, refusal.cause)

    def mark_returned(self, message_id: str | None, reason: str) -> None:
        """Remember that the confirm to come for this message means "routed to no queue"."""
        for item in self.in_flight.items():
            if item.message.message_id == message_id:
                item.returned = reason

    def connection_lost(self) -> None:
        """Nothing in flight will be settled: all of it is sent again before anything else, oldest first."""
        self._urgent.extendleft(reversed(self.in_flight.lost()))

    def abandon(self) -> None:
        """Journal what is still open when the producer must end."""
        now_ns = self._clock.wall_ns()
        waiting = [item for _, item in self._again]
        for item in [*self.in_flight.lost(), *waiting, *self._urgent]:
            self.unsettled += 1
            self._settle(item, Outcome.UNSETTLED, now_ns, "the producer stopped before the broker answered")
        self._again.clear()
        self._urgent.clear()

    def _settle(
        self, item: Outgoing, outcome: Outcome, now_ns: int, reason: str = "", cause: Cause | None = None
    ) -> None:
        if self._journal is not None:
            self._journal.write(
                ProducerRecord(
                    self.session, item.sequence, outcome, item.intended_ns, item.sent_ns, now_ns, item.attempts
                )
            )
        if item.span is not None:
            item.span.end(now_ns, reason)
        if item.result is not None and not item.result.done():
            unanswered = item.attempts - (outcome is not Outcome.UNSETTLED)
            settlement = Settlement(
                item.message.message_id or "", outcome, reason, cause, may_have_arrived=unanswered > 0
            )
            item.result.set_result(settlement)
