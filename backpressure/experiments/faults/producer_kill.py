"""A producer crashes: what the broker had confirmed must still arrive."""

from __future__ import annotations

from typing import ClassVar

from backpressure.experiments.faults.process_kill import ProcessKill

__all__ = ["ProducerKill"]


class ProducerKill(ProcessKill):
    """``kill -9`` of producers; as many start when it is undone, each with what is left of the limit before it."""

    name: ClassVar[str] = "producer-kill"
    role: ClassVar[str] = "producer"
