"""A TCP proxy between the clients of a run and their broker, or between its nodes, to make the network fail.

It forwards bytes without reading them, on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from backpressure.core.addresses import BrokerAddress

_DEFAULT_PORT = 5672
_CHUNK_BYTES = 65_536
_CHUNKS_ON_THE_WAY = 1000
_PIECE_S = 0.05
_LOOK_AFTER_S = 0.2
_Road = asyncio.Queue[tuple[float, bytes]]
_Server = tuple[str, int]


@dataclass(eq=False, slots=True)
class _ProxiedConnection:
    """``broker`` is None when the broker side was never opened; ``ways`` are the tasks that forward each direction."""

    client: asyncio.StreamWriter
    target: _Server
    broker: asyncio.StreamWriter | None = None
    ways: set[asyncio.Task[None]] = field(default_factory=set)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        """The client's port."""
        return int(self.client.get_extra_info("peername")[1])

    def end(self) -> None:
        """End both sides at once; bytes on their way are lost."""
        for way in self.ways:
            way.cancel()
        self.client.transport.abort()
        if self.broker is not None:
            self.broker.transport.abort()


class _Isolation:
    """Tells which connections cross the border around one server, by the ports of its clients and its own."""

    def __init__(self, ports: Collection[int], clients: Callable[[], Collection[int]]) -> None:
        self._ports = ports
        self._clients = clients
        self._next: asyncio.Task[Collection[int]] | None = None

    async def cuts_off(self, connection: _ProxiedConnection) -> bool:
        """Return whether one of its sides, and only one, is cut off; questions of the same moment share one look."""
        if self._next is None:
            self._next = asyncio.create_task(self._look())
        return (connection.target[1] in self._ports) != (connection.port in await asyncio.shield(self._next))

    async def _look(self) -> Collection[int]:
        await asyncio.sleep(_LOOK_AFTER_S)
        self._next = None  # connections made from now on might not be seen
        return await asyncio.to_thread(self._clients)


class Proxy:
    """Forwards connections to one broker, to each of its servers by a port of its own; an async context manager.

    Attributes:
        delay_s: added to the time of every byte, each way.
        bytes_per_s: the limit of each direction of each connection; 0: none.
    """

    def __init__(self, broker_url: str, ports: Sequence[int] = ()) -> None:
        """``broker_url`` is where the broker listens. TLS is not possible: the broker's certificate would not match.

        ``ports``: where to listen for each of its servers; none: at free ports.
        """
        self._address = BrokerAddress.parse(broker_url)
        self._targets = self._address.hosts("localhost", _DEFAULT_PORT)
        self._servers: list[asyncio.Server] = []
        self._ports = [*ports] or [0] * len(self._targets)
        self._silent = False
        self._isolation: _Isolation | None = None
        self._connections: set[_ProxiedConnection] = set()
        self.delay_s = 0.0
        self.bytes_per_s = 0.0

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return self._address.at([("127.0.0.1", port) for port in self._ports])

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """End every connection at once and refuse new ones."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        ending = list(self._connections)
        for connection in ending:
            connection.end()
        for connection in ending:
            await connection.ended.wait()
        for server in servers:
            await server.wait_closed()

    def half_open(self) -> None:
        """End the broker's side of every connection; the clients' side, and every new one, stays open and silent."""
        self._silent = True
        for connection in self._connections:
            if connection.broker is not None:
                connection.broker.transport.abort()

    async def isolate(self, ports: Collection[int], clients: Callable[[], Collection[int]]) -> None:
        """Cut off the program that listens at ``ports`` and connects from those in ``clients``: it reaches only itself.

        ``clients`` blocks for a moment. It is called now, and then a few times a second at most, while others connect.
        """
        self._isolation = isolation = _Isolation(ports, clients)
        now = [*self._connections]
        cut_off = await asyncio.gather(*map(isolation.cuts_off, now))
        for connection, ends in zip(now, cut_off, strict=True):
            if ends:
                connection.end()

    async def mend(self) -> None:
        """Restore the network; connections that have lost their other side end."""
        self.delay_s = self.bytes_per_s = 0.0
        self._isolation = None
        if self._silent:
            self._silent = False
            for connection in list(self._connections):
                if connection.broker is None or connection.broker.transport.is_closing():
                    connection.client.transport.abort()
        if not self._servers:
            await self._listen()

    async def _listen(self) -> None:
        for number, (target, port) in enumerate(zip(self._targets, self._ports, strict=True)):
            server = await asyncio.start_server(partial(self._serve, target), "127.0.0.1", port)
            self._ports[number] = int(server.sockets[0].getsockname()[1])
            self._servers.append(server)

    async def _serve(self, target: _Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _ProxiedConnection(writer, target)
        self._connections.add(connection)
        try:
            if not (self._silent or (self._isolation and await self._isolation.cuts_off(connection))):
                await self._join(connection, reader)
            while self._silent and not writer.transport.is_closing() and await reader.read(_CHUNK_BYTES):
                pass  # read, and never answer
        except OSError:
            pass  # the connection ended, as it should
        finally:
            self._connections.discard(connection)
            writer.transport.abort()
            connection.ended.set()

    async def _join(self, connection: _ProxiedConnection, reader: asyncio.StreamReader) -> None:
        """Forward both ways until one side ends, then end the other, unless the client must not notice."""
        from_broker, to_broker = await asyncio.open_connection(*connection.target)
        connection.broker = to_broker
        upward = asyncio.create_task(self._forward(reader, to_broker))
        downward = asyncio.create_task(self._forward(from_broker, connection.client))
        connection.ways = {upward, downward}
        try:
            await asyncio.wait(connection.ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in connection.ways:
                way.cancel()
            await asyncio.gather(*connection.ways, return_exceptions=True)
            to_broker.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        road: _Road = asyncio.Queue(_CHUNKS_ON_THE_WAY)
        arrivals = asyncio.create_task(_arrive(road, sink))
        try:
            with contextlib.suppress(OSError):
                while chunk := await source.read(_CHUNK_BYTES):
                    async for piece in self._squeezed(chunk):
                        await road.put((asyncio.get_running_loop().time() + self.delay_s, piece))
            await road.put((0.0, b""))
            await arrivals
        finally:
            arrivals.cancel()

    async def _squeezed(self, chunk: bytes) -> AsyncIterator[bytes]:
        """Yield ``chunk`` in pieces, at the bandwidth limit: when the limit is lifted, the rest follows at once."""
        while chunk:
            size = len(chunk)
            if self.bytes_per_s:
                size = min(size, max(1, round(self.bytes_per_s * _PIECE_S)))
                await asyncio.sleep(size / self.bytes_per_s)
            yield chunk[:size]
            chunk = chunk[size:]


async def _arrive(road: _Road, sink: asyncio.StreamWriter) -> None:
    """Hand on each piece when it is due, in order, until the empty one that marks the end."""
    loop = asyncio.get_running_loop()
    while True:
        due_at, chunk = await road.get()
        if not chunk:
            return
        await asyncio.sleep(max(0.0, due_at - loop.time()))
        sink.write(chunk)
        await sink.drain()
