"""The sockets of the proxy: it listens, dials the broker for each client, and carries the bytes of their relays.

Back-pressure is passed on as a plain TCP proxy does: a side is read only while the other takes what is written, and a
client also only while little of it waits. Everything AMQP is in `relay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import cast

from pamqp import commands

from backpressure.amqp.frames import PROTOCOL_HEADER
from backpressure.amqp.methods import method_frame
from backpressure.broker.descriptors import listen, room_for_connections
from backpressure.core.addresses import bracketed
from backpressure.errors import ConfigError, PortTakenError
from backpressure.proxy.relay import Relay, foreign_protocol, refusal
from backpressure.proxy.view import View
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Server, Servers, tls_context

log = logging.getLogger("backpressure")

_WRITE_HIGH_WATER_BYTES = 128 * 1024
_HEADER_WITHIN_S = 10.0
_OPEN_WITHIN = 3  # times the limit for connecting: a broker may ask somebody else who the client is
_SHORTEST_PAUSE_S = 0.002  # messages that may go within this go together
_TICK_S = 0.25
_LINGER_S = 5.0
_FAREWELL_S = 2.0
_NO_TLS = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "PACKET_LENGTH_TOO_LONG"))
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where clients connect, and how."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    receive_buffer_bytes: int = 64 * 1024
    max_connections: int = 1000


class _ClientSide(asyncio.Protocol):
    """A client's socket, and with it the whole proxied connection."""

    transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = listener.loop
        self.relay = Relay(listener.view, self._has_output)
        self.broker: _BrokerSide | None = None
        self.peer = ""
        self.written_at = 0.0
        self._begin = b""
        self._dialling: asyncio.Task[None] | None = None
        self._impatience: asyncio.TimerHandle | None = None
        self._ended = False
        self._writes_paused = False
        self.stopping = False

    # --- the client ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER_BYTES)
        _keep_alive(self.transport)
        self.peer = _peer_of(self.transport)
        self._impatience = self._loop.call_later(_HEADER_WITHIN_S, self._too_slow)
        self._listener.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return  # read to the end nevertheless: what stayed unread would destroy the last frames on their way
        if self.broker is None:
            self._begun(data)
            return
        self.relay.from_client(data, self._loop.time())
        self.flush()
        if self.relay.holds:
            self._listener.schedule()

    def pause_writing(self) -> None:
        if self.broker is not None:
            self.broker.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.broker is not None:
            self.broker.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        now = self._loop.time()
        self._ended = True
        self._stop_waiting()
        if self._dialling is not None:
            self._dialling.cancel()
        broker = self.broker
        if broker is not None and not broker.transport.is_closing():
            self.relay.leaving(now)
            self._write_to_broker()
            broker.transport.close()
            self._loop.call_later(_LINGER_S, broker.transport.abort)
        self.relay.lost(now)
        self._listener.dismiss(self)

    # --- the beginning ------------------------------------------------------------------------------------------------

    def _begun(self, data: bytes) -> None:
        self._begin += data
        what = foreign_protocol(self._begin)
        if what:
            hint = " (--tls-cert lets the proxy answer it)" if what == "TLS" else ""
            log.warning("%s speaks %s: the proxy understands AMQP 0-9-1 only%s", self.peer, what, hint)
            self.transport.write(refusal(self._begin))
            self.end()
        elif len(self._begin) >= len(PROTOCOL_HEADER) and self._dialling is None:
            self._stop_waiting()
            self.transport.pause_reading()
            self._dialling = self._loop.create_task(self._dial())

    def _stop_waiting(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()

    def _too_slow(self) -> None:
        log.info("%s said nothing for %g s: closed", self.peer, _HEADER_WITHIN_S)
        self.transport.abort()

    def _not_opened(self) -> None:
        if not self.relay.negotiated.open:
            told = (self.peer, self._listener.upstream, self._listener.open_within_s)
            log.warning("%s and the broker at %s did not agree within %g s: closed", *told)
            self.transport.abort()

    async def _dial(self) -> None:
        try:
            broker = await self._listener.dial(self)
        except OSError as error:
            reason = error.strerror or str(error) or "no answer"  # a TimeoutError is an OSError
            log.warning("no broker at %s for %s: %s", self._listener.upstream, self.peer, reason)
            self.transport.abort()
            return
        finally:
            self._dialling = None
        if self.transport.is_closing():
            broker.transport.abort()
            return
        self.broker = broker
        self._impatience = self._loop.call_later(self._listener.open_within_s, self._not_opened)
        self.written_at = self._loop.time()
        header, rest = self._begin[: len(PROTOCOL_HEADER)], self._begin[len(PROTOCOL_HEADER) :]
        self._begin = b""
        broker.transport.write(header)
        if rest:
            self.relay.from_client(rest, self._loop.time())
        self.flush()

    # --- the broker ---------------------------------------------------------------------------------------------------

    def broker_sent(self, data: bytes) -> None:
        """Forward what the broker sent."""
        self.relay.from_broker(data, self._loop.time())
        self.flush()

    def broker_writes(self, *, paused: bool) -> None:
        """Read the client only while the broker takes what is written."""
        self._writes_paused = paused
        self._follow()

    def broker_lost(self) -> None:
        """The broker has closed the connection, or is gone."""
        try:
            self.flush()
            self.relay.lost(self._loop.time())
        finally:
            self.end()  # whatever fails here, a client must not wait for a broker that is gone

    # --- both ---------------------------------------------------------------------------------------------------------

    def _has_output(self) -> None:
        self._listener.note_output(self)

    def flush(self) -> None:
        """Send what the relay has for both sides."""
        relay = self.relay
        if relay.to_broker:
            self._write_to_broker()
        if relay.to_client:
            pieces = relay.to_client
            if not self._ended and not self.transport.is_closing():
                self.transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()
        self._follow()

    def _write_to_broker(self) -> None:
        pieces = self.relay.to_broker
        if self.broker is not None and pieces and not self.broker.transport.is_closing():
            self.broker.transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            self.written_at = self._loop.time()
        pieces.clear()

    def _follow(self) -> None:
        if self._ended or self.transport.is_closing():
            return
        if self._writes_paused or not self.relay.wants_client or (self.stopping and self.relay.holds):
            self.transport.pause_reading()
        elif self.broker is not None:
            self.transport.resume_reading()

    def end(self) -> None:
        """Send the last bytes to the client, and close when it closes too, or its time is up."""
        if self._ended:
            return
        self._ended = True
        if self.transport.is_closing():
            return
        try:
            if self.transport.can_write_eof():  # TLS has no half of a connection
                self.transport.write_eof()
                self.transport.resume_reading()
            else:
                self.transport.close()
        except OSError:  # the client is gone
            self.transport.abort()
            return
        self._loop.call_later(_FAREWELL_S, self.transport.abort)

    def shut(self) -> None:
        """Close both sides as AMQP asks for: the proxy stops."""
        if self._ended:
            return
        if self.relay.negotiated.open and self.broker is not None and not self.broker.transport.is_closing():
            text = "CONNECTION_FORCED - the proxy was stopped"
            self.transport.write(method_frame(0, commands.Connection.Close(320, text, 0, 0)))
            self.broker.transport.write(method_frame(0, commands.Connection.Close(200, "the proxy was stopped", 0, 0)))
        self.end()


class _BrokerSide(asyncio.Protocol):
    """The socket to the broker."""

    transport: asyncio.Transport

    def __init__(self, client: _ClientSide) -> None:
        self._client = client
        self._abandoned = False

    def abandon(self) -> None:
        """Close it without a word to the client: another server was faster."""
        self._abandoned = True
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER_BYTES)
        _keep_alive(self.transport)

    def data_received(self, data: bytes) -> None:
        self._client.broker_sent(data)

    def pause_writing(self) -> None:
        self._client.broker_writes(paused=True)

    def resume_writing(self) -> None:
        self._client.broker_writes(paused=False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        if not self._abandoned:
            self._client.broker_lost()


class _Securing(asyncio.Protocol):
    """A client's socket until both have agreed on TLS; what follows at once is kept for the `_ClientSide`."""

    def __init__(self, listener: Listener, context: ssl.SSLContext) -> None:
        self._listener = listener
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._task = self._listener.loop.create_task(self._secure(cast("asyncio.Transport", transport)))

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        self._lost = True

    async def _secure(self, transport: asyncio.Transport) -> None:
        listener, peer = self._listener, _peer_of(transport)
        try:
            secured = await listener.loop.start_tls(
                transport, self, self._context, server_side=True, ssl_handshake_timeout=_HEADER_WITHIN_S
            )
        except ssl.SSLError as error:
            reason = (error.reason or "handshake failed").replace("_", " ").lower()
            hint = " (it speaks no TLS: its URL needs amqps://)" if error.reason in _NO_TLS else ""
            log.warning("no TLS with %s: %s%s", peer, reason, hint)
        except OSError as error:
            log.info("no TLS with %s: %s", peer, error.strerror or str(error) or "it has closed the connection")
        else:
            if secured is not None and not self._lost:
                client = _ClientSide(listener)
                secured.set_protocol(client)
                client.connection_made(secured)
                for data in self._early:
                    client.data_received(data)
            return
        transport.abort()


class Listener:
    """Accepts clients, and lets go what waits when its time has come.

    Attributes:
        view: what all connections share.
        upstream: the broker's address without credentials.
        open_within_s: how long a client and the broker may take until they have agreed.
        accepted, refused: connections so far, and those that were too many.
    """

    def __init__(self, address: ListenAddress, broker: BrokerSettings, view: View) -> None:
        """Raises `ConfigError` for TLS files that cannot be used."""
        self.view = view
        self.upstream = broker.address()
        self.accepted = self.refused = 0
        self._tellings_before = 0
        self.loop = asyncio.get_running_loop()
        self._tls = tls_context(broker) if broker.parts().scheme == "amqps" else None
        self._servers = broker.servers()
        self._connect_timeout_s = broker.connect_timeout_s
        self.open_within_s = _OPEN_WITHIN * broker.connect_timeout_s
        self._address = address
        self._most = max(1, room_for_connections(2 * address.max_connections) // 2)
        self._server: asyncio.Server | None = None
        self._connections: set[_ClientSide] = set()
        self._with_output: set[_ClientSide] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._deserted = asyncio.Event()

    async def start(self) -> int:
        """Listen; return the port. Raises `PortTakenError`, `ConfigError`."""
        address = self._address
        try:
            tls = address.tls
            self._server = await listen(
                lambda: _ClientSide(self) if tls is None else _Securing(self, tls), address.host, address.port
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(address.host, address.port, "--listen") from None
            where = f"{bracketed(address.host)}:{address.port}"
            raise ConfigError("--listen", where, f"cannot listen there: {error.strerror}") from None
        for listening in self._server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, address.receive_buffer_bytes)
        self._ticker = self.loop.call_later(_TICK_S, self._tick)
        return int(self._server.sockets[0].getsockname()[1])

    async def dial(self, client: asyncio.BaseProtocol) -> _BrokerSide:
        """Return a connection to the broker for ``client``; raises `OSError`, `TimeoutError`."""

        async def attempt(server: Server) -> _BrokerSide:
            host, port = server
            side = _BrokerSide(cast("_ClientSide", client))
            async with asyncio.timeout(self._connect_timeout_s):
                await self.loop.create_connection(
                    lambda: side, host, port, ssl=self._tls, server_hostname=host if self._tls else None
                )
            return side

        servers = Servers(self._servers)  # each client's connection goes to any of them
        _, side = await servers.first(attempt, discard=_BrokerSide.abandon)
        return side

    # --- connections --------------------------------------------------------------------------------------------------

    @property
    def relays(self) -> list[Relay]:
        """The state of every connection."""
        return [connection.relay for connection in self._connections]

    def admit(self, connection: _ClientSide) -> None:
        """Take a new connection; one that is too many is closed."""
        self._connections.add(connection)
        self.accepted += 1
        if len(self._connections) > self._most:
            self.refused += 1
            log.warning("%s is one connection too many (--max-connections %d)", connection.peer, self._most)
            connection.transport.abort()

    @property
    def blocked_tellings(self) -> int:
        """How often clients were told that they are held."""
        return self._tellings_before + sum(relay.blocked_tellings for relay in self.relays)

    def dismiss(self, connection: _ClientSide) -> None:
        """A connection is closed."""
        if connection in self._connections:
            self._tellings_before += connection.relay.blocked_tellings
        self._connections.discard(connection)
        self._with_output.discard(connection)
        if not self._connections:
            self._deserted.set()

    def note_output(self, connection: _ClientSide) -> None:
        """Something that waited was let go."""
        self._with_output.add(connection)

    # --- time ---------------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Let go what waits as soon as it may go."""
        now = self.loop.time()
        wait_s = min((queue.wait_s(now) for queue in self.view.paced.values() if queue.waiting), default=inf)
        if wait_s == inf:
            return
        due_at = now + max(wait_s, _SHORTEST_PAUSE_S)
        if self._timer is not None:
            if self._timer.when() <= due_at:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(due_at, self.release)

    def release(self) -> None:
        """Let go what may go now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self.loop.time()
        for queue in list(self.view.paced.values()):
            if queue.waiting:
                queue.release(now)
        while self._with_output:
            connection = self._with_output.pop()
            connection.relay.released()
            connection.flush()
        self.schedule()

    def wake(self) -> None:
        """The pace has changed, or a confirm has come: look soon."""
        if self._timer is None or self._timer.when() > self.loop.time() + _SHORTEST_PAUSE_S:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(0, self.release)

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(_TICK_S, self._tick)
        now = self.loop.time()
        blocked = False
        for connection in list(self._connections):
            relay = connection.relay
            blocked = blocked or relay.blocked_by_broker
            if connection.broker is not None:
                relay.tick(now, broker_written_at=connection.written_at)
                if relay.to_broker or relay.to_client:
                    connection.flush()
        for queue in self.view.paced.values():
            queue.set_blocked(blocked=blocked)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def stop(self, drain_timeout_s: float) -> None:
        """Accept nobody, let go what waits at its pace for a while, then at once, and close every connection."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.stopping = True
            connection.flush()
        await self._until(lambda: not any(relay.holds for relay in self.relays), drain_timeout_s)
        for connection in list(self._connections):
            connection.relay.let_go(self.loop.time())
            connection.flush()
        queues = self.view.paced.values()
        await self._until(lambda: not any(queue.outbox.in_flight.count for queue in queues), _FAREWELL_S)
        for connection in list(self._connections):
            connection.shut()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._deserted.wait(), _FAREWELL_S)
        for connection in list(self._connections):
            connection.transport.abort()
        for timer in (self._timer, self._ticker):
            if timer is not None:
                timer.cancel()

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = self.loop.time() + timeout_s
        while not condition() and self.loop.time() < deadline:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


def _peer_of(transport: asyncio.BaseTransport) -> str:
    host, port, *_ = transport.get_extra_info("peername") or ("", 0)
    return f"{bracketed(str(host))}:{port}"


def _keep_alive(transport: asyncio.Transport) -> None:
    """Notice a peer that has vanished, also while nothing is read from it."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            option = getattr(socket, name, None)
            if option is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, value)
