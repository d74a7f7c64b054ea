"""The loss ledger: sets of ids, order within a session, and the balance of states."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.ledger import IdSet, Ledger, Order, OrderTracker
from backpressure.core.message import MAX_SEQUENCE, MAX_SESSION

IDS = st.tuples(st.integers(0, 3), st.one_of(st.integers(0, 40), st.integers(8180, 8200), st.just(MAX_SEQUENCE)))


def id_set(ids: list[tuple[int, int]]) -> IdSet:
    result = IdSet()
    for session, sequence in ids:
        result.add(session, sequence)
    return result


@given(st.lists(IDS))
def test_an_id_set_holds_what_a_set_of_pairs_holds(ids: list[tuple[int, int]]) -> None:
    subject = IdSet()
    reference: set[tuple[int, int]] = set()
    for pair in ids:
        assert subject.add(*pair) == (pair not in reference)
        reference.add(pair)
    assert len(subject) == len(reference)
    assert list(subject) == sorted(reference)
    assert all(pair in subject for pair in reference)
    assert (9, 9) not in subject


@given(st.lists(IDS), st.lists(IDS), st.lists(IDS))
def test_the_difference_of_id_sets_is_that_of_sets(
    ours: list[tuple[int, int]], first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    expected = sorted(set(ours) - set(first) - set(second))
    assert list(id_set(ours).minus(id_set(first), id_set(second))) == expected
    assert id_set(ours).count_minus(id_set(first), id_set(second)) == len(expected)


def test_a_page_that_is_full_is_still_known_bit_by_bit() -> None:
    subject = id_set([(7, sequence) for sequence in range(8193)])
    assert len(subject) == 8193
    assert not subject.add(7, 0)
    assert (7, 8191) in subject
    assert (7, 8193) not in subject
    assert list(subject.minus(id_set([(7, n) for n in range(1, 8193)]))) == [(7, 0)]


def test_an_invented_sequence_number_costs_one_page_not_the_gap_before_it() -> None:
    tracemalloc.start()
    try:
        subject = id_set([(MAX_SESSION, 0), (MAX_SESSION, MAX_SEQUENCE)])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(subject) == [(MAX_SESSION, 0), (MAX_SESSION, MAX_SEQUENCE)]
    assert peak_bytes < 100_000


def test_messages_in_sequence_are_new() -> None:
    tracker = OrderTracker()
    assert [tracker.observe(1, n) for n in (5, 6, 7)] == [Order.NEW] * 3
    assert (tracker.duplicates, tracker.out_of_order, tracker.gaps) == (0, 0, 0)


def test_a_message_seen_before_is_a_duplicate_and_changes_nothing_else() -> None:
    tracker = OrderTracker()
    assert [tracker.observe(1, n) for n in (1, 2, 1)] == [Order.NEW, Order.NEW, Order.DUPLICATE]
    assert (tracker.duplicates, tracker.out_of_order, tracker.gaps) == (1, 0, 0)


def test_a_message_below_the_highest_seen_is_out_of_order_and_closes_its_gap() -> None:
    tracker = OrderTracker()
    tracker.observe(1, 1)
    tracker.observe(1, 4)
    assert tracker.gaps == 2
    assert tracker.observe(1, 2) is Order.OUT_OF_ORDER
    assert (tracker.out_of_order, tracker.gaps) == (1, 1)


def test_a_message_before_the_first_seen_extends_the_span_that_gaps_are_counted_in() -> None:
    tracker = OrderTracker()
    tracker.observe(1, 5)
    assert tracker.observe(1, 2) is Order.OUT_OF_ORDER
    assert tracker.gaps == 2


def test_sessions_are_ordered_independently() -> None:
    tracker = OrderTracker()
    assert [tracker.observe(*pair) for pair in ((1, 9), (2, 3), (1, 10), (2, 4))] == [Order.NEW] * 4
    assert tracker.gaps == 0


def test_every_message_ends_in_exactly_one_state() -> None:
    ledger = Ledger()
    for sequence in range(1, 11):
        ledger.confirmed.add(1, sequence)
    ledger.rejected.add(1, 11)
    ledger.returned.add(1, 12)
    ledger.unsettled.add(1, 13)
    for sequence in (1, 2, 3, 4):
        ledger.add_processed(1, sequence)
    ledger.dead_lettered.add(1, 5)
    ledger.dropped.add(1, 6)
    for sequence in (7, 8):
        ledger.left_in_queue.add(1, sequence)

    totals = ledger.totals()
    assert (totals.confirmed, totals.processed, totals.dead_lettered, totals.dropped) == (10, 4, 1, 1)
    assert (totals.left_in_queue, totals.lost) == (2, 2)
    assert (totals.rejected, totals.returned, totals.unsettled) == (1, 1, 1)
    assert list(ledger.lost()) == [(1, 9), (1, 10)]


def test_a_message_processed_twice_is_one_message_and_one_duplicate() -> None:
    ledger = Ledger()
    ledger.confirmed.add(1, 1)
    ledger.add_processed(1, 1)
    ledger.add_processed(1, 1)
    totals = ledger.totals()
    assert (totals.processed, totals.duplicates, totals.lost) == (1, 1, 0)


def test_a_dead_letter_counts_where_it_is_found_and_is_lost_where_it_is_not() -> None:
    ledger = Ledger()
    for sequence in (1, 2, 3):
        ledger.confirmed.add(1, sequence)
        ledger.handed_over.add(1, sequence)
    ledger.dead_lettered.add(1, 1)
    ledger.add_processed(1, 3)  # its consumer was killed after handing it over: another one could work on it
    totals = ledger.totals()
    assert (totals.dead_lettered, totals.processed, totals.lost) == (1, 1, 1)
    assert list(ledger.lost()) == [(1, 2)]


def test_the_broker_answers_for_a_dead_letter_whose_producer_never_got_the_confirm() -> None:
    ledger = Ledger()
    ledger.unsettled.add(1, 1)
    for sequence in (1, 2):  # the producer of the second was killed and wrote nothing down
        ledger.handed_over.add(1, sequence)
    totals = ledger.totals()
    assert (totals.lost, totals.unsettled) == (2, 0)
    assert list(ledger.lost()) == [(1, 1), (1, 2)]


def test_counters_that_agree_by_accident_do_not_hide_a_loss() -> None:
    ledger = Ledger()
    for sequence in (1, 2):
        ledger.confirmed.add(1, sequence)
    ledger.add_processed(1, 1)
    ledger.add_processed(1, 1)  # two processings, two confirms: only the ids tell
    assert ledger.totals().lost == 1


def test_a_message_whose_confirm_never_came_but_was_processed_is_processed() -> None:
    ledger = Ledger()
    ledger.unsettled.add(1, 1)
    ledger.rejected.add(1, 2)
    ledger.add_processed(1, 1)
    ledger.left_in_queue.add(1, 2)
    totals = ledger.totals()
    assert (totals.processed, totals.left_in_queue, totals.unsettled, totals.rejected) == (1, 1, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 8), IDS)))
def test_the_states_always_add_up_to_the_messages_known(claims: list[tuple[int, tuple[int, int]]]) -> None:
    ledger = Ledger()
    sets = (
        ledger.confirmed,
        ledger.rejected,
        ledger.returned,
        ledger.unsettled,
        ledger.dead_lettered,
        ledger.dropped,
        ledger.left_in_queue,
        ledger.handed_over,
    )
    for state, pair in claims:
        if state == 8:
            ledger.add_processed(*pair)
        else:
            sets[state].add(*pair)
    totals = ledger.totals()
    states = (
        totals.processed
        + totals.dead_lettered
        + totals.dropped
        + totals.left_in_queue
        + totals.lost
        + totals.rejected
        + totals.returned
        + totals.unsettled
    )
    assert states == len({pair for _, pair in claims})
    assert totals.lost == len(list(ledger.lost()))


def test_a_million_messages_are_balanced_exactly() -> None:
    ledger = Ledger()
    for sequence in range(200_000):
        for session in range(5):
            ledger.confirmed.add(session, sequence)
            if (session, sequence) != (3, 123_456):
                ledger.add_processed(session, sequence)
    totals = ledger.totals()
    assert (totals.confirmed, totals.processed, totals.lost) == (1_000_000, 999_999, 1)
    assert list(ledger.lost()) == [(3, 123_456)]


def test_messages_that_fill_no_page_cost_two_bits_each() -> None:
    tracemalloc.start()
    try:
        subject = IdSet()
        before, _ = tracemalloc.get_traced_memory()
        for sequence in range(0, 200_000, 2):
            subject.add(1, sequence)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(subject) == 100_000
    assert after - before < 40_000
