"""Accounts of programs that are not ours: what is lost is found out by ids, and what nobody knows is None."""

from __future__ import annotations

from collections.abc import Iterable

from backpressure.core.journal import Outcome, ProducerRecord
from backpressure.core.message import message_id
from backpressure.experiments.accounts import Accounts
from backpressure.experiments.analysis import summarise
from backpressure.experiments.events import OutcomesRead, StrangersCounted
from backpressure.experiments.outcomes import LedgerSettings, OutcomeSource, Sighting
from backpressure.experiments.recording import RecordedPhase, Recording, Sample
from backpressure.experiments.strangers import (
    LEFT_AT,
    SENT_AT,
    Knowledge,
    SentTimes,
    StrangerAccounts,
    knowledge_of,
)
from backpressure.experiments.summary import Expectation, Summary

S = 1_000_000_000
CONSUMER = frozenset({"consumer"})
LEDGER = LedgerSettings(id="header:order", outcome=["queue:done"])
DONE = [OutcomeSource("queue:done"), OutcomeSource("queue:failed", dead=True)]


def sent(accounts: Accounts, times: SentTimes, number: int) -> None:
    records = (ProducerRecord(7, n, Outcome.CONFIRMED, n * S, n * S + 5, n * S + 9) for n in range(number))
    accounts.add_producer("producer-1", times.noting(records))


def kept(outcomes: Iterable[tuple[int, Sighting]], *, messages: int = 5, ids: bool = True) -> StrangerAccounts:
    accounts, times = Accounts(), SentTimes()
    sent(accounts, times, messages)
    seen = StrangerAccounts(accounts, DONE, times, ids_are_ours=False)
    for n in range(messages if ids else messages - 1):
        seen.sent(f"order-{n}", 7, n)
    for number, sighting in outcomes:
        seen.take(number, sighting)
    seen.check_ids()
    seen.close()
    seen.accounts = accounts  # type: ignore[attr-defined]
    return seen


def totals(seen: StrangerAccounts) -> tuple[int, int, int, int]:
    found = seen.accounts.ledger.totals()  # type: ignore[attr-defined]
    return found.processed, found.dead_lettered, found.left_in_queue, found.lost


def test_a_confirmed_message_that_is_seen_nowhere_is_lost() -> None:
    seen = kept(
        [
            (0, Sighting("order-0", 9 * S)),
            (1, Sighting("order-1")),
            (LEFT_AT["left_in_queue"], Sighting("order-2")),
            (0, Sighting("order-0", 10 * S)),
        ]
    )
    assert totals(seen) == (1, 1, 1, 2)
    assert seen.accounts.ledger.duplicates == 1  # type: ignore[attr-defined]
    assert seen.problem == ""


def test_another_source_that_shows_the_same_outcome_makes_no_duplicate() -> None:
    accounts, times = Accounts(), SentTimes()
    sent(accounts, times, 1)
    seen = StrangerAccounts(accounts, [OutcomeSource("queue:a"), OutcomeSource("file:b")], times, ids_are_ours=True)
    for number in (0, 1):
        seen.outcome(number, Sighting(message_id(7, 0)))
    seen.close()
    assert (accounts.ledger.duplicates, accounts.ledger.totals().processed) == (0, 1)


def test_times_come_from_the_producers_journal_and_from_what_the_outcome_tells() -> None:
    seen = kept([(0, Sighting("order-3", 9 * S, started_ns=4 * S))])
    accounts: Accounts = seen.accounts  # type: ignore[attr-defined]
    assert list(accounts.end_to_end.length_ns) == [6 * S]
    assert list(accounts.waits.length_ns) == [S - 5]
    assert list(accounts.done_ns) == [9 * S]


def test_ids_that_are_not_unique_or_missing_make_a_ledger_worthless_and_it_says_so() -> None:
    seen = kept([], ids=False)
    assert "1 confirmed messages have no id" in seen.problem
    seen = kept([])
    seen.sent("order-0", 7, 99)
    assert "an id has to be sent once only" in seen.problem


def test_outcomes_of_other_messages_are_counted_and_otherwise_ignored() -> None:
    seen = kept([(0, Sighting("order-4711"))])
    assert (seen.foreign, totals(seen)) == (1, (0, 0, 0, 5))


def test_what_a_producer_of_others_sent_is_taken_from_the_audit_queue() -> None:
    accounts = Accounts()
    seen = StrangerAccounts(accounts, DONE, SentTimes(), ids_are_ours=False)
    for number, text in ((SENT_AT, "a"), (SENT_AT, "b"), (SENT_AT, "c"), (0, "a"), (LEFT_AT["left_in_queue"], "b")):
        seen.take(number, Sighting(text))
    seen.close()
    found = accounts.ledger.totals()
    assert (found.confirmed, found.processed, found.left_in_queue, found.lost) == (3, 1, 1, 1)


COUNTED = StrangersCounted(
    at_ns=1, by="the broker", published=5, delivered=6, acknowledged=4, redelivered=1
)  # fmt: skip
READ = OutcomesRead(at_ns=1)


def summary(knowledge: Knowledge, accounts: Accounts, samples: list[Sample] | None = None) -> Summary:
    return summarise(
        Recording(
            scenario="t",
            strategy="pace",
            broker="B",
            broker_version="1",
            started_at="",
            expectations=[Expectation("lost", "==", 0)],
            phases=[RecordedPhase("one", 0, 10 * S)],
            loads=[],
            processes=[],
            samples=samples or [],
            outcome="finished",
            queues_read=True,
            accounts=accounts,
            knowledge=knowledge,
        )
    )


def test_without_a_ledger_acknowledged_counts_as_processed_and_loss_is_unknown() -> None:
    accounts = Accounts()
    sent(accounts, SentTimes(), 5)
    knowledge = knowledge_of(CONSUMER, None, COUNTED, None, None, rate_stated=False)
    found = summary(knowledge, accounts, [Sample(t_s=2.0, acknowledged=4)])
    assert (found.totals.processed, found.totals.acknowledged, found.totals.delivered) == (4, 4, 6)
    assert (found.totals.lost, found.totals.duplicates, found.totals.out_of_order) == (None, None, None)
    assert (found.totals.confirmed, found.totals.published) == (5, 5)
    assert found.phases[0].process_rate == 0.4
    assert found.verdict == "failed"  # an expectation of what is not known does not hold
    assert found.sources["processed"] == "acknowledgements, counted by the broker"
    assert found.sources["lost"].startswith("not known: no [ledger]")


def test_automatic_acknowledgements_say_nothing_about_work() -> None:
    counted = COUNTED.model_copy(update={"without_ack": 6, "acknowledged": 0})
    found = summary(knowledge_of(CONSUMER, None, counted, None, None, rate_stated=True), Accounts())
    assert (found.totals.processed, found.totals.acknowledged, found.totals.delivered) == (None, None, 6)
    assert found.phases[0].process_rate is None
    assert "automatically" in found.sources["processed"]


def test_with_a_ledger_every_state_is_known_by_id() -> None:
    seen = kept([(0, Sighting("order-0", 9 * S)), (0, Sighting("order-1", 9 * S))])
    knowledge = knowledge_of(CONSUMER, LEDGER, COUNTED, READ, seen, rate_stated=True)
    found = summary(knowledge, seen.accounts)  # type: ignore[attr-defined]
    assert (found.totals.processed, found.totals.lost, found.totals.duplicates) == (2, 3, 0)
    assert found.sources["lost"].startswith("ids that the broker confirmed")
    assert "utilisation" not in found.sources


def test_outcomes_without_times_give_totals_and_no_rates() -> None:
    seen = kept([(0, Sighting("order-0")), (0, Sighting("order-1"))])
    knowledge = knowledge_of(CONSUMER, LEDGER, None, READ, seen, rate_stated=True)
    found = summary(knowledge, seen.accounts)  # type: ignore[attr-defined]
    assert (found.totals.processed, found.phases[0].process_rate, found.utilisation) == (2, None, None)


def test_a_ledger_whose_outcomes_could_not_be_read_knows_nothing_of_loss() -> None:
    seen = kept([])
    broken = READ.model_copy(update={"problems": {"http://127.0.0.1/done": "does not answer"}})
    for outcomes, reason in ((None, "ended before"), (broken, "does not answer")):
        knowledge = knowledge_of(CONSUMER, LEDGER, COUNTED, outcomes, seen, rate_stated=True)
        found = summary(knowledge, seen.accounts)  # type: ignore[attr-defined]
        assert (found.totals.lost, found.totals.duplicates) == (None, None)
        assert reason in found.sources["lost"]
        assert found.totals.processed == 4  # what was acknowledged is still known


def test_of_producers_of_others_only_what_the_broker_took_is_known() -> None:
    knowledge = knowledge_of(frozenset({"producer"}), None, COUNTED, None, None, rate_stated=True)
    found = summary(knowledge, Accounts(), [Sample(t_s=1.0, entered=5)])
    assert (found.totals.confirmed, found.totals.published, found.totals.offered) == (5, 5, None)
    assert (found.totals.rejected, found.totals.lost) == (None, None)
    assert found.phases[0].publish_rate == 0.5
    nothing = knowledge_of(
        frozenset({"producer"}), None, StrangersCounted(at_ns=1, problem="no API"), None, None, rate_stated=True
    )
    assert summary(nothing, Accounts()).totals.confirmed is None
    assert nothing.sources["confirmed"] == "not known: no API"
