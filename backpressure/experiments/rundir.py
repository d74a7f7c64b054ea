"""The run directory: everything a run observes is written to it at once, and read back as a `Recording`.

It is valid at every moment: each file is complete up to its last line or record, so a run that was killed can still be
analysed. Layout: ``scenario.toml run.json events.jsonl samples.jsonl remains.csv journals/ logs/ announce/``, then
``summary.json report.html``; with a ledger also ``outcomes.tsv``.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from backpressure.core.journal import (
    RECORD_BYTES,
    ConsumerRecord,
    Outcome,
    ProducerRecord,
    count_outcomes,
    read_records,
)
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.accounts import Accounts
from backpressure.experiments.document import parse
from backpressure.experiments.events import (
    AgentNoted,
    Event,
    FaultBegan,
    FaultEnded,
    LoadChanged,
    OutcomesRead,
    PhaseBegan,
    PhaseEnded,
    ProcessEnded,
    ProcessStarted,
    RunEnded,
    StrangersCounted,
    read_event,
)
from backpressure.experiments.outcomes import Sighting, read_line
from backpressure.experiments.recording import (
    RecordedAgent,
    RecordedFault,
    RecordedPhase,
    RecordedProcess,
    Recording,
    Sample,
)
from backpressure.experiments.scenario import Scenario, build
from backpressure.experiments.strangers import SENT_AT, Knowledge, SentTimes, StrangerAccounts, knowledge_of
from backpressure.experiments.summary import Summary

Line = TypeVar("Line")
Record = TypeVar("Record", ProducerRecord, ConsumerRecord)

_CHUNK_BYTES = RECORD_BYTES << 14
_MOST_SAMPLED = 40_000  # records, of producers and consumers: twice the messages whose latency is broken down

_LEFTOVER = re.compile(r"(\d+),(\d+),(left_in_queue|dead_lettered|dropped)\n")

LEFTOVER_STATES = ("left_in_queue", "dead_lettered", "dropped")
"""What may be found in the queues at the end: the third column of ``remains.csv``."""


class RunFacts(BaseModel):
    """``run.json``: what is known when the processes are ready. ``start_ns`` is when the first phase began."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    strategy: str
    broker: str
    broker_version: str
    broker_address: str
    started_at: str
    start_ns: int
    command: str
    environment: dict[str, str]


def create(runs: Path, name: str, now: datetime) -> RunDirectory:
    """Make a new directory ``<time>-<name>`` under ``runs``; raises `ConfigError` when that is not possible."""
    stem = f"{now:%Y%m%d-%H%M%S}-{name}"
    for number in count(1):
        path = runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
            for part in ("journals", "logs", "announce"):
                (path / part).mkdir()
        except FileExistsError:
            if runs.is_dir():
                continue  # another run began in the same second
            raise ConfigError("--runs", str(runs), "is not a directory") from None
        except OSError as error:
            raise ConfigError("--runs", str(runs), f"cannot be written to: {error.strerror}") from None
        return RunDirectory(path)
    raise AssertionError("unreachable: count() does not end")


class RunDirectory:
    """Paths, writers and readers of one run. Writers raise `ExperimentError`, for example on a full disk."""

    def __init__(self, path: Path) -> None:
        """``path`` may be relative; child processes get absolute paths."""
        self.path = path.resolve()

    def journal(self, process: str) -> Path:
        """Where ``process`` writes its records."""
        return self.path / "journals" / f"{process}.journal"

    def ids(self, process: str) -> Path:
        """Where a producer notes the id that the ledger looks for, of each message."""
        return self.path / "journals" / f"{process}.ids"

    @property
    def sightings(self) -> Path:
        """What was seen of the messages that programs of others have worked on."""
        return self.path / "outcomes.tsv"

    def log(self, process: str) -> Path:
        """Where the output of ``process`` goes."""
        return self.path / "logs" / f"{process}.log"

    def clock(self, role: str) -> Path:
        """Where the processes of ``role`` read how wrong their wall clock is, in a run with moved clocks."""
        return self.path / f"{role}.clock"

    def announcement(self, process: str) -> Path:
        """Where ``process`` announces that it is ready."""
        return self.path / "announce" / f"{process}.json"

    @property
    def broker_data(self) -> Path:
        """Where a private embedded broker stores what must survive its restarts.

        It is not a temporary directory, because a killed run could not remove that.
        """
        return self.path / "broker"

    def remove_broker_data(self) -> None:
        """Remove the broker's data; at the end of a run ``remains.csv`` says what its queues held."""
        rmtree(self.broker_data, ignore_errors=True)

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def has_begun(self) -> bool:
        """Whether the first phase began, so that there is something to analyse."""
        return (self.path / "run.json").exists()

    def write_scenario(self, text: str) -> None:
        """Save the scenario as it is run, overrides included."""
        self._replace("scenario.toml", text)

    def write_facts(self, facts: RunFacts) -> None:
        """Write ``run.json``."""
        self._replace("run.json", facts.model_dump_json(indent=2) + "\n")

    def write_summary(self, summary: Summary) -> None:
        """Write ``summary.json``."""
        self._replace("summary.json", summary.model_dump_json(indent=2) + "\n")

    def write_report(self, page: str) -> None:
        """Write ``report.html``."""
        self.write_page(self.report.name, page)

    def write_page(self, name: str, text: str) -> None:
        """Write the file ``name``, whole or not at all."""
        self._replace(name, text)

    def append_event(self, event: Event) -> None:
        """Append one line to ``events.jsonl``."""
        self._append("events.jsonl", event.model_dump_json())

    def append_sample(self, sample: Sample) -> None:
        """Append one line to ``samples.jsonl``."""
        self._append("samples.jsonl", sample.to_json())

    @contextmanager
    def writing_leftovers(self) -> Iterator[Callable[[int, int, str], None]]:
        """Provide a function that writes session, sequence and state of a leftover message.

        The file appears when all of them are written, or not at all: with half of them, messages would look lost.
        """
        part = self.path / "remains.csv.part"
        with self._writing("remains.csv"):
            with part.open("w", encoding="ascii") as file:
                yield lambda session, sequence, state: print(session, sequence, state, sep=",", file=file)
            part.replace(self.path / "remains.csv")

    def facts(self) -> RunFacts:
        """Read ``run.json``; raises `ConfigError` when the run did not get as far as its first phase."""
        if not self.has_begun:
            raise ConfigError("run", str(self.path), "not the directory of a run that has begun")
        with self._reading("run.json") as path:
            return RunFacts.model_validate_json(path.read_bytes())

    def scenario(self) -> Scenario:
        """Read ``scenario.toml``. Like all methods that read, raises `ConfigError` when the file is damaged."""
        with self._reading("scenario.toml") as path:
            return build(parse(path.read_text(encoding="utf-8-sig"), "scenario.toml"), "scenario.toml")

    def events(self) -> list[Event]:
        """Read ``events.jsonl``."""
        return self._lines("events.jsonl", read_event)

    def samples(self) -> list[Sample]:
        """Read ``samples.jsonl``, which does not exist before the first sample."""
        if not (self.path / "samples.jsonl").exists():
            return []
        return self._lines("samples.jsonl", Sample.from_json)

    def accounts(self) -> Accounts:
        """Read all journals, the leftover messages, and what was seen of messages that programs of others had."""
        return self._known(self.scenario(), self.events())[0]

    def _known(self, scenario: Scenario, events: list[Event]) -> tuple[Accounts, Knowledge]:
        """Return the accounts, and how their figures were obtained."""
        with self._reading("journals") as folder:
            journals = sorted(folder.glob("*.journal"))
            records = max(1, sum(path.stat().st_size for path in journals) // RECORD_BYTES)
        accounts = Accounts(sampled_share=_MOST_SAMPLED / records)
        times = SentTimes()
        for path in journals:
            with self._reading(f"journals/{path.name}"):
                if path.stem.startswith("producer"):
                    sent: Iterable[ProducerRecord] = _records(path, ProducerRecord)
                    accounts.add_producer(path.stem, times.noting(sent) if scenario.ledger else sent)
                else:
                    accounts.add_consumer(_records(path, ConsumerRecord))
        ledger = accounts.ledger
        sets = dict(zip(LEFTOVER_STATES, (ledger.left_in_queue, ledger.dead_lettered, ledger.dropped), strict=True))
        with self._reading("remains.csv"):
            for session, sequence, state in self._leftovers():
                sets[state].add(session, sequence)
        if len(ledger.left_in_queue) and not scenario.strange:
            for path in journals:
                if path.stem.startswith("producer"):
                    accounts.add_left(_records(path, ProducerRecord))
        seen = self._strangers(scenario, accounts, times)
        if next(ledger.lost(), None) is not None:
            for path in journals:
                producer = path.stem.startswith("producer")
                accounts.add_lost(_records(path, ProducerRecord) if producer else _records(path, ConsumerRecord))
        if not scenario.strange:
            return accounts, Knowledge()
        counted = next((event for event in events if isinstance(event, StrangersCounted)), None)
        read = next((event for event in events if isinstance(event, OutcomesRead)), None)
        knowledge = knowledge_of(
            scenario.strange, scenario.ledger, counted, read, seen, rate_stated=scenario.rate_stated
        )
        return accounts, knowledge

    def _strangers(self, scenario: Scenario, accounts: Accounts, times: SentTimes) -> StrangerAccounts | None:
        """Add to ``accounts`` what was seen of each message, where a ledger says how to find out."""
        if scenario.ledger is None:
            return None
        ours = "producer" not in scenario.strange
        seen = StrangerAccounts(
            accounts,
            scenario.ledger.sources(run=str(self.path)),
            times,
            ids_are_ours=ours and scenario.ledger.id_is_ours,
        )
        for path in sorted((self.path / "journals").glob("*.ids")):
            with self._reading(f"journals/{path.name}"):
                for session, sequence, text in _ids(path):
                    seen.sent(text, session, sequence)
        sighted = list(self._sighted()) if self.sightings.exists() else []
        for number, sighting in sorted(sighted, key=lambda entry: entry[0] != SENT_AT):  # what was sent comes first
            seen.take(number, sighting)
        if ours and not scenario.ledger.id_is_ours:
            seen.check_ids()
        seen.close()
        return seen

    def _sighted(self) -> Iterator[tuple[int, Sighting]]:
        with self._reading(self.sightings.name) as path, path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield read_line(line)

    def outcomes(self, process: str) -> Counter[Outcome]:
        """Count what ``process`` has settled so far, running or not; a pattern such as ``consumer-*`` names several."""
        counted: Counter[Outcome] = Counter()
        for path in (self.path / "journals").glob(f"{process}.journal"):
            for chunk in _chunks(path):
                counted.update(count_outcomes(chunk))
        return counted

    def recording(self) -> Recording:
        """Read everything; raises `ConfigError` when the directory does not hold a run."""
        facts, scenario, events, samples = self.facts(), self.scenario(), self.events(), self.samples()
        for event in events:
            ours = {"producer", "consumer"} - scenario.strange
            if isinstance(event, ProcessStarted) and event.role in ours:
                with self._reading(f"journals/{event.id}.journal") as path:
                    path.stat()  # without it, all messages of this process would look lost
        last_ns = max((event.at_ns for event in events), default=facts.start_ns)
        if samples:
            last_ns = max(last_ns, facts.start_ns + round(samples[-1].t_s * 1e9))
        ended = next((event for event in events if isinstance(event, RunEnded)), None)
        accounts, knowledge = self._known(scenario, events)
        return Recording(
            scenario=scenario.name,
            strategy=facts.strategy,
            broker=facts.broker,
            broker_version=facts.broker_version,
            started_at=facts.started_at,
            expectations=scenario.expectations,
            phases=_phases(events, scenario, last_ns),
            loads=[event for event in events if isinstance(event, LoadChanged)],
            processes=_processes(events, last_ns),
            faults=_faults(events, last_ns),
            samples=samples,
            outcome=ended.outcome if ended else "interrupted",
            reason=ended.reason if ended else "the run was killed",
            queues_read=(self.path / "remains.csv").exists(),
            journals_whole=all(event.complete for event in events if isinstance(event, ProcessEnded)),
            agents=_agents(events),
            accounts=accounts,
            knowledge=knowledge,
        )

    def _leftovers(self) -> Iterator[tuple[int, int, str]]:
        path = self.path / "remains.csv"
        if path.exists():
            with path.open(encoding="ascii") as file:
                for number, line in enumerate(file, start=1):
                    found = _LEFTOVER.fullmatch(line)
                    if found is None:
                        raise ValueError(f"line {number} is not a session, a sequence number and a state")
                    yield int(found[1]), int(found[2]), found[3]

    def _lines(self, name: str, read: Callable[[bytes], Line]) -> list[Line]:
        """Return every complete line of a file; a last line without its end was cut off when the process was killed."""
        lines: list[Line] = []
        with self._reading(name) as path, path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    try:
                        lines.append(read(line))
                    except ValueError as error:
                        raise ValueError(f"line {number}: {_reason(error)}") from None
        return lines

    def _append(self, name: str, line: str) -> None:
        """Append a complete line, or nothing."""
        with self._writing(name), (self.path / name).open("ab", buffering=0) as file:
            data = f"{line}\n".encode()
            before = file.tell()
            if file.write(data) < len(data):
                file.truncate(before)  # half a line would spoil the next one, once there is space again
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _replace(self, name: str, text: str) -> None:
        part = self.path / f"{name}.part"
        with self._writing(name):
            part.write_text(text, encoding="utf-8")
            part.replace(self.path / name)

    @contextmanager
    def _reading(self, name: str) -> Iterator[Path]:
        """Provide the path of a file. Any problem with it becomes one line that names the file."""
        try:
            yield self.path / name
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError("run", str(self.path), f"{name} cannot be read: {_reason(error)}") from None

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ExperimentError(f"{self.path / name} cannot be written: {error.strerror}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _ids(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield session, sequence and id from what an `IdJournal` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):  # the producer may have been killed in the middle of one
                session, sequence, text = line.split("\t", 2)
                yield int(session), int(sequence), str(json.loads(text))


def _records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a journal, piece by piece; raises `ValueError` where it is damaged."""
    ended = False
    for chunk in _chunks(path):
        read = 0
        for record in () if ended else read_records(chunk):
            if not isinstance(record, kind):
                raise ValueError("it holds the records of another kind of process")  # noqa: TRY004 - no caller's mistake
            read += RECORD_BYTES
            yield record
        ended = ended or len(chunk) - read >= RECORD_BYTES
        if ended and chunk[read:].strip(b"\0"):
            raise ValueError("there are records behind its end")


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield a journal in pieces of whole records. It is not mapped: unwritten parts of the file take no disk space."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _phases(events: list[Event], scenario: Scenario, last_ns: int) -> list[RecordedPhase]:
    planned = {phase.name: phase for phase in scenario.phases}
    ends = {event.name: event for event in events if isinstance(event, PhaseEnded)}
    phases: list[RecordedPhase] = []
    for event in events:
        if isinstance(event, PhaseBegan):
            end, plan = ends.get(event.name), planned.get(event.name)
            end_ns, reached = (end.at_ns, end.reached) if end else (last_ns, None)
            law, fault = plan.circumstances if plan else ("", "")
            phases.append(RecordedPhase(event.name, event.at_ns, end_ns, reached, law, fault))
    return phases


def _faults(events: list[Event], last_ns: int) -> list[RecordedFault]:
    """Return the faults in order. Only one is active at a time, so each ends with the next end of its name."""
    faults: list[RecordedFault] = []
    for number, event in enumerate(events):
        if isinstance(event, FaultBegan):
            ends = (e.at_ns for e in events[number:] if isinstance(e, FaultEnded) and e.name == event.name)
            faults.append(RecordedFault(event.name, event.at_ns, next(ends, last_ns)))
    return faults


def _agents(events: list[Event]) -> list[RecordedAgent]:
    """Return the agents in the order in which they joined, with what was last known of each."""
    last = {event.name: event for event in events if isinstance(event, AgentNoted)}
    return [
        RecordedAgent(event.name, event.host, event.clock_uncertainty_ms, event.round_trip_ms, event.state == "lost")
        for event in last.values()
    ]


def _processes(events: list[Event], last_ns: int) -> list[RecordedProcess]:
    ends = {event.id: event.at_ns for event in events if isinstance(event, ProcessEnded)}
    return [
        RecordedProcess(event.role, event.id, event.pid, event.at_ns, ends.get(event.id, last_ns), event.agent)
        for event in events
        if isinstance(event, ProcessStarted)
    ]
