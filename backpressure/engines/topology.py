"""Keeps the queues in place: created at the start, and again after a connection was lost or a message found no queue.

A broker that comes back may have forgotten them (a restart of a broker without durable storage), or somebody deletes
one. Until they are known to exist nothing is published, or it would be returned as unroutable.

A queue that somebody else has declared (``queue.predeclared``) is only looked at: it must be there, and is used as it
is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from backpressure.errors import (
    ConfigError,
    ExchangeNotFoundError,
    NotConnectedError,
    PreconditionFailedError,
    QueueNotFoundError,
    TransportError,
    UnsupportedError,
)
from backpressure.settings import QueueSettings
from backpressure.transports.base import FoundQueue, QueueAdmin, Transport
from backpressure.transports.queue_declarations import advised

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_PATIENCE_S = 5.0
_NOTHING_DECLARED = "--predeclared declares nothing; check the virtual host and the name of the {} ({})"


class QueueKeeper:
    """Declares the queues of ``queue`` whenever they may be gone."""

    def __init__(
        self,
        transport: Transport,
        queue: QueueSettings,
        on_restored: Callable[[], None],
        *,
        for_consumer: bool = False,
    ) -> None:
        """``on_restored`` is called each time they are in place again after a loss.

        A consumer needs no exchange, and leaves an existing work queue as it is: declaring it would set its bound
        again, and undo a change made while it exists.
        """
        self.queue = queue
        self.in_place = False
        self.found: FoundQueue | None = None
        self._for_consumer = for_consumer
        self._transport = transport
        self._on_restored = on_restored
        self._restoring: asyncio.Task[None] | None = None

    async def create(self, *, purge: bool = False) -> None:
        """Declare everything, and empty it if asked to; raises `TransportError`.

        A predeclared queue is only looked at. To empty it raises `ConfigError`.
        """
        if self.queue.predeclared:
            if purge:
                raise ConfigError("producer.purge", purge, "a predeclared queue is not ours, so no start empties it")
            self.found = await self._look()
            self.in_place = True
            return
        if self._for_consumer and await self._exists():
            self.in_place = True
            return
        admin = self._transport.admin()
        await admin.start()
        try:
            try:
                await admin.declare(self.queue, keep_bound=self._for_consumer)
            except PreconditionFailedError as error:
                raise advised(error, self.queue) from error
            if purge:
                names = [self.queue.work, self.queue.dead_letter]
                for name in [*names, self.queue.audit] if self.queue.auditing else names:
                    await admin.purge(name)
        finally:
            await admin.stop()
        self.in_place = True

    async def set_bound(self, queue: QueueSettings) -> None:
        """Give the live work queue the bound of ``queue``; raises `TransportError`."""
        self._refuse_if_predeclared("its bound is set by whoever declared it, with a policy of the broker")
        async with self._asking() as admin:
            await admin.set_bound(queue.work, max_length=queue.max_length, overflow=queue.overflow)

    async def purge(self) -> int:
        """Drop what is ready in the work queue and return how many messages that were; raises `TransportError`."""
        self._refuse_if_predeclared("its messages may be others', so it is not emptied from here")
        async with self._asking() as admin:
            return await admin.purge(self.queue.work)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[QueueAdmin]:
        """Yield an admin soon, or raise: a caller waits, and "the broker is away" is an answer too."""
        if not self.in_place:
            raise NotConnectedError("the broker is away")
        admin = self._transport.admin()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await admin.start()
                yield admin
        except TimeoutError:
            raise NotConnectedError(f"the broker did not answer within {_PATIENCE_S:g} s") from None
        finally:
            await admin.stop()

    def _refuse_if_predeclared(self, why: str) -> None:
        if self.queue.predeclared:
            raise UnsupportedError(f"queue {self.queue.work!r} is predeclared: {why}")

    async def _look(self) -> FoundQueue:
        queue = self.queue
        admin = self._transport.admin()
        await admin.start()
        try:
            exchange = "" if self._for_consumer else queue.exchange
            keys = queue.bindings
            return await admin.look(queue.work, exchange=exchange, keys=keys, dead_letter=queue.dead_letter)
        except QueueNotFoundError as error:
            raise QueueNotFoundError(error.queue, _NOTHING_DECLARED.format("queue", "--queue")) from error
        except ExchangeNotFoundError as error:
            raise ExchangeNotFoundError(error.exchange, _NOTHING_DECLARED.format("exchange", "--exchange")) from error
        finally:
            await admin.stop()

    async def _exists(self) -> bool:
        probe = self._transport.probe()
        await probe.start()
        try:
            await probe.read(self.queue.work)
        except QueueNotFoundError:
            return False
        finally:
            await probe.stop()
        return True

    def lost(self) -> None:
        """They may be gone: declare them again as soon as the broker answers."""
        self.in_place = False
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.create_task(self._restore(), name="restore queues")

    async def stop(self) -> None:
        """Give up restoring."""
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.gather(self._restoring, return_exceptions=True)

    async def _restore(self) -> None:
        said = ""
        while True:
            try:
                await self.create()
            except TransportError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("waiting for the queues: %s", said)
                await asyncio.sleep(_PAUSE_S)
            else:
                if said:
                    log.warning("%s is in place again", self.queue.work)
                self._on_restored()
                return
