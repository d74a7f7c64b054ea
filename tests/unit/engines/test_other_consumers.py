"""A consumer looks whether it shares its queue: one look at a time, so that none closes the connection of another."""

from __future__ import annotations

import asyncio
from typing import Any

from backpressure.engines.consumer import OtherConsumers
from backpressure.errors import NotConnectedError
from backpressure.transports.base import QueueReading


class SlowProbe:
    """A probe whose connection takes as long as the test wants."""

    def __init__(self) -> None:
        self.may_connect = asyncio.Event()
        self.connected = self.stopped = False

    async def start(self) -> None:
        await self.may_connect.wait()
        self.connected = True

    async def read(self, _queue: str, *, exactly: bool = False) -> QueueReading:
        if not self.connected:
            raise NotConnectedError("not connected yet")
        return QueueReading(ready=0, unacked=None, consumers=1)

    async def stop(self) -> None:
        self.stopped = True


class Probes:
    """A transport with probes only, and a clock that stands still."""

    def __init__(self) -> None:
        self.made: list[SlowProbe] = []

    def probe(self) -> SlowProbe:
        self.made.append(SlowProbe())
        return self.made[-1]

    def now(self) -> float:
        return 0.0


def test_a_look_in_the_background_does_not_close_the_connection_of_one_that_is_waited_for() -> None:
    async def scenario() -> None:
        transport: Any = Probes()
        others = OtherConsumers(transport, "work", transport)
        look = asyncio.create_task(others.look())
        await asyncio.sleep(0)
        others.look_now_and_then()
        for _ in range(3):
            await asyncio.sleep(0)
        (probe,) = transport.made
        assert not probe.stopped
        probe.may_connect.set()
        await look
        assert others.shared is False
        await others.stop()
        assert probe.stopped

    asyncio.run(scenario())
