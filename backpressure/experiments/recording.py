"""The data of one run: read by `rundir` or made by `simulate`, used by the analysis and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backpressure.experiments.accounts import Accounts
from backpressure.experiments.events import LoadChanged, Outcome
from backpressure.experiments.expectations import Expectation
from backpressure.experiments.sample import Sample

__all__ = ["RecordedFault", "RecordedPhase", "RecordedProcess", "Recording", "nanoseconds"]


def nanoseconds(seconds: float) -> int:
    """Return a simulation's time in the unit of recordings."""
    return round(seconds * 1_000_000_000)


@dataclass(frozen=True, slots=True)
class RecordedPhase:
    """When a phase actually began and ended."""

    name: str
    start_ns: int
    end_ns: int
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class RecordedProcess:
    """When a process began and ended."""

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
    """The data of one run. ``queues_read`` is False when it is not known what the queues still held at the end."""

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
        """The samples taken during the phases. The last sample of a run is taken after them."""
        end_s = (self.end_ns - self.start_ns) / 1e9
        return [sample for sample in self.samples if sample.t_s <= end_s + 1e-3]
