"""Sends with aio-pika."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from backpressure.errors import MissingExtraError
from backpressure.extras import lacks

if lacks("aio-pika"):
    raise MissingExtraError("aio-pika", "Paced on AMQP")

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelInvalidStateError, DeliveryError, PublishError
from aiormq.abc import DeliveredMessage

from backpressure.core.addresses import BrokerAddress
from backpressure.errors import ConfigError, NotConnectedError, RefusedError, UnroutableError
from backpressure.integrations.clients import several_servers
from backpressure.transports.connecting import Server, Servers

_WITHIN_S = 10.0
_PORTS = {"amqp": 5672, "amqps": 5671}


class AioPikaClient:
    """An `AsyncClient` on a channel or a connection of aio-pika, or on a connection of its own.

    A robust connection comes back by itself, to the server that it had. In the place of another one that is lost, a
    robust one is opened; of several servers in a URL, a plain one at any that answers.
    """

    def __init__(self, client: str | AbstractConnection | AbstractChannel, *, exchange: str, routing_key: str) -> None:
        self._exchange_name = exchange
        self._routing_key = routing_key
        self._own: AbstractConnection | None = None
        self._own_channel = not isinstance(client, AbstractChannel)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._tls: Any = None
        self._address: BrokerAddress | None = None
        self._server: Server | None = None
        self._late: set[asyncio.Task[None]] = set()
        if isinstance(client, str):
            self.url = client
            self._address = several_servers(client)
            if self._address is not None:
                port = _PORTS.get(self._address.scheme, _PORTS["amqp"])
                self._servers = Servers(self._address.hosts("localhost", port))
            return
        if isinstance(client, AbstractChannel):
            self._channel = client
            self._connection = client._connection  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way
            if not getattr(client, "publisher_confirms", True):
                raise ConfigError("client", "a channel without publisher confirms", "expected one with")
        else:
            self._connection = client
        self.url = str(self._connection.url)  # type: ignore[union-attr]  # all connections have one
        self._tls = self._connection.kwargs.get("context")

    async def open(self) -> None:
        """See `AsyncClient.open`."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                await self._open()
        except TimeoutError:
            raise NotConnectedError(f"not connected to the broker within {_WITHIN_S} s") from None
        except CONNECTION_EXCEPTIONS as error:
            raise NotConnectedError(f"not connected to the broker: {error!r}") from error

    async def _open(self) -> None:
        if self._connection is None or not (_robust(self._connection) or self._connection.connected.is_set()):
            self._connection = self._own = await self._connected()
            self._channel = None
        elif _robust(self._connection):
            await self._connection.ready()
        if self._channel is not None and self._channel.is_closed and not _robust(self._connection):
            self._channel = None
        if self._channel is None:
            self._own_channel = True
            self._channel = await self._connection.channel()
            self._exchange = None
        elif self._channel.is_closed and self._channel.is_initialized:
            await self._channel.reopen()
        if self._exchange is None:
            default = self._channel.default_exchange
            name = self._exchange_name
            self._exchange = await self._channel.get_exchange(name, ensure=False) if name else default

    async def _connected(self) -> AbstractConnection:
        if self._address is None:
            return await aio_pika.connect_robust(self.url, ssl_context=self._tls)
        if self._server is not None:
            self._servers.failed(self._server)  # its connection was lost
        self._server, connection = await self._servers.first(self._connected_to, discard=self._discard)
        return connection

    async def _connected_to(self, server: Server) -> AbstractConnection:
        assert self._address is not None
        return await aio_pika.connect(self._address.at([server]))

    def _discard(self, connection: AbstractConnection) -> None:
        """Close a connection to a server that answered later than another."""
        closing = asyncio.create_task(_closed(connection), name="pace: close a late connection")
        self._late.add(closing)
        closing.add_done_callback(self._late.discard)

    async def send(self, message: Any, options: Mapping[str, Any]) -> None:
        """See `AsyncClient.send`; ``options`` are those of `aio_pika.Message`, for a message given as bytes."""
        if isinstance(message, bytes | bytearray | memoryview):
            given: dict[str, Any] = {
                "delivery_mode": aio_pika.DeliveryMode.PERSISTENT,
                "message_id": uuid4().hex,
            } | dict(options)
            message = aio_pika.Message(bytes(message), **given)
        if self._exchange is None:
            raise NotConnectedError("not open")
        try:
            answer = await self._exchange.publish(message, self._routing_key, mandatory=True)
        except PublishError as error:
            raise self._unroutable() from error
        except DeliveryError as error:
            raise RefusedError(f"the broker refuses a message to {self._routing_key!r}: the queue is full") from error
        except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError) as error:
            raise NotConnectedError(f"the connection was lost: {error!r}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise NotConnectedError("the connection was lost") from None  # aiormq cancels tasks that wait for a confirm
        if isinstance(answer, DeliveredMessage):
            raise self._unroutable()

    async def close(self) -> None:
        """See `AsyncClient.close`."""
        if self._own is not None:
            own, self._own = self._own, None
            self._connection = self._channel = self._exchange = None  # opening again starts from nothing
            await own.close()
        elif self._own_channel and self._channel is not None and not self._channel.is_closed:
            await self._channel.close()

    def _unroutable(self) -> UnroutableError:
        where = f"exchange {self._exchange_name!r}" if self._exchange_name else "the broker"
        return UnroutableError(f"{where} has no queue for routing key {self._routing_key!r}")


def _robust(connection: AbstractConnection) -> bool:
    return isinstance(connection, aio_pika.RobustConnection)


async def _closed(connection: AbstractConnection) -> None:
    with suppress(*CONNECTION_EXCEPTIONS):
        await connection.close()
