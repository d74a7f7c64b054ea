"""Messages that no consumer can ever process: each must end among the dead letters, and hold up nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from pydantic import Field

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["Poison"]


class Poison(Fault):
    """Makes a share of the messages, chosen by their ids, fail at every attempt and at every consumer."""

    name: ClassVar[str] = "poison"

    share: float = Field(0.05, gt=0, le=1, description="share of the messages that is poisoned")

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        async with stage.fleet.overriding({"consumer.poison_rate": self.share}):
            stage.happened(f"{self.share:.0%} of the messages are poison")
            yield
        stage.happened("no message is poison any more")
