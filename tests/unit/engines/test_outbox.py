"""Whatever the broker answers and whenever the connection breaks, a message is in exactly one place."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stage import Records, ours

from backpressure.core.journal import Outcome, ProducerRecord
from backpressure.engines.clock import Clock
from backpressure.engines.outbox import Outbox, Outgoing
from backpressure.transports.base import Cause, Refusal

NACK_PAUSE_S = 0.5


class HandClock(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        super().__init__(anchor_ns=1)
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wall_ns(self) -> int:
        return self.to_wall_ns(self.seconds)


def outbox(clock: Clock, records: Records | None = None, window: int = 10) -> Outbox:
    return Outbox(session=7, window=window, nack_pause_s=NACK_PAUSE_S, clock=clock, journal=records)  # type: ignore[arg-type]  # writes to a list


def outgoing(sequence: int, **given: Any) -> Outgoing:
    return Outgoing(ours(sequence), sequence, intended_ns=sequence, **given)


class OutboxMachine(RuleBasedStateMachine):
    """Any order of sending, confirms, nacks, returns, lost links; in the end the producer stops."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.records = Records()
        self.box = outbox(self.clock, self.records)
        self.tag = 0
        self.created: list[Outgoing] = []

    def send(self, item: Outgoing) -> None:
        item.stamped(self.clock.wall_ns())
        self.tag += 1
        self.box.sent(self.tag, item)

    def new(self, may_retry: bool) -> Outgoing:
        item = outgoing(len(self.created), may_retry=may_retry)
        self.created.append(item)
        return item

    @rule(may_retry=st.booleans())
    def send_a_new_one(self, may_retry: bool) -> None:
        self.send(self.new(may_retry))

    @rule(may_retry=st.booleans())
    def request_one(self, may_retry: bool) -> None:
        self.box.add_urgent(self.new(may_retry))

    @precondition(lambda self: self.box.urgent)
    @rule()
    def send_an_urgent_one(self) -> None:
        self.send(self.box.next_urgent())

    @precondition(lambda self: self.box.urgent)
    @rule()
    def fail_to_send_an_urgent_one(self) -> None:
        first = self.box.next_urgent()
        first.stamped(self.clock.wall_ns())
        self.box.not_sent(first)
        assert self.box._urgent[0] is first

    @precondition(lambda self: self.box.due_again(self.clock.now()))
    @rule()
    def send_a_refused_one_again(self) -> None:
        self.send(self.box.next_again())

    @rule(back=st.integers(0, 12), multiple=st.booleans())
    def confirm(self, back: int, multiple: bool) -> None:
        self.box.confirm(self.tag - back, multiple=multiple)

    @rule(back=st.integers(0, 12), multiple=st.booleans())
    def nack(self, back: int, multiple: bool) -> None:
        self.box.nack(self.tag - back, multiple=multiple)

    @rule(sequence=st.integers(0, 30))
    def tell_it_was_returned(self, sequence: int) -> None:
        self.box.mark_returned(ours(sequence).message_id, "NO_ROUTE (312)")

    @rule()
    def lose_the_link(self) -> None:
        in_flight = self.box.in_flight.items()
        self.box.connection_lost()
        self.tag = 0
        assert [self.box._urgent[index] for index in range(len(in_flight))] == in_flight

    @rule(seconds=st.floats(0, 1))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        box = self.box
        open_now = [*box.in_flight.items(), *box._urgent, *(item for _, item in box._again)]
        places = Counter([item.sequence for item in open_now] + [record.sequence for record in self.records])
        assert places == Counter(range(len(self.created)))
        assert box.open == len(open_now)

    @invariant()
    def the_counters_add_up(self) -> None:
        box = self.box
        outcomes = Counter(record.outcome for record in self.records)
        assert (box.confirmed, box.rejected, box.returned) == (
            outcomes[Outcome.CONFIRMED],
            outcomes[Outcome.REJECTED],
            outcomes[Outcome.RETURNED],
        )
        assert box.settled + box.open + box.unsettled == len(self.created)
        assert box.published == sum(item.attempts > 0 for item in self.created)
        assert box.published + box.republished == sum(item.attempts for item in self.created)
        assert box.confirm_latency.total == box.confirmed + box.returned
        assert box.nacked >= box.rejected

    def teardown(self) -> None:
        self.box.abandon()
        assert self.box.open == 0
        self.every_message_is_in_exactly_one_place()
        self.the_counters_add_up()


OutboxMachine.TestCase.settings = hypothesis_settings(max_examples=100, stateful_step_count=30, deadline=None)
TestOutboxLaws = OutboxMachine.TestCase


def test_a_refused_message_waits_out_its_pause_and_others_keep_their_turn() -> None:
    clock = HandClock()
    box = outbox(clock)
    first, second = outgoing(0), outgoing(1)
    for tag, item in enumerate([first, second], start=1):
        item.stamped(0)
        box.sent(tag, item)
    box.nack(1, multiple=False)
    clock.seconds = 0.2
    box.nack(2, multiple=False)
    assert not box.due_again(0.49)
    assert box.again_wait_s(0.2) == pytest.approx(0.3)
    assert box.due_again(0.5)
    assert box.next_again() is first
    assert not box.due_again(0.5)
    assert box.again_wait_s(0.5) == pytest.approx(0.2)
    assert box.next_again() is second
    assert box.again_wait_s(0.5) is None


def test_what_would_be_refused_again_is_rejected_at_once_with_its_reason() -> None:
    box = outbox(HandClock(), records := Records())
    item = outgoing(0)
    item.stamped(0)
    box.sent(1, item)
    box.nack(1, multiple=False, refusal=Refusal(Cause.TOO_LARGE, "message too large"))
    assert not box.due_again(1e9)
    assert [record.outcome for record in records] == [Outcome.REJECTED]


def test_a_message_returned_on_a_link_that_broke_is_judged_again_on_the_next() -> None:
    box = outbox(HandClock())
    item = outgoing(0)
    item.stamped(0)
    box.sent(1, item)
    box.mark_returned(item.message.message_id, "NO_ROUTE (312)")
    box.connection_lost()
    assert box.next_urgent() is item
    item.stamped(0)
    box.sent(1, item)
    box.confirm(1, multiple=False)
    assert (box.confirmed, box.returned) == (1, 0)


def test_a_returned_message_is_sent_once_more_when_the_queues_may_have_been_gone() -> None:
    clock, records = HandClock(), Records()
    box = outbox(clock, records)
    item = outgoing(0)
    item.stamped(0)
    box.sent(1, item)
    assert box.mark_returned(item.message.message_id, "NO_ROUTE (312)")
    box.confirm(1, multiple=False)
    assert box.due_again(clock.now())
    assert box.next_again() is item
    item.stamped(0)
    box.sent(2, item)
    assert not box.mark_returned(item.message.message_id, "NO_ROUTE (312)")
    box.confirm(2, multiple=False)
    assert [record.outcome for record in records] == [Outcome.RETURNED]
    assert (box.confirmed, box.returned, box.open) == (0, 1, 0)


def test_of_two_messages_with_one_id_each_return_takes_another() -> None:
    box = outbox(HandClock())
    for tag in (1, 2):
        item = outgoing(0)
        item.stamped(0)
        box.sent(tag, item)
        assert box.mark_returned(item.message.message_id, "NO_ROUTE (312)")
    box.confirm(2, multiple=True)
    assert (box.confirmed, box.open) == (0, 2)


def test_the_record_says_when_a_message_was_due_sent_last_and_settled_and_in_how_many_attempts() -> None:
    clock, records = HandClock(), Records()
    box = outbox(clock, records)
    item = outgoing(42)
    for tag in (1, 2):
        clock.seconds += 1
        item.stamped(clock.wall_ns())
        box.sent(tag, item)
        if tag == 1:
            box.nack(1, multiple=False)
            box.next_again()
    clock.seconds = 5
    box.confirm(2, multiple=False)
    at = clock.to_wall_ns
    assert records == [ProducerRecord(7, 42, Outcome.CONFIRMED, 42, at(2), at(5), attempts=2)]
    assert box.confirm_latency.sum_s == pytest.approx(3)


def test_the_message_carries_the_time_of_its_last_attempt_and_keeps_its_id() -> None:
    item = outgoing(3)
    first, second = item.stamped(111), item.stamped(222)
    assert (first.headers["sent_ns"], second.headers["sent_ns"]) == (111, 222)
    assert first.message_id == second.message_id == ours(3).message_id
