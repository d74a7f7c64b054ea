"""Whether a consumer is alone on its queue: only then is a message that it never saw a missing one.

Looking takes a connection of its own, which is opened at the first look; a consumer looks only when ids are missing.
"""

from __future__ import annotations

import asyncio
from math import inf

from backpressure.engines.clock import Clock
from backpressure.errors import TransportError
from backpressure.transports.base import QueueProbe, Transport

__all__ = ["OtherConsumers"]

_EVERY_S = 1.0
_PATIENCE_S = 1.0


class OtherConsumers:
    """The other consumers of one queue.

    Attributes:
        shared: whether another consumer was seen at any look; None: not known.
    """

    def __init__(self, transport: Transport, queue: str, clock: Clock) -> None:
        """Connect at the first look."""
        self.shared: bool | None = None
        self._transport = transport
        self._queue = queue
        self._clock = clock
        self._probe: QueueProbe | None = None
        self._looked_at = -inf
        self._looking: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()  # a look that fails closes the connection: not under another look

    def look_now_and_then(self) -> None:
        """Look in the background, at most once a second, until another consumer is seen."""
        now = self._clock.now()
        if not self.shared and now - self._looked_at >= _EVERY_S and (self._looking is None or self._looking.done()):
            self._looked_at = now
            self._looking = asyncio.create_task(self._read(), name="other consumers")

    async def look(self) -> None:
        """Look now, unless another consumer was seen before; this consumer must be consuming."""
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)
        if not self.shared:
            await self._read()

    async def stop(self) -> None:
        """Close the connection, if there is one."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._probe is not None:
            probe, self._probe = self._probe, None
            await probe.stop()

    async def _read(self) -> None:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    if self._probe is None:
                        self._probe = self._transport.probe()
                        await self._probe.start()
                    consumers = (await self._probe.read(self._queue)).consumers
            except (TransportError, TimeoutError):
                await self._disconnect()
                return
        if consumers is not None:
            self.shared = bool(self.shared) or consumers > 1
