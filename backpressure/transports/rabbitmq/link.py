"""One connection to the broker, kept alive: dial, set up, wait for the end, pause, dial again.

What runs on the connection is handed in as ``set_up``; what to do about messages in flight when it ends is the
business of whoever owns the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from backpressure.errors import BrokerUnavailableError, NotConnectedError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.outage import Outage, pauses
from backpressure.transports.rabbitmq.failures import dial_error, lost_error
from backpressure.transports.rabbitmq.parameters import connection_parameters
from backpressure.transports.rabbitmq.wire import Connection

__all__ = ["Link", "SetUpAgain"]


class SetUpAgain(Exception):  # noqa: N818 -- a request to the link, not an error
    """Raised by a ``set_up`` that learnt how this broker wants it: dial again at once."""


class Link:
    """Keeps one connection alive until stopped."""

    def __init__(
        self,
        broker: BrokerSettings,
        name: str,
        outage: Outage,
        *,
        set_up: Callable[[Connection], Awaitable[None]],
        on_lost: Callable[[TransportError], None] = lambda _error: None,
    ) -> None:
        """``set_up`` runs on each new connection; ``on_lost`` once for each that had been set up."""
        self.address = broker.address()
        self._broker = broker
        self._name = name
        self._outage = outage
        self._set_up = set_up
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._was_up = asyncio.Event()

    @property
    def connection(self) -> Connection:
        """The connection, set up; raises `NotConnectedError` when there is none right now."""
        if self._connection is None or self._connection.lost.done():
            raise NotConnectedError(f"not connected to the broker at {self.address}")
        return self._connection

    async def start(self) -> None:
        """Return when set up for the first time; raises `TransportError` when that failed and waiting is no use."""
        if self._keeper is not None:
            raise RuntimeError("a link is started once")
        self._keeper = asyncio.create_task(self._keep_alive(), name=self._name)
        first_up = asyncio.create_task(self._was_up.wait())
        try:
            await asyncio.wait({self._keeper, first_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            first_up.cancel()
        if self._keeper.done():
            self._keeper.result()

    async def stop(self) -> None:
        """Close what is open and give up what was being tried."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._connection is not None:
            await self._connection.shut(self._broker.connect_timeout_s)
            self._connection = None

    async def _keep_alive(self) -> None:
        pause_s = pauses(self._broker.reconnect_min_s, self._broker.reconnect_max_s)
        while True:
            try:
                self._connection = connection = await self._connect()
            except SetUpAgain:
                continue
            except TransportError as error:
                hopeless = not self._broker.wait or not isinstance(error, BrokerUnavailableError)
                if hopeless and not self._was_up.is_set():
                    raise
                self._outage.begin(error)
            else:
                self._outage.end()
                self._was_up.set()
                pause_s = pauses(self._broker.reconnect_min_s, self._broker.reconnect_max_s)
                loss = lost_error(await asyncio.shield(connection.lost), self.address)
                self._outage.begin(loss)
                self._on_lost(loss)
                await connection.shut(self._broker.connect_timeout_s)
                self._connection = None
            await asyncio.sleep(next(pause_s))

    async def _connect(self) -> Connection:
        try:
            connection = await Connection.dial(connection_parameters(self._broker, self._name))
        except (AMQPError, AMQPConnectorException) as error:
            raise dial_error(error, self.address) from error
        try:
            await self._set_up(connection)
        except BaseException as error:
            await connection.shut(self._broker.connect_timeout_s)
            if not isinstance(error, AMQPError):
                raise
            failure = lost_error(error, self.address)
            if isinstance(failure, NotConnectedError):  # it went away meanwhile: waiting helps
                raise BrokerUnavailableError(self.address, "it went away during the set-up") from error
            raise failure from error
        return connection
