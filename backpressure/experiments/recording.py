"""The data of one run: sampled ten times a second, read by `rundir` or made by `simulate`, used by the analysis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from statistics import fmean
from typing import ClassVar

import psutil
from pydantic import ConfigDict, TypeAdapter

from backpressure.core.snapshot import Snapshot
from backpressure.experiments.accounts import Accounts
from backpressure.experiments.events import LoadChanged, Note, Outcome
from backpressure.experiments.roles import ROLES
from backpressure.experiments.strangers import Knowledge
from backpressure.experiments.summary import Expectation


@dataclass(frozen=True, slots=True)
class StrangersSeen:
    """What the broker has last counted of the work queue, once a second, where programs are not ours."""

    entered: int
    acknowledged: int
    unacked: int
    without_ack: int = 0
    entered_per_s: float | None = None
    acked_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rates are messages per second over the last second. None means "unknown", for ``allowed_per_s`` also "no limit".

    Attributes:
        t_s: seconds since the first phase began.
        ready, unacked: of the work queue; their sum is the depth.
        offered_total: messages that the schedules of all producers have asked for so far.
        nacked_total: how often the broker has refused a message so far, all producers.
        dead_letters: messages in the dead-letter queue, or, where it is not seen, those that consumers gave up.
        in_flight: sent and unconfirmed, all producers; ``blocked`` of these the broker blocks.
        max_length: the queue's bound, ready messages; None: none, or not known.
        signal_age_ms: age of the laws' view of the consumers at their last decisions, mean over the producers.
        tick_lateness_ms: how much later than due the last tick of a producer's control loop began, the worst of them.
        reason: why the law of the most restrained producer decided as it did.
        entered, acknowledged: messages of the work queue so far, as its broker counts them; only where programs are not
            ours.
        rss_mb, cpu_s: resident memory and CPU time used so far, by process id.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore", allow_inf_nan=False, strict=True)

    t_s: float
    ready: int | None = None
    unacked: int | None = None
    offered_per_s: float | None = None
    published_per_s: float | None = None
    processed_per_s: float | None = None
    nacked_per_s: float | None = None
    allowed_per_s: float | None = None
    offered_total: int = 0
    nacked_total: int | None = None
    dead_letters: int = 0
    in_flight: int | None = None
    blocked: int = 0
    max_length: int | None = None
    signal_age_ms: float | None = None
    tick_lateness_ms: float | None = None
    reason: str = ""
    entered: int | None = None
    acknowledged: int | None = None
    rss_mb: Mapping[str, float] = field(default_factory=dict)
    cpu_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def depth(self) -> int | None:
        """Ready plus unacked; ready alone where unacked is unknown."""
        return None if self.ready is None else self.ready + (self.unacked or 0)

    def to_json(self) -> str:
        """Return one line of JSON, without its line end."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> Sample:
        """Return the sample in ``line``, ignoring what a later version added; raises `ValueError`."""
        return _ADAPTER.validate_json(line)


_ADAPTER = TypeAdapter(Sample)


class CostMeters:
    """Reads what processes of this machine cost."""

    def __init__(self) -> None:
        self._meters: dict[int, psutil.Process] = {}

    def read(self, pids: Mapping[str, int]) -> dict[str, tuple[float, float]]:
        """Return resident memory in MB and CPU seconds used so far of each living process, by id."""
        costs: dict[str, tuple[float, float]] = {}
        for process, pid in pids.items():
            try:
                meter = self._meters.get(pid) or self._meters.setdefault(pid, psutil.Process(pid))
                with meter.oneshot():
                    times = meter.cpu_times()
                    costs[process] = round(meter.memory_info().rss / 1e6, 1), round(times.user + times.system, 2)
            except psutil.Error:
                self._meters.pop(pid, None)  # it has just ended
        return costs


class Recorder:
    """Takes samples and reports new events of the observer; one for a run."""

    def __init__(self, work_queue: str) -> None:
        """``work_queue`` is the queue whose depth is recorded."""
        self._work_queue = work_queue
        self._meters = CostMeters()
        self._told_ns = 0

    def sample(
        self,
        t_s: float,
        snapshot: Snapshot,
        pids: Mapping[str, int],
        *,
        counted: StrangersSeen | None = None,
        remote: Mapping[str, tuple[float, float]] | None = None,
    ) -> Sample:
        """Return the sample at ``t_s``; ``pids`` are the processes to measure, by id.

        ``counted`` is what the broker counts of programs that are not ours; ``remote``: what processes on other
        machines cost.
        """
        queue = snapshot.queues.get(self._work_queue)
        allowed = snapshot.pacing_rate_per_s
        law = snapshot.law
        rates = snapshot.rates
        costs = {**self._meters.read(pids), **(remote or {})}
        ages_s = [producer.signal_age_s for producer in snapshot.producers if producer.signal_age_s is not None]
        late_s = [producer.tick_lateness_s for producer in snapshot.producers if producer.tick_lateness_s is not None]
        return Sample(
            t_s=round(t_s, 3),
            ready=queue.ready if queue else None,
            unacked=_either_count(queue.unacked if queue else None, counted),
            offered_per_s=rates.offered_per_s,
            published_per_s=_either(rates.published_per_s, counted.entered_per_s if counted else None),
            processed_per_s=_either(rates.processed_per_s, counted.acked_per_s if counted else None),
            nacked_per_s=rates.nacked_per_s,
            allowed_per_s=allowed if allowed is not None and isfinite(allowed) else None,
            offered_total=snapshot.totals.offered,
            nacked_total=snapshot.totals.nacked,
            dead_letters=snapshot.dead_letters,
            blocked=sum(producer.blocked for producer in snapshot.producers),
            max_length=queue.max_length if queue else None,
            in_flight=sum(producer.in_flight for producer in snapshot.producers) if snapshot.producers else None,
            signal_age_ms=round(fmean(ages_s) * 1000, 1) if ages_s else None,
            tick_lateness_ms=round(max(late_s) * 1000, 3) if late_s else None,
            reason=law.reason if law else "",
            entered=counted.entered if counted else None,
            acknowledged=counted.acknowledged if counted else None,
            rss_mb={process: rss_mb for process, (rss_mb, _) in costs.items()},
            cpu_s={process: cpu_s for process, (_, cpu_s) in costs.items()},
        )

    def notes(self, snapshot: Snapshot) -> Iterator[Note]:
        """Yield the events that are new since the last call."""
        fresh = [event for event in snapshot.events if event.at_ns > self._told_ns]  # several may have the same time
        self._told_ns = max((event.at_ns for event in fresh), default=self._told_ns)
        yield from (Note(at_ns=event.at_ns, text=event.text) for event in fresh)


def _either_count(unacked: int | None, counted: StrangersSeen | None) -> int | None:
    return counted.unacked if unacked is None and counted is not None else unacked


def _either(reported: float | None, counted: float | None) -> float | None:
    """Return a rate as processes of ours report it, or else as the broker counts it."""
    return counted if reported is None else reported


def nanoseconds(seconds: float) -> int:
    """Return a simulation's time in the unit of recordings."""
    return round(seconds * 1_000_000_000)


@dataclass(frozen=True, slots=True)
class RecordedPhase:
    """When a phase actually began and ended, and under which law and fault."""

    name: str
    start_ns: int
    end_ns: int
    reached: bool | None = None
    strategy: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class RecordedProcess:
    """When a process began and ended."""

    role: str
    id: str
    pid: int
    start_ns: int
    end_ns: int
    agent: str = ""


@dataclass(frozen=True, slots=True)
class RecordedAgent:
    """A machine that took part, and how wrong the clock of its processes may be."""

    name: str
    host: str
    clock_uncertainty_ms: float
    round_trip_ms: float
    lost: bool


@dataclass(frozen=True, slots=True)
class RecordedFault:
    """When a fault was in force."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The data of one run.

    ``queues_read`` is False when it is not known what the queues still held at the end, ``journals_whole`` when what
    processes had recorded was lost with their machine. ``reason`` says why the run ended early, if it did.
    """

    scenario: str
    strategy: str
    broker: str
    broker_version: str
    started_at: str
    expectations: Sequence[Expectation]
    phases: Sequence[RecordedPhase]
    loads: Sequence[LoadChanged]
    processes: Sequence[RecordedProcess]
    samples: Sequence[Sample]
    outcome: Outcome
    queues_read: bool
    journals_whole: bool = True
    agents: Sequence[RecordedAgent] = ()
    reason: str = ""
    faults: Sequence[RecordedFault] = ()
    accounts: Accounts = field(default_factory=Accounts)
    knowledge: Knowledge = field(default_factory=Knowledge)

    @property
    def ends_known(self) -> bool:
        """Whether a message that is found nowhere was lost: everything was read that could have it."""
        return self.queues_read and self.journals_whole

    @property
    def clock_uncertainty_ms(self) -> float | None:
        """By how much a time between a producer and a consumer may be wrong; None: all have one clock."""
        if not self.agents:
            return None
        errors_ms = {agent.name: agent.clock_uncertainty_ms for agent in self.agents}
        roles = ({errors_ms.get(p.agent, 0.0) for p in self.processes if p.role == role} for role in ROLES)
        return round(sum(max(found, default=0.0) for found in roles), 3)

    @property
    def start_ns(self) -> int:
        """When the first phase began."""
        return self.phases[0].start_ns if self.phases else 0

    @property
    def end_ns(self) -> int:
        """When the last phase ended."""
        return self.phases[-1].end_ns if self.phases else 0

    @property
    def measured(self) -> list[Sample]:
        """The samples taken during the phases. The last sample of a run is taken after them."""
        end_s = (self.end_ns - self.start_ns) / 1e9
        return [sample for sample in self.samples if sample.t_s <= end_s + 1e-3]
