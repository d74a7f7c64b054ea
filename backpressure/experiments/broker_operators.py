"""What an operator can do to a private broker: stop, crash, start or suspend it, raise its memory alarm.

Each kind of broker has an operator. A broker that was there before the run has none: it is not ours to disturb.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import httpx

from backpressure.errors import ExperimentError
from backpressure.experiments.supervisor import Supervisor
from backpressure.transports.rabbitmq_node import PrivateNode

__all__ = ["BrokerOperator", "EmbeddedOperator", "RabbitMQOperator"]


class BrokerOperator(Protocol):
    """All methods return when the work is done, and raise `PaceError` when it fails."""

    async def stop(self) -> None:
        """Shut it down cleanly."""

    async def start(self) -> None:
        """Start it after `stop`, on the same ports."""

    async def kill(self) -> None:
        """End it as a crash would."""

    async def revive(self) -> None:
        """Start it after `kill`, on the same ports."""

    def suspend(self) -> None:
        """Let it stand still, with all its connections."""

    def go_on(self) -> None:
        """Let it continue after `suspend`."""

    async def set_alarm(self, *, raised: bool) -> None:
        """Raise or clear the memory alarm."""


class EmbeddedOperator:
    """A `BrokerOperator` of the embedded broker, which is a child process of ours."""

    def __init__(self, supervisor: Supervisor, management_url: str, launch: Callable[[], Awaitable[object]]) -> None:
        """``launch`` starts it again, on the same ports as before."""
        self._supervisor = supervisor
        self._management_url = management_url
        self._launch = launch

    async def stop(self) -> None:
        """See `BrokerOperator.stop`."""
        await self._supervisor.stop(self._supervisor.of("broker"))

    async def start(self) -> None:
        """See `BrokerOperator.start`."""
        await self._launch()

    async def kill(self) -> None:
        """See `BrokerOperator.kill`."""
        await self._supervisor.kill_now(self._supervisor.of("broker"))

    async def revive(self) -> None:
        """See `BrokerOperator.revive`."""
        await self._launch()

    def suspend(self) -> None:
        """See `BrokerOperator.suspend`."""
        for child in self._supervisor.of("broker"):
            self._supervisor.suspend(child)

    def go_on(self) -> None:
        """See `BrokerOperator.go_on`."""
        for child in self._supervisor.of("broker"):
            self._supervisor.go_on(child)

    async def set_alarm(self, *, raised: bool) -> None:
        """See `BrokerOperator.set_alarm`."""
        await self.misbehave(memory_alarm=raised)

    async def misbehave(self, **faults: object) -> None:
        """Change the broker's own faults; ``docs/embedded-broker.md`` lists them."""
        async with httpx.AsyncClient(auth=("guest", "guest"), timeout=10.0, trust_env=False) as client:
            try:
                response = await client.put(f"{self._management_url}/api/faults", json=faults)
                response.raise_for_status()
            except httpx.HTTPError as error:
                raise ExperimentError(f"the broker cannot be told to misbehave ({faults}): {error!r}") from None


class RabbitMQOperator:
    """A `BrokerOperator` of a private node; the first four take seconds."""

    def __init__(self, node: PrivateNode) -> None:
        """``node`` is running."""
        self._node = node

    async def stop(self) -> None:
        """See `BrokerOperator.stop`; the Erlang machine stays, as with ``rabbitmqctl stop_app`` by hand."""
        await self._ctl("stop_app")

    async def start(self) -> None:
        """See `BrokerOperator.start`."""
        await self._ctl("start_app")

    async def kill(self) -> None:
        """See `BrokerOperator.kill`."""
        await asyncio.to_thread(self._node.kill)

    async def revive(self) -> None:
        """See `BrokerOperator.revive`."""
        await self._node.revive()

    def suspend(self) -> None:
        """See `BrokerOperator.suspend`."""
        self._node.suspend()

    def go_on(self) -> None:
        """See `BrokerOperator.go_on`."""
        self._node.go_on()

    async def set_alarm(self, *, raised: bool) -> None:
        """See `BrokerOperator.set_alarm`."""
        await self._ctl("set_vm_memory_high_watermark", *(("absolute", "1MB") if raised else ("0.4",)))

    async def _ctl(self, *arguments: str) -> None:
        await asyncio.to_thread(self._node.ctl, *arguments)
