"""Work fails now and then, as when a database behind the consumer does; another attempt may succeed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from pydantic import Field

from backpressure.experiments.faults.base import Fault, Stage

__all__ = ["ProcessingFailures"]


class ProcessingFailures(Fault):
    """Makes a share of the attempts fail, at random."""

    name: ClassVar[str] = "processing-failures"

    share: float = Field(0.1, gt=0, le=1, description="share of the attempts that fails")

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        async with stage.fleet.overriding({"consumer.failure_rate": self.share}):
            stage.happened(f"{self.share:.0%} of the attempts fail")
            yield
        stage.happened("attempts fail no more than the settings say")
