"""A connection that is kept alive: dial, set up, wait until it is lost, pause, dial again.

A `RabbitMQLink` is given what to run on each new connection (``set_up``). It decides nothing about messages in flight:
its owner does, when it is told of the loss. Of a broker's servers it uses any, and after a loss another one.

`RabbitMQRequests` is a link for questions that the broker may refuse. AMQP refuses by closing the channel, so they
never share one with messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from pika import ConnectionParameters, PlainCredentials, SSLOptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from backpressure.errors import BrokerUnavailableError, NotConnectedError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage, Server, Servers, pauses, tls_context
from backpressure.transports.rabbitmq.failures import dial_error, lost_error, request_error
from backpressure.transports.rabbitmq.wire import WireChannel, WireConnection

# With another server to go to, a host that gives no sign of life is left after two seconds instead of minutes.
_SWITCH_SOON = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 1, "TCP_USER_TIMEOUT": 1500}
_FAREWELL_S = 0.5
_ANSWER_S = 2.0
_LONGEST_SET_UP_S = 30.0


class SetUpAgain(Exception):  # noqa: N818 -- a request to the link, not an error
    """Raised by a ``set_up`` that has learnt how this broker wants it: dial again at once."""


class RabbitMQLink:
    """Keeps one connection alive until it is stopped."""

    def __init__(
        self,
        broker: BrokerSettings,
        name: str,
        outage: Outage,
        *,
        set_up: Callable[[WireConnection], Awaitable[None]],
        on_lost: Callable[[TransportError], None] = lambda _error: None,
    ) -> None:
        """``set_up`` runs on each new connection; ``on_lost`` once for each that had been set up."""
        self._broker = broker
        self._servers = Servers(broker.servers())
        self._farewell_s = _FAREWELL_S if self.has_others else broker.connect_timeout_s
        self._server: Server | None = None
        self._name = name
        self._outage = outage
        self._set_up = set_up
        self._on_lost = on_lost
        self._connection: WireConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._was_up = asyncio.Event()
        self._patience_s = broker.connect_timeout_s

    @property
    def has_others(self) -> bool:
        """Whether the broker has another server to go to."""
        return self._servers.several

    @property
    def address(self) -> str:
        """Where the broker is: the server in use or last used, or all of them."""
        return self._broker.address() if self._server is None else self._broker.address_of(self._server)

    @property
    def connection(self) -> WireConnection:
        """The connection, set up; raises `NotConnectedError` when there is none at the moment."""
        if self._connection is None or self._connection.lost.done():
            raise NotConnectedError(f"not connected to the broker at {self.address}")
        return self._connection

    async def start(self) -> None:
        """Return when set up for the first time; raises `TransportError` when that failed and waiting does not help."""
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
        """Close the connection, and stop dialling."""
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
                self._outage.end(self.address)
                self._was_up.set()
                pause_s = pauses(self._broker.reconnect_min_s, self._broker.reconnect_max_s)
                loss = lost_error(await asyncio.shield(connection.lost), self.address)
                self._outage.begin(loss)
                self._on_lost(loss)
                self._leave_server()
                await connection.shut(self._farewell_s)
                self._connection = None
            await asyncio.sleep(next(pause_s))

    async def _connect(self) -> WireConnection:
        self._server, connection = await self._servers.first(self._dial, discard=WireConnection.drop)
        patience_s = self._patience_s if self._was_up.is_set() else _LONGEST_SET_UP_S
        try:
            async with asyncio.timeout(patience_s):
                await self._set_up(connection)
        except BaseException as error:
            if not isinstance(error, SetUpAgain):
                self._leave_server()
            await connection.shut(self._farewell_s)
            if isinstance(error, TimeoutError):  # a broker that lost its cluster may accept, and answer nothing
                self._patience_s = max(self._patience_s, min(2 * self._patience_s, _LONGEST_SET_UP_S))
                reason = f"it did not answer in {patience_s:g} s during the set-up"
                raise BrokerUnavailableError(self.address, reason) from error
            if not isinstance(error, AMQPError):
                raise
            failure = lost_error(error, self.address)
            if isinstance(failure, NotConnectedError):  # the broker went away meanwhile: waiting helps
                raise BrokerUnavailableError(self.address, "it went away during the set-up") from error
            raise failure from error
        self._patience_s = self._broker.connect_timeout_s
        return connection

    async def _dial(self, server: Server) -> WireConnection:
        try:
            return await WireConnection.dial(connection_parameters(self._broker, self._name, server))
        except (AMQPError, AMQPConnectorException) as error:
            raise dial_error(error, self._broker.address_of(server)) from error

    def _leave_server(self) -> None:
        """Go on at another one, if there is any."""
        if self._server is not None:
            self._servers.failed(self._server)


class RabbitMQRequests:
    """A connection for one request at a time; after a refusal the next request opens a new channel."""

    def __init__(
        self, broker: BrokerSettings, outage: Outage, name: str, *, timeout_s: float, switches: bool = False
    ) -> None:
        """``switches``: go to another server, if there is one, when an answer takes two seconds."""
        self.link = RabbitMQLink(broker, name, outage, set_up=self._set_up)
        self._timeout_s = timeout_s if not switches or not self.link.has_others else min(timeout_s, _ANSWER_S)
        self._channel: WireChannel | None = None
        self._one_at_a_time = asyncio.Lock()

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """Return the reply to one pika method; raises `TransportError` with the broker's reason.

        A broker that does not answer in time costs the connection: it may have been stopped or cut off.
        """
        async with self._one_at_a_time:
            connection = self.link.connection
            try:
                async with asyncio.timeout(self._timeout_s):
                    if self._channel is None or not self._channel.is_open:
                        self._channel = await connection.open_channel(vital=False)
                    return await self._channel.call(method, **arguments)
            except AMQPError as error:
                asked = str(arguments.get("queue") or arguments.get("exchange") or "")
                raise request_error(error, self.link.address, asked) from error
            except TimeoutError:
                silence = NotConnectedError(f"the broker at {self.link.address} did not answer in {self._timeout_s} s")
                connection.fail(silence)
                raise silence from None

    async def _set_up(self, connection: WireConnection) -> None:
        self._channel = await connection.open_channel(vital=False)


def connection_parameters(broker: BrokerSettings, name: str, server: Server) -> ConnectionParameters:
    """Return pika's parameters for dialling ``server``, TLS included; raises `ConfigError` for unusable TLS files.

    The management pages show ``name``. Parts that a URL leaves out come from the other settings, so
    ``amqps://broker.example`` is enough.
    """
    url = broker.parts()
    host, port = server
    return ConnectionParameters(
        host=host,
        port=port,
        virtual_host=unquote(url.path[1:]) or "/",
        credentials=PlainCredentials(*login(broker)),
        heartbeat=broker.heartbeat_s,
        socket_timeout=broker.connect_timeout_s,
        stack_timeout=broker.connect_timeout_s,
        blocked_connection_timeout=broker.blocked_timeout_s,
        ssl_options=SSLOptions(tls_context(broker), host) if url.scheme == "amqps" else None,
        tcp_options=_SWITCH_SOON if len(broker.servers()) > 1 else None,
        client_properties={"connection_name": name, "product": "Pace Matching"},
    )


def login(broker: BrokerSettings) -> tuple[str, str]:
    """Return user and password; those in the URL come first."""
    url = broker.parts()
    return url.username or broker.username, url.password or broker.password.get_secret_value()
