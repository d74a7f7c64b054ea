"""What happens during a run, one JSON line each in ``events.jsonl``; times in nanoseconds on the run's clock."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Outcome = Literal["finished", "interrupted", "error"]
_LATEST_NS = (1 << 63) - 1


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    at_ns: int = Field(ge=0, le=_LATEST_NS)


class PhaseBegan(_Event):
    """The settings of the phase begin to be applied."""

    kind: Literal["phase_began"] = "phase_began"
    name: str


class PhaseEnded(_Event):
    """``reached``: whether its ``until`` came in time; None without one."""

    kind: Literal["phase_ended"] = "phase_ended"
    name: str
    reached: bool | None = None


class LoadChanged(_Event):
    """What the consumers can do, and what the producers offer, from now on.

    ``service_cv`` is the coefficient of variation of service times: 0 fixed, 1 exponential; ``target_wait_s`` and
    ``tick_s`` are what the control loop aims for and how often it decides. Where nobody knows what the consumers can do
    (``capacity_known``), the capacity is 0.
    """

    kind: Literal["load_changed"] = "load_changed"
    capacity_per_s: float
    demand_per_s: float
    service_cv: float = 0.0
    target_wait_s: float = 0.02
    tick_s: float = 0.1
    capacity_known: bool = True


class AgentNoted(_Event):
    """An agent joined, left or was lost.

    ``clock_uncertainty_ms``: how wrong the clock of its processes may be, at the worst moment so far;
    ``round_trip_ms``: the shortest.
    """

    kind: Literal["agent_noted"] = "agent_noted"
    name: str
    host: str
    state: Literal["joined", "left", "lost"]
    clock_uncertainty_ms: float
    round_trip_ms: float


class ProcessStarted(_Event):
    """A process is ready; ``agent``: on whose machine, if it is not this one."""

    kind: Literal["process_started"] = "process_started"
    role: str
    id: str
    pid: int
    agent: str = ""


class ProcessEnded(_Event):
    """A process is gone; ``code`` as `subprocess` reports it (negative: the signal that killed it).

    None where it cannot be known: a private RabbitMQ or Kafka is not a child of ours. ``complete``: everything it has
    recorded is here; of a process whose agent was lost the last records are not.
    """

    kind: Literal["process_ended"] = "process_ended"
    id: str
    code: int | None
    complete: bool = True


class FaultBegan(_Event):
    """The fault ``name`` has been injected."""

    kind: Literal["fault_began"] = "fault_began"
    name: str


class FaultEnded(_Event):
    """It has been undone."""

    kind: Literal["fault_ended"] = "fault_ended"
    name: str


class Note(_Event):
    """Anything else worth a line: a back-pressure event, a consumer that had to be killed."""

    kind: Literal["note"] = "note"
    text: str


class StrangersCounted(_Event):
    """What somebody else has counted of the work queue during the run, where the consumers are not ours.

    ``without_ack``: handed to consumers that acknowledge automatically; ``by``: who has counted; ``problem``: why
    nobody has.
    """

    kind: Literal["strangers_counted"] = "strangers_counted"
    published: int = 0
    delivered: int = 0
    acknowledged: int = 0
    redelivered: int = 0
    without_ack: int = 0
    by: str = ""
    problem: str = ""


class OutcomesRead(_Event):
    """All outcomes that the ledger names were read, and the queues.

    ``problems``: by source, why one could not be; ``foreign``: messages without an id of ours in the queues, by state.
    """

    kind: Literal["outcomes_read"] = "outcomes_read"
    problems: dict[str, str] = {}
    foreign: dict[str, int] = {}


class RunEnded(_Event):
    """The last event. A run without one was killed."""

    kind: Literal["run_ended"] = "run_ended"
    outcome: Outcome
    reason: str = ""


Event = (
    PhaseBegan
    | PhaseEnded
    | LoadChanged
    | AgentNoted
    | ProcessStarted
    | ProcessEnded
    | FaultBegan
    | FaultEnded
    | Note
    | StrangersCounted
    | OutcomesRead
    | RunEnded
)

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read_event(line: str | bytes) -> Event:
    """Return the event in one line; raises `ValueError`."""
    return _ADAPTER.validate_json(line)
