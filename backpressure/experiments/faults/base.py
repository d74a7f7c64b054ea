"""What a fault is: named, with checked parameters, done to a run and always undone.

A fault says what it does; when it begins and ends is the business of `injection`. It may touch the run only through the
`Stage` it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from backpressure.experiments.events import Event, Note

if TYPE_CHECKING:
    from backpressure.engines.clock import Clock
    from backpressure.experiments.faults.operator import BrokerOperator
    from backpressure.experiments.faults.proxy import Proxy
    from backpressure.experiments.fleet import Fleet
    from backpressure.experiments.supervisor import Supervisor

__all__ = ["Fault", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What faults can reach. ``operator`` and ``proxy`` are there when a fault of the scenario needs them."""

    fleet: Fleet
    supervisor: Supervisor
    operator: BrokerOperator | None
    proxy: Proxy | None
    clock: Clock
    record: Callable[[Event], None]
    tell: Callable[[str], None]

    def happened(self, text: str) -> None:
        """Write down what a fault has just done, and what the consumers can do since."""
        now_ns = self.clock.wall_ns()
        self.record(Note(at_ns=now_ns, text=text))
        self.record(self.fleet.load(now_ns))
        self.tell(text)


class Fault(BaseModel, ABC):
    """One kind of failure; its fields are its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    brokers: ClassVar[frozenset[str] | None] = None
    """The kinds of broker it can be done to; None: any."""
    through_proxy: ClassVar[bool] = False
    """Whether the processes under test must reach their broker through our proxy."""
    restarts_broker: ClassVar[bool] = False
    """Whether the broker must keep durable messages on disk."""
    moves_clocks: ClassVar[bool] = False
    """Whether the processes under test must run on a wall clock of ours."""

    for_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds until it is undone; left out: when the phase ends"
    )

    @abstractmethod
    def injected(self, stage: Stage) -> AbstractAsyncContextManager[None]:
        """Do it; undo it on leaving. Raises `PaceError` when either is impossible."""

    def restarted(self, role: str) -> int:  # noqa: ARG002 - for those that do
        """Return how many processes of ``role`` are started in place of others."""
        return 0
