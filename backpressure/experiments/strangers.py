"""What can be said of a run whose programs are not ours: their accounts, and how each figure was obtained.

A figure that nobody can know is not 0: it has an entry here that says why, and is None in the summary.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backpressure.core.journal import ProducerRecord
from backpressure.core.ledger import IdSet
from backpressure.core.message import parse_message_id
from backpressure.experiments.accounts import Accounts
from backpressure.experiments.events import OutcomesRead, StrangersCounted
from backpressure.experiments.outcomes import LedgerSettings, OutcomeSource, Sighting

LEFT_AT = {"left_in_queue": -1, "dead_lettered": -2, "dropped": -3}
SENT_AT = -4
"""In the first column of ``outcomes.tsv``, in place of a source: ids that the queues still held, and ids sent."""

_UNKNOWN = "not known: "


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How the figures of a run were obtained, where they are not from journals of ours.

    Attributes:
        sources: by figure; empty when all programs are ours.
        counted: what somebody else has counted.
        strange: the roles that are not played by our processes.
        foreign: messages that the queues still held and that have no id of ours, by state.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    counted: StrangersCounted | None = None
    strange: frozenset[str] = frozenset()
    foreign: Mapping[str, int] = field(default_factory=dict)

    def unknown(self, figure: str) -> bool:
        """Whether nobody can know ``figure``."""
        return self.sources.get(figure, "").startswith(_UNKNOWN)


class SentTimes:
    """When each message of our producers was to be sent, and was sent."""

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[array[int], array[int]]] = {}

    def noting(self, records: Iterable[ProducerRecord]) -> Iterable[ProducerRecord]:
        """Yield ``records`` on, and note their times."""
        for record in records:
            intended, sent = self._sessions.setdefault(record.session, (array("q"), array("q")))
            missing = record.sequence + 1 - len(sent)
            if missing > 0:
                intended.extend([0] * missing)
                sent.extend([0] * missing)
            intended[record.sequence], sent[record.sequence] = record.intended_ns, record.sent_ns
            yield record

    def of(self, session: int, sequence: int) -> tuple[int, int]:
        """Return when the message was to be sent and was sent; 0 where that is not known."""
        intended, sent = self._sessions.get(session, (array("q"), array("q")))
        return (intended[sequence], sent[sequence]) if sequence < len(sent) else (0, 0)


class StrangerAccounts:
    """Puts what was seen of each message into the accounts, by its id.

    Attributes:
        foreign: outcomes whose ids were not sent.
        repeated: ids that were sent more than once: then a ledger of them says nothing.
        without_id: confirmed messages without an id.
    """

    def __init__(
        self, accounts: Accounts, sources: Sequence[OutcomeSource], times: SentTimes, *, ids_are_ours: bool
    ) -> None:
        """``ids_are_ours``: they are the message ids of our producers; otherwise `sent` tells which ids there are."""
        self.foreign = self.repeated = self.without_id = 0
        self._accounts = accounts
        self._sources = sources
        self._times = times
        self._find: Callable[[str], tuple[int, int] | None] = parse_message_id
        self._ids: dict[str, tuple[int, int]] = {}
        self._seen: dict[int, IdSet] = {}
        self._again: Counter[int] = Counter()
        if not ids_are_ours:
            self._find = self._ids.get

    def sent(self, text: str, session: int, sequence: int) -> None:
        """A message of our producers has the id ``text``."""
        before = self._ids.setdefault(text, (session, sequence))
        self.repeated += before != (session, sequence)

    def take(self, number: int, sighting: Sighting) -> None:
        """Take in a line of ``outcomes.tsv``: those of `SENT_AT` come first."""
        if number >= 0:
            self.outcome(number, sighting)
        elif number == SENT_AT:
            self.sent_by_stranger(sighting.id)
        else:
            self.left(number, sighting.id)

    def sent_by_stranger(self, text: str) -> None:
        """The broker took a message with this id from a producer that is not ours."""
        number = len(self._ids)
        if self._ids.setdefault(text, (0, number)) == (0, number):
            self._accounts.ledger.confirmed.add(0, number)
        else:
            self.repeated += 1

    def check_ids(self) -> None:
        """Count the confirmed messages without an id."""
        known = IdSet()
        for session, sequence in self._ids.values():
            known.add(session, sequence)
        self.without_id = self._accounts.ledger.confirmed.count_minus(known)

    def left(self, state: int, text: str) -> None:
        """A queue still held the message with this id at the end; ``state`` is one of `LEFT_AT`."""
        ledger = self._accounts.ledger
        found = self._find(text)
        if found is not None:
            sets = {-1: ledger.left_in_queue, -2: ledger.dead_lettered, -3: ledger.dropped}
            sets[state].add(*found)

    def outcome(self, number: int, sighting: Sighting) -> None:
        """OutcomeSource ``number`` has shown this outcome."""
        accounts, found = self._accounts, self._find(sighting.id)
        if found is None:
            self.foreign += 1
            return
        if not self._seen.setdefault(number, IdSet()).add(*found):
            self._again[number] += 1
            return
        if self._sources[number].dead:
            accounts.ledger.dead_lettered.add(*found)
            return
        if not accounts.ledger.processed.add(*found):
            return  # another source has shown it
        intended_ns, sent_ns = self._times.of(*found)
        begun_ns = intended_ns or sighting.created_ns
        if sighting.at_ns:
            accounts.done_ns.append(sighting.at_ns)
            if begun_ns:
                accounts.end_to_end.add(sighting.at_ns, max(0, sighting.at_ns - begun_ns))
        if sighting.started_ns and (sent_ns or sighting.created_ns):
            accounts.waits.add(sighting.started_ns, max(0, sighting.started_ns - (sent_ns or sighting.created_ns)))

    def close(self) -> None:
        """Set the duplicates: of the source that showed the most, for another only shows the same."""
        self._accounts.ledger.duplicates = max(self._again.values(), default=0)

    @property
    def problem(self) -> str:
        """Why these ids say nothing about loss; "" when they do."""
        if self.repeated:
            return f"{self.repeated} messages have an id that another one has; an id has to be sent once only"
        if self.without_id:
            return f"{self.without_id} confirmed messages have no id where the ledger looks for it"
        return ""


def knowledge_of(
    strange: frozenset[str],
    ledger: LedgerSettings | None,
    counted: StrangersCounted | None,
    outcomes: OutcomesRead | None,
    accounts: StrangerAccounts | None,
    *,
    rate_stated: bool,
) -> Knowledge:
    """Return how each figure was obtained; ``accounts`` and ``outcomes`` are there when the ledger was kept."""
    why_not_counted = "the broker's counts were not read"
    if counted is not None and counted.problem:
        why_not_counted, counted = counted.problem, None
    sources: dict[str, str] = {}
    if "consumer" in strange:
        _consumer_figures(sources, ledger, counted, outcomes, accounts, why_not_counted, rate_stated=rate_stated)
    if "producer" in strange:
        _producer_figures(sources, counted, accounts, why_not_counted)
        if "consumer" not in strange:
            sources["processed"] = "journals of our consumers, counted: messages of others have no id of ours"
        if accounts is None:
            reason = f"{_UNKNOWN}messages of others have no id of ours"
            sources |= dict.fromkeys(("lost", "duplicates", "out_of_order"), reason)
    foreign = outcomes.foreign if outcomes is not None and accounts is None else {}
    return Knowledge(sources, counted, strange, foreign)


def _consumer_figures(
    sources: dict[str, str],
    ledger: LedgerSettings | None,
    counted: StrangersCounted | None,
    outcomes: OutcomesRead | None,
    accounts: StrangerAccounts | None,
    why_not_counted: str,
    *,
    rate_stated: bool,
) -> None:
    counts = f"counted by {counted.by}" if counted else f"{_UNKNOWN}{why_not_counted}"
    for figure in ("delivered", "redelivered"):
        sources[figure] = counts
    sources["acknowledged"] = counts
    automatic = counted is not None and counted.without_ack
    if automatic:
        sources["acknowledged"] = f"{_UNKNOWN}the consumers acknowledge automatically, before the work"
    problem = "no [ledger] names an outcome"
    if ledger is not None:
        problem = _problem(outcomes, accounts)
    if ledger is not None and not problem:
        assert accounts is not None
        places = " and ".join(ledger.outcome)
        foreign = f"; {accounts.foreign} outcomes had ids that were not sent" if accounts.foreign else ""
        sources["processed"] = f"{ledger.id} of what was sent, seen in {places}{foreign}"
        sources["duplicates"] = f"ids seen more than once in {places}"
        sources["lost"] = (
            f"ids that the broker confirmed, and that are neither in {places}, nor among the dead letters, nor left in "
            "the queue"
        )
    else:
        sources["processed"] = sources["acknowledged"] if counted else counts
        if counted and not automatic:
            sources["processed"] = f"acknowledgements, counted by {counted.by}"
        sources["duplicates"] = f"{_UNKNOWN}{problem}"
        sources["lost"] = f"{_UNKNOWN}{problem}" + ("; acknowledged is not done" if ledger is None else "")
    sources["out_of_order"] = f"{_UNKNOWN}the consumers keep no journal"
    timed = ledger is not None and any(text.startswith("queue:") for text in ledger.outcome)
    sources["end_to_end_ms"] = (
        f"intended sending to arrival of the result in {next(t for t in ledger.outcome if t.startswith('queue:'))}"
        if ledger is not None and timed
        else f"{_UNKNOWN}no queue of results is watched"
    )
    sources["wait_ms"] = (
        f"sending to {ledger.started} of the result"
        if ledger is not None and ledger.started
        else f"{_UNKNOWN}the consumers do not tell when work begins (ledger.started)"
    )
    if not rate_stated:
        sources["utilisation"] = f"{_UNKNOWN}the scenario does not state what one consumer can do (consumer.rate)"


def _problem(outcomes: OutcomesRead | None, accounts: StrangerAccounts | None) -> str:
    if outcomes is None or accounts is None:
        return "the run ended before the outcomes were read"
    if outcomes.problems:
        return "; ".join(f"{source} {problem}" for source, problem in outcomes.problems.items())
    return accounts.problem


def _producer_figures(
    sources: dict[str, str],
    counted: StrangersCounted | None,
    accounts: StrangerAccounts | None,
    why_not_counted: str,
) -> None:
    counts = f"counted by {counted.by}" if counted else f"{_UNKNOWN}{why_not_counted}"
    sources["confirmed"] = sources["published"] = counts if accounts is None else "copies in the audit queue"
    for figure in (
        "offered",
        "rejected",
        "returned",
        "refused",
        "discarded",
        "confirm_ms",
        "signal_age_ms",
        "tick_lateness_ms",
        "fairness_jain",
    ):
        sources[figure] = f"{_UNKNOWN}the producers are not ours"
