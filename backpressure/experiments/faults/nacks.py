"""The broker refuses a share of what is published (``basic.nack`` in place of a confirm)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from pydantic import Field

from backpressure.experiments.faults.base import Fault, Stage
from backpressure.experiments.faults.operator import EmbeddedOperator

__all__ = ["Nacks"]


class Nacks(Fault):
    """Nacks an evenly spread share; the embedded broker alone can be told to."""

    name: ClassVar[str] = "nacks"
    brokers: ClassVar[frozenset[str]] = frozenset({"embedded"})

    share: float = Field(0.1, gt=0, le=1, description="share of the publishes that is refused")

    @asynccontextmanager
    async def injected(self, stage: Stage) -> AsyncIterator[None]:
        """See `Fault.injected`."""
        assert isinstance(stage.operator, EmbeddedOperator)
        try:
            await stage.operator.misbehave(nack_share=self.share)
            stage.happened(f"broker refuses {self.share:.0%} of what is published")
            yield
        finally:
            await stage.operator.misbehave(nack_share=0.0)
            stage.happened("broker refuses nothing any more")
