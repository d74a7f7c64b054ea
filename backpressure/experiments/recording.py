"""One run as data: what `rundir` reads and `simulate` makes, and what the analysis and the report are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backpressure.experiments.accounts import Accounts
from backpressure.experiments.events import LoadChanged, Outcome
from backpressure.experiments.expectations import Expectation
from backpressure.experiments.sample import Sample

__all__ = ["RecordedFault", "RecordedPhase", "RecordedProcess", "Recording", "nanoseconds"]


def nanoseconds(seconds: float) -> int:
    """Return a time of a simulation as a recording has it."""
    return round(seconds * 1_000_000_000)


@dataclass(frozen=True, slots=True)
class RecordedPhase:
    """When a phase really began and ended."""

    name: str
    start_ns: int
    end_ns: int
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class RecordedProcess:
    """When a process was there."""

    role: str
    id: str
    pid: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class RecordedFault:
    """When a fault was in force."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One run as data. ``queues_read`` is False when what the queues still held at the end is not known."""

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
    faults: Sequence[RecordedFault] = ()
    accounts: Accounts = field(default_factory=Accounts)

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
        """The samples that were taken while phases went on: the last one of all is of what came after."""
        end_s = (self.end_ns - self.start_ns) / 1e9
        return [sample for sample in self.samples if sample.t_s <= end_s + 1e-3]
