"""The embedded broker's process: TCP listeners, the clock, and the event loop.

Contains everything that uses asyncio, signals, and files at start-up. AMQP itself is in `session`; this module carries
its bytes and decodes no frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import cast

from backpressure.broker.descriptors import QuietAcceptErrors, listen, peer_has_closed, room_for_connections
from backpressure.broker.faults import FaultSettings
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.management import ManagementApi
from backpressure.broker.management_topology import load_definitions
from backpressure.broker.session import CLOSE_TIMEOUT_S, Session
from backpressure.broker.store import Store, StoreError
from backpressure.broker.vhost import VirtualHost
from backpressure.broker.web import Answer, WebServer, end_output
from backpressure.core.addresses import bracketed, is_loopback
from backpressure.errors import ConfigError, PortTakenError
from backpressure.program import on_stop_signals
from backpressure.version import __version__

WRITE_HIGH_WATER_BYTES = 256 * 1024
SHUTDOWN_GRACE_S = 1.0
SAMPLE_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The certificate, and where to listen with it besides the plain ports."""

    certificate: Path
    key: Path | None = None
    port: int = 5671
    management_port: int = 15671

    def context(self) -> ssl.SSLContext:
        """What encrypts; `ConfigError` for files that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as cause:
            no_pair = isinstance(cause, ssl.SSLError)
            reason = "no certificate and key in PEM form that belong together" if no_pair else cause.strerror
            raise ConfigError("--tls-cert", str(self.certificate), f"cannot be used: {reason}") from cause
        return context


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Addresses, limits and options of a broker."""

    host: str = "127.0.0.1"
    port: int = 5672
    management_port: int | None = 15672
    memory_limit_bytes: int = 0
    max_connections: int = 1000
    data_dir: Path | None = None
    faults: FaultSettings = field(default_factory=FaultSettings)
    definitions: Path | None = None
    tls: TlsConfig | None = None
    denied: frozenset[str] = frozenset()
    """Features that RabbitMQ has deprecated and that are not permitted; see `DEPRECATED`."""
    session: SessionConfig = field(default_factory=SessionConfig)

    def __post_init__(self) -> None:
        if self.host.startswith("[") and self.host.endswith("]"):  # as in a URL
            object.__setattr__(self, "host", self.host[1:-1])

    @property
    def management_host(self) -> str:
        """Where the management API listens: on loopback, wherever AMQP does."""
        return self.host if is_loopback(self.host) else "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Announcement:
    """The address of a broker that accepts connections."""

    pid: int
    host: str
    port: int
    management_port: int | None
    url: str
    version: str = __version__
    role: str = "broker"
    tls_port: int | None = None
    management_tls_port: int | None = None
    management_host: str = "127.0.0.1"

    @property
    def management_url(self) -> str:
        """Where the management API is; empty where there is none."""
        return f"http://{bracketed(self.management_host)}:{self.management_port}" if self.management_port else ""

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        draft = path.with_name(f".{path.name}.{self.pid}")
        draft.write_text(json.dumps({name: getattr(self, name) for name in self.__slots__}) + "\n")
        draft.replace(path)


class _AmqpConnection(asyncio.Protocol):
    """The socket of one session."""

    transport: asyncio.Transport
    session: Session

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self.session = self._server.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return  # read to the end nevertheless: what stayed unread would destroy our last frames on their way
        self.session.receive(data, self._server.now())
        self._server.note_changes()
        self._follow()

    def pause_writing(self) -> None:
        self.session.output_paused()
        self._follow()

    def resume_writing(self) -> None:
        self.session.output_resumed()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._server.vhost.now = self._server.now()
        self.session.lost()
        self._server.dismiss(self)

    def flush(self) -> None:
        """Send the session's output, then let it continue."""
        if self._ended or self.transport.is_closing():
            return
        data = self.session.take_output()
        if data:
            self.transport.write(data)
        if self.session.closed:
            self._end(said_something=bool(data))
            return
        self.session.go_on(self._server.now())
        self._follow()

    def _end(self, *, said_something: bool) -> None:
        """Close; after last frames only when the peer closes too, or its time is up."""
        self._ended = True
        if said_something and end_output(self.transport):
            self.transport.resume_reading()
        else:
            self.transport.close()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _follow(self) -> None:
        """Read from the socket only while the session accepts input."""
        if self.session.wants_input:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


class Server:
    """A virtual host, its connections and its management API, in one event loop."""

    def __init__(self, config: BrokerConfig) -> None:
        """Raises `ConfigError` where others could log in with a known password, or for an unusable ``data_dir``."""
        _check_users(config)
        self.config = config
        self._tls = None if config.tls is None else config.tls.context()
        self._loop = asyncio.get_running_loop()
        self.vhost = VirtualHost(
            memory_limit_bytes=config.memory_limit_bytes or _default_memory_limit_bytes(),
            now=self.now(),
            epoch_s=time.time(),
            denied=config.denied,
        )
        self._deadline: asyncio.TimerHandle | None = None
        self.vhost.timers.on_earlier = self._schedule_deadline
        self._store = Store(config.data_dir) if config.data_dir else None
        self.recovered = 0
        if self._store is not None:
            self.vhost.journal = self._store
            self.recovered = self._store.load(self.vhost)
        self._failure: StoreError | None = None
        self.max_connections = room_for_connections(config.max_connections)
        self._connections: dict[Session, _AmqpConnection] = {}
        self._awake: dict[Session, None] = {}
        self._flush_scheduled = False
        self._servers: list[asyncio.Server] = []
        self._management = ManagementApi(self.vhost, config.session, self.now, self._sessions)
        self._stopping = asyncio.Event()
        self._deserted = asyncio.Event()
        self._sample()
        if config.definitions is not None:
            load_definitions(self.vhost, config.definitions)
        self.vhost.faults.apply(config.faults)

    def now(self) -> float:
        """Return the event loop's clock, in seconds."""
        return self._loop.time()

    async def start(self) -> Announcement:
        """Start to listen; `PortTakenError` if a port is in use."""
        config = self.config
        amqp = await self._listen(lambda: _AmqpConnection(self), config.port, "--port")
        web = WebServer(self._answer, self._loop.call_later)
        management = amqps = https = None
        if config.management_port is not None:
            where = config.management_host
            management = await self._listen(web.connection, config.management_port, "--management-port", host=where)
        if config.tls is not None:
            amqps = await self._listen(lambda: _AmqpConnection(self), config.tls.port, "--tls-port", self._tls)
            if management is not None:
                port, flag = config.tls.management_port, "--management-tls-port"
                https = await self._listen(web.connection, port, flag, self._tls, host=config.management_host)
        ports = {"amqp": amqp, "amqp/ssl": amqps, "http": management, "https": https}
        self._management.node.listeners = {protocol: port for protocol, port in ports.items() if port is not None}
        return Announcement(
            tls_port=amqps,
            management_tls_port=https,
            pid=os.getpid(),
            host=config.host,
            port=amqp,
            management_port=management,
            management_host=config.management_host,
            url=f"amqp://{_login(config.session)}{bracketed(config.host)}:{amqp}/",
        )

    async def _listen(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        port: int,
        flag: str,
        tls: ssl.SSLContext | None = None,
        *,
        host: str = "",
    ) -> int:
        host = host or self.config.host
        try:
            server = await listen(factory, host, port, tls)
        except OSError as cause:
            if cause.errno == errno.EADDRINUSE:
                raise PortTakenError(host, port, flag) from cause
            where = f"{bracketed(host)}:{port}"
            raise ConfigError(flag, port, f"cannot listen on {where}: {cause.strerror}") from cause
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _answer(self, method: str, target: str, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """Answer an HTTP request after its changes are written, as confirms are sent after a write."""
        answer = self._management.handle(method, target, headers, body)
        if self._kept():
            return answer
        return Answer.refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(self._failure))

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, then close every connection; raises `StoreError` if data could not be written."""
        await self._stopping.wait()
        for server in self._servers:
            server.close()
        for session in list(self._connections):
            session.close(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._deserted.wait(), SHUTDOWN_GRACE_S)
        for connection in list(self._connections.values()):
            connection.transport.abort()
        self._kept()
        if self._store is not None:
            self._store.close()
        if self._failure is not None:
            raise self._failure

    # -- sessions ------------------------------------------------------------------------------------------------

    def admit(self, connection: _AmqpConnection) -> Session:
        """Return a session for a new connection; beyond the limit, it is closed at once."""
        peer = connection.transport.get_extra_info("peername") or ("", 0)
        self.vhost.now = self.now()
        local = connection.transport.get_extra_info("sockname") or ("", 0)
        session = Session(self.vhost, self.config.session, self._wake, peer=peer[:2], local=local[:2])
        self._connections[session] = connection
        if len(self._connections) > self.max_connections:
            session.lost()
        return session

    def dismiss(self, connection: _AmqpConnection) -> None:
        """A connection was closed."""
        self._connections.pop(connection.session, None)
        if not self._connections and self._stopping.is_set():
            self._deserted.set()

    def _sessions(self) -> list[Session]:
        return [session for session in self._connections if not session.closed]

    def _wake(self, session: Session) -> None:
        self._awake[session] = None
        self._schedule_flush()

    def note_changes(self) -> None:
        """Schedule a write: an acknowledgement changes what is kept, but produces no output."""
        if self._store is not None:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _kept(self) -> bool:
        """Write all changes; return False and stop if that fails: what is not written must not be confirmed."""
        if self._store is None:
            return True
        try:
            self._store.commit(self.vhost)
        except StoreError as error:
            self._failure = error
            self.stop()
        return self._failure is None

    def _flush(self) -> None:
        """Once a tick: write changes to disk, then send the output of each connection in one write."""
        self._flush_scheduled = False
        if not self._kept():
            return
        awake, self._awake = self._awake, {}
        for session in awake:
            connection = self._connections.get(session)
            if connection is not None:
                self._flush_one(connection)

    def _flush_one(self, connection: _AmqpConnection) -> None:
        try:
            connection.flush()
        except Exception as defect:  # noqa: BLE001 -- it must end one connection, and not keep the others waiting
            self._loop.call_exception_handler({"message": "a connection is dropped", "exception": defect})
            connection.transport.abort()

    # -- time ----------------------------------------------------------------------------------------------------

    def _schedule_deadline(self) -> None:
        due_s = self.vhost.timers.next_deadline()
        if self._deadline is not None:
            if due_s is not None and self._deadline.when() <= due_s:
                return
            self._deadline.cancel()
        self._deadline = None if due_s is None else self._loop.call_at(due_s, self._advance)

    def _advance(self) -> None:
        self._deadline = None
        try:
            self.vhost.advance(self.now())
        finally:  # a defect in one callback must not end all timers
            self._schedule_deadline()
            self._schedule_flush()

    def _sample(self) -> None:
        """Sample all counters once a second, for the rates of the management API."""
        now = self.vhost.now = self.now()
        self.vhost.counters.sample(now)
        for queue in self.vhost.queues.values():
            queue.counters.sample(now)
        for exchange in self.vhost.exchanges.values():
            exchange.counters.sample(now)
        for session, connection in list(self._connections.items()):
            for channel in session.channels.values():
                channel.counters.sample(now)
            if session.holds_memory_while_blocked and peer_has_closed(connection.transport):
                connection.transport.abort()  # asyncio does not notice it, because it does not read
        self.vhost.timers.at(now + SAMPLE_PERIOD_S, self._sample)
        self._schedule_flush()


def _login(session: SessionConfig) -> str:
    """Return user and password as a URL has them; no password that is not known anyway."""
    return "guest:guest@" if session.users.get("guest") == "guest" else ""


def _check_users(config: BrokerConfig) -> None:
    """Refuse to let other machines log in with the password that everybody knows."""
    if not is_loopback(config.host) and config.session.users.get("guest") == "guest":
        allowed = "beyond loopback the broker needs users of your own, since everybody knows guest's password: --user"
        raise ConfigError("--host", config.host, f"{allowed} NAME:PASSWORD")


def _default_memory_limit_bytes() -> int:
    """Return two fifths of the machine's memory, as in RabbitMQ."""
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415 - elsewhere the broker does without

        return int(0.4 * psutil.virtual_memory().total)
    return int(0.4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


async def serve(
    config: BrokerConfig,
    *,
    announce: Path | None = None,
    on_ready: Callable[[Announcement], None] = lambda _announcement: None,
) -> None:
    """Run a broker until SIGINT, SIGTERM or SIGHUP.

    When it listens it says where: on stdout, in the file ``announce`` and to ``on_ready``. Raises
    `PortTakenError` when a port is taken.
    """
    server = Server(config)
    asyncio.get_running_loop().set_exception_handler(QuietAcceptErrors())
    if server.max_connections < config.max_connections:
        sys.stderr.write(
            f"embedded broker: at most {server.max_connections} AMQP connections instead of {config.max_connections}: "
            + (
                "an event loop on Windows waits for 512 sockets\n"
                if sys.platform == "win32"
                else "the limit on open files leaves no more; raise it with ulimit -n\n"
            )
        )
    on_stop_signals(asyncio.get_running_loop(), server.stop)
    announcement = await server.start()
    sys.stdout.write(
        f"embedded broker ready on {announcement.url.rstrip('/')}"
        + (f", management on {announcement.management_url}" if announcement.management_url else "")
        + (f", with TLS on port {announcement.tls_port}" if announcement.tls_port else "")
        + (f" and {announcement.management_tls_port}" if announcement.management_tls_port else "")
        + f"; for experiments{' on this machine' if is_loopback(config.host) else ''} only, "
        + (
            f"durable in {config.data_dir} ({server.recovered} messages recovered)\n"
            if config.data_dir
            else "nothing survives a restart\n"
        )
    )
    sys.stdout.flush()
    if announce is not None:
        announcement.write(announce)
    on_ready(announcement)
    await server.run()
