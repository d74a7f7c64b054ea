"""The TCP proxy of the network faults, with an echo server on loopback, in virtual time."""

from __future__ import annotations

import asyncio
import selectors
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from backpressure.core.addresses import BrokerAddress
from backpressure.experiments.tcp_proxy import Proxy

_LOOPBACK_S = 0.02  # bytes that are on their way through the kernel are let arrive before time jumps


Client = tuple[StreamReader, StreamWriter]


class JumpingSelector(selectors.DefaultSelector):
    """Where a loop would wait for a timer, lets its time jump instead; where it waits for a socket alone, waits."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(_LOOPBACK_S)
        if not ready:
            self._jump(timeout)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with real sockets and virtual time."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(JumpingSelector(self._jump))

    def time(self) -> float:
        return self.now

    def _jump(self, wait_s: float) -> None:
        self.now += wait_s


class Echo:
    """A server that sends back what it gets and knows how many connections it has, and its clients."""

    def __init__(self) -> None:
        self.open = 0
        self.changed = asyncio.Event()
        self.clients: list[StreamWriter] = []

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._count(1)
        try:
            while data := await reader.read(65_536):
                if data == b"go away":
                    break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the proxy ends connections as a broken network does
        finally:
            writer.transport.abort()
            self._count(-1)

    async def connect(self, proxy: Proxy) -> Client:
        port = int(proxy.url.rpartition(":")[2].partition("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.clients.append(writer)
        return reader, writer

    async def has_open(self, count: int) -> None:
        while self.open != count:
            self.changed.clear()
            await self.changed.wait()

    def _count(self, step: int) -> None:
        self.open += step
        self.changed.set()


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Echo, Proxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Proxy(f"amqp://me:secret@127.0.0.1:{port}/shop") as proxy:
            yield echo, proxy
        await echo.has_open(0)  # leaving it has ended every connection
    finally:
        for client in echo.clients:
            client.transport.abort()
        server.close()
        await server.wait_closed()


async def echoed(client: Client, data: bytes) -> bytes:
    reader, writer = client
    writer.write(data)
    return await reader.readexactly(len(data))


async def has_ended(client: Client) -> bool:
    """Wait for the end of a connection; False when bytes come instead."""
    try:
        return not await client[0].read(1)
    except ConnectionError:
        return True


def play(scene: Callable[[Echo, Proxy], Coroutine[Any, Any, None]]) -> None:
    async def story() -> None:
        async with stage() as (echo, proxy):
            await scene(echo, proxy)

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_login_and_virtual_host_stay_in_the_address_and_only_the_port_is_another() -> None:
    async def scene(_: Echo, proxy: Proxy) -> None:
        assert proxy.url.startswith("amqp://me:secret@127.0.0.1:")
        assert proxy.url.endswith("/shop")

    play(scene)


def test_every_byte_arrives_in_order_and_connections_do_not_mix() -> None:
    async def scene(echo: Echo, proxy: Proxy) -> None:
        clients = [await echo.connect(proxy) for _ in range(3)]
        texts = [bytes([number]) * 300_000 for number in range(3)]
        assert list(await asyncio.gather(*map(echoed, clients, texts))) == texts
        began = now()
        numbers = b"".join(number.to_bytes(4) for number in range(100_000))
        assert await echoed(clients[0], numbers) == numbers
        assert now() == began  # an undisturbed network holds nothing back

    play(scene)


def test_if_either_side_ends_the_other_learns_of_it() -> None:
    async def scene(echo: Echo, proxy: Proxy) -> None:
        leaving, sent_away = await echo.connect(proxy), await echo.connect(proxy)
        await echo.has_open(2)
        leaving[1].close()
        await echo.has_open(1)
        sent_away[1].write(b"go away")
        assert await has_ended(sent_away)

    play(scene)


def test_a_broker_that_is_away_ends_the_connection_at_once() -> None:
    async def story() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        echo = Echo()
        async with Proxy(f"amqp://127.0.0.1:{port}") as proxy:
            assert await has_ended(await echo.connect(proxy))
        echo.clients[0].transport.abort()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())


def test_a_cut_ends_every_connection_and_refuses_new_ones_until_it_is_mended() -> None:
    async def scene(echo: Echo, proxy: Proxy) -> None:
        clients = [await echo.connect(proxy) for _ in range(2)]
        await echo.has_open(2)
        await proxy.cut()
        assert [await has_ended(client) for client in clients] == [True, True]
        await echo.has_open(0)
        with pytest.raises(ConnectionRefusedError):
            await echo.connect(proxy)
        address = proxy.url
        await proxy.mend()
        assert proxy.url == address  # clients come back to where they were
        assert await echoed(await echo.connect(proxy), b"again") == b"again"

    play(scene)


def test_half_open_means_ended_for_the_broker_and_silence_for_the_clients() -> None:
    async def scene(echo: Echo, proxy: Proxy) -> None:
        old = await echo.connect(proxy)
        assert await echoed(old, b"hello") == b"hello"
        proxy.half_open()
        await echo.has_open(0)
        new = await echo.connect(proxy)
        for client in (old, new):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await echoed(client, b"anybody there?")
        assert echo.open == 0
        await proxy.mend()
        assert [await has_ended(client) for client in (old, new)] == [True, True]
        assert await echoed(await echo.connect(proxy), b"again") == b"again"

    play(scene)


def test_a_client_that_leaves_a_silent_network_is_forgotten() -> None:
    async def scene(echo: Echo, proxy: Proxy) -> None:
        proxy.half_open()
        client = await echo.connect(proxy)
        client[1].close()
        await client[1].wait_closed()
        await proxy.mend()
        assert await echoed(await echo.connect(proxy), b"others") == b"others"
        await echo.has_open(1)

    play(scene)


def test_a_delay_holds_up_each_way_keeps_the_order_and_ends_with_it() -> None:
    async def scene(echo: Echo, proxy: Proxy) -> None:
        client = await echo.connect(proxy)
        await echoed(client, b"warm")
        proxy.delay_s = 0.5
        began = now()
        client[1].write(b"first ")
        assert await echoed(client, b"second") == b"first "
        assert now() - began == pytest.approx(1.0)
        assert await client[0].readexactly(6) == b"second"
        assert now() - began == pytest.approx(1.0)  # a delay is no limit: both were on the way together
        await proxy.mend()
        began = now()
        await echoed(client, b"third")
        assert now() == began

    play(scene)


def test_a_bandwidth_belongs_to_one_connection_and_lifting_it_frees_what_waits() -> None:
    async def scene(echo: Echo, proxy: Proxy) -> None:
        client, other = await echo.connect(proxy), await echo.connect(proxy)
        proxy.bytes_per_s = 1000.0
        began = now()
        await asyncio.gather(echoed(client, b"x" * 2000), echoed(other, b"y" * 2000))
        assert now() - began == pytest.approx(2.0, abs=0.2)  # both ways overlap: what has arrived goes back at once
        client[1].write(b"z" * 60_000)
        await asyncio.sleep(1)
        began = now()
        await proxy.mend()
        assert await client[0].readexactly(60_000) == b"z" * 60_000
        assert now() - began < 0.2

    play(scene)


def test_leaving_in_the_middle_of_traffic_leaves_no_task_behind() -> None:
    async def story() -> None:
        async with stage() as (echo, proxy):
            proxy.delay_s = 30.0
            client = await echo.connect(proxy)
            client[1].write(b"never answered")
            await echo.has_open(1)
        assert await has_ended(client)
        await asyncio.sleep(0)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert [task.get_coro() for task in others] == []

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())


def test_each_server_of_a_cluster_is_reached_by_a_port_of_its_own() -> None:
    async def greet(name: bytes, _reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(name)
        writer.close()

    async def story() -> None:
        servers = [await asyncio.start_server(partial(greet, name), "127.0.0.1", 0) for name in (b"one", b"two")]
        names = ",".join(f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers)
        async with Proxy(f"amqp://me:s%40cret@{names}/shop") as proxy:
            address = BrokerAddress.parse(proxy.url)
            assert (address.password, address.path) == ("s@cret", "/shop")
            greetings = []
            for host, port in address.servers:
                reader, writer = await asyncio.open_connection(host, port)
                greetings.append(await reader.read())
                writer.close()
            assert greetings == [b"one", b"two"]
            await proxy.cut()
            await proxy.mend()
            assert proxy.url == address.at(address.servers)
        for server in servers:
            server.close()
            await server.wait_closed()

    asyncio.run(story())


def test_a_server_that_is_cut_off_reaches_only_itself_until_the_network_is_mended() -> None:
    async def greet(name: bytes, reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(name)
        await reader.read()
        writer.close()

    async def story() -> None:
        servers = [await asyncio.start_server(partial(greet, name), "127.0.0.1", 0) for name in (b"one", b"two")]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        async with Proxy(f"kafka://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}") as proxy:
            reached = BrokerAddress.parse(proxy.url).servers
            owned: set[int] = set()  # the ports of the clients of the first server
            writers: list[StreamWriter] = []

            async def dial(server: int, *, by_first: bool) -> tuple[bytes, StreamReader]:
                reader, writer = await asyncio.open_connection(*reached[server])
                writers.append(writer)
                if by_first:
                    owned.add(writer.get_extra_info("sockname")[1])
                return await reader.read(3), reader

            pairs = [(server, by_first) for server in (0, 1) for by_first in (False, True)]
            before = [await dial(server, by_first=by_first) for server, by_first in pairs]
            assert [greeting for greeting, _ in before] == [b"one", b"one", b"two", b"two"]
            await proxy.isolate([ports[0]], lambda: owned)
            await asyncio.gather(before[0][1].read(), before[3][1].read())  # both have ended
            assert not any(reader.at_eof() for _, reader in before[1:3])
            during = await asyncio.gather(*(dial(server, by_first=by_first) for server, by_first in pairs))
            assert [greeting for greeting, _ in during] == [b"", b"one", b"two", b""]
            await proxy.mend()
            after = [await dial(server, by_first=by_first) for server, by_first in pairs]
            assert [greeting for greeting, _ in after] == [b"one", b"one", b"two", b"two"]
            for writer in writers:
                writer.close()
        for server in servers:
            server.close()
            await server.wait_closed()

    asyncio.run(story())
