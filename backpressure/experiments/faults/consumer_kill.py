"""A consumer crashes: what it held goes back to the queue, what it had done counts."""

from __future__ import annotations

from typing import ClassVar

from backpressure.experiments.faults.process_kill import ProcessKill

__all__ = ["ConsumerKill"]


class ConsumerKill(ProcessKill):
    """``kill -9`` of consumers; as many start when it is undone."""

    name: ClassVar[str] = "consumer-kill"
    role: ClassVar[str] = "consumer"
