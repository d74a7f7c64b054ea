"""What a run tells whoever shows it: the live picture, the plain lines, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from backpressure.core.snapshot import Snapshot

__all__ = ["ShareDone", "Watcher"]

ShareDone = Callable[[Snapshot], float | None]
"""From 0 to 1; None where a phase waits for time to pass, or for what cannot be counted."""


class Watcher(Protocol):
    """Who shows a run while it goes on."""

    def began(self, title: str, broker: str, queue: str, phases: Sequence[tuple[str, float]]) -> None:
        """Everything is ready; ``queue`` is the work queue, ``phases`` are names and (longest) durations in seconds."""

    def phase_began(self, index: int, share_done: ShareDone) -> None:
        """The phase with this index begins; ``share_done`` tells how much of what it waits for is done."""

    def sampled(self, snapshot: Snapshot) -> None:
        """The loop now; ten times a second."""

    def noted(self, text: str) -> None:
        """Something happened that is worth a line."""
