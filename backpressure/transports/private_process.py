"""A private broker process: started in a temporary directory on free loopback ports, and removed completely.

This module has what all of them share: waiting until the broker is ready, saying why it did not start, and removing it.
Each runs under a shell that ends the whole process group when our end of its pipe closes, so nothing is left behind
even when our process is killed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Generic, Self, TypeVar

import psutil

from backpressure.core.addresses import BrokerAddress
from backpressure.errors import ConfigError, PortTakenError, TransportError
from backpressure.program import require_posix

MOST_NODES = 7
"""How many nodes a private cluster may have: each costs memory and processor time of this machine."""
PREFIX = "pace-"
"""What the names of the temporary directories begin with."""

# `read` returns when the pipe from our process closes, for whatever reason. Then the shell removes the directory, in
# which it runs, and kills the whole process group, itself included. The data is temporary: no orderly stop is needed.
_LIFELINE = 'read _; rm -rf "$PWD"; kill -KILL 0'
_ENDED = "ended"
_TAIL = 1000
_HOST = "127.0.0.1"
_CONNECTION_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_CONNECTION_PORTS = range(32_768, 65_536)
_PORTS = range(10_000, 65_536)
_ENOUGH_PORTS = 2000
_FREE_PORT_TRIES = 100
_STARTS = 3
_PORT_LOST = re.compile(r"eaddrinuse|address already in use|in use by another", re.IGNORECASE)
_READY_TIMEOUT_S = 240.0  # a start takes ten seconds of processor time, which on a busy machine is minutes
_STOP_TIMEOUT_S = 240.0
_POLL_S = 0.2
_WATCH_S = 0.5


Node = TypeVar("Node", bound="PrivateProcess")


class _PortLostError(TransportError):
    """Another process listens on one of the ports that were chosen."""


class PrivateProcess(ABC):
    """A broker process for ``with`` or ``async with``; raises `TransportError` when it does not come up."""

    product: str
    """What to call it when it does not start."""

    def __init__(self) -> None:
        self.url = ""
        self.management_url = ""
        """Empty where there is no management API."""
        self.control_command = ""
        """The shell command that administers it, where there is one."""
        self.pid = 0
        """The process whose memory and CPU time are the broker's; 0 while it is not meant to be there."""
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned: tuple[str, tuple[str, ...], Mapping[str, str]] = ("", (), {})
        self._ports = ReservedPorts()

    @abstractmethod
    def _launch(self) -> None:
        """Choose ports, write the configuration into `_directory` and call `_spawn`."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether this broker answers; an open port may belong to another process. May block for a while."""

    def __enter__(self) -> Self:
        return asyncio.run(self.__aenter__())

    def __exit__(self, *_error: object) -> None:
        self._remove()

    async def __aenter__(self) -> Self:
        for starts_left in reversed(range(_STARTS)):
            try:
                self._begin()
                await self._until_ready()
                break
            except BaseException as error:
                self._remove()
                if not starts_left or not isinstance(error, _PortLostError):
                    raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.to_thread(self._remove)

    def kill(self) -> None:
        """End it at once, as a crash would; it keeps its ports and data. Killing twice is harmless."""
        self.pid = 0
        if self._process is not None:
            assert self._process.stdin is not None
            if self._process.poll() is None and sys.platform != "win32":  # there it never begins
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process.stdin.close()
            self._process = None

    async def stop(self) -> None:
        """Shut it down in order (SIGTERM); it keeps its ports and data. Raises `TransportError`."""
        pid, self.pid = self.pid, 0
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while _runs(pid):
                if time.monotonic() > deadline:
                    raise TransportError(f"the private {self.product} did not stop within {_STOP_TIMEOUT_S:g} s")
                await asyncio.sleep(_POLL_S)
        await asyncio.to_thread(self.kill)

    async def revive(self) -> None:
        """Start it again with the ports and data it had; raises `TransportError`.

        What still runs after an interrupted `stop` is killed: two processes would share the directory, which the shell
        of the first removes.
        """
        await asyncio.to_thread(self.kill)
        script, arguments, environment = self._spawned
        self._spawn(script, *arguments, environment=environment)
        await self._until_ready()

    def suspend(self) -> None:
        """Suspend it (SIGSTOP), with its connections open, until `go_on`."""
        if self.pid:
            psutil.Process(self.pid).suspend()

    def go_on(self) -> None:
        """Resume it after `suspend` (SIGCONT)."""
        if self.pid:
            psutil.Process(self.pid).resume()

    def tail(self) -> str:
        """Return the end of its output."""
        return self._output()[-_TAIL:]

    async def until_ended(self) -> None:
        """Return when the broker has ended by itself; `tail` returns its last output."""
        while self.pid and _runs(self.pid):  # noqa: ASYNC110 -- not a child of ours, so there is no event
            await asyncio.sleep(_WATCH_S)

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not await asyncio.to_thread(self._is_ready):
            self._check(deadline)
            await asyncio.sleep(_POLL_S)

    def _begin(self) -> None:
        require_posix(f"a private {self.product}", "/bin/sh and process groups")
        self._directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._launch()

    def _spawn(self, script: str, *arguments: str, environment: Mapping[str, str]) -> None:
        """Run the shell ``script`` that starts the broker, with its $1, $2 … in ``arguments``, in the background."""
        self._spawned = script, arguments, environment
        (self._directory / _ENDED).unlink(missing_ok=True)
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 -- installed programs; the shell script is a constant
                ["/bin/sh", "-c", f"{{ ({script}); : >{_ENDED}; }} & {_LIFELINE}", "pace", *arguments],
                env=environment,
                cwd=self._directory,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _check(self, deadline: float) -> None:
        assert self._process is not None
        ended = self._process.poll() is not None or (self._directory / _ENDED).exists()
        if not ended and time.monotonic() < deadline:
            return
        output = self._output()
        failed = _PortLostError if _PORT_LOST.search(output) else TransportError
        raise failed(f"the private {self.product} did not start: {output[-_TAIL:] or 'it said nothing'}")

    def _output(self) -> str:
        return (self._directory / "output").read_text(encoding="utf-8", errors="replace").strip()

    def _remove(self) -> None:
        self.kill()
        self._ports.release()
        if self._directory.name:
            shutil.rmtree(self._directory, ignore_errors=True)


class PrivateNodes(ABC, Generic[Node]):
    """A cluster of private processes for ``async with``; raises `TransportError` when it does not come up.

    Attributes:
        nodes: its processes, as soon as they start; the first is number 1.
    """

    product: str
    """What to call it when it does not start."""

    def __init__(self) -> None:
        self.nodes: Sequence[Node] = ()
        self._ports = ReservedPorts()
        self._stack = AsyncExitStack()

    @abstractmethod
    async def _begin(self) -> None:
        """Set `nodes`, start them by `_start`, and return when they have found each other."""

    async def _start(self, *processes: PrivateProcess) -> None:
        """Start processes side by side, to be removed at the end."""
        async with asyncio.TaskGroup() as starting:
            for process in processes:
                starting.create_task(self._stack.enter_async_context(process))

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseExceptionGroup as group:
            await self.__aexit__()
            raise group.exceptions[0] from None
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stack.aclose()
        self._ports.release()

    @property
    def url(self) -> str:
        """The addresses of all nodes."""
        return _together([node.url for node in self.nodes])

    @property
    def management_url(self) -> str:
        """The addresses of all management APIs; empty where there is none."""
        return _together([node.management_url for node in self.nodes if node.management_url])

    @property
    def control_command(self) -> str:
        """The shell command that administers the first node, where there is one."""
        return self.nodes[0].control_command

    @property
    def pid(self) -> int:
        """The process of the first node that is meant to run; 0 without one."""
        return next((node.pid for node in self.nodes if node.pid), 0)

    def tail(self) -> str:
        """Return the end of what the nodes print."""
        return "\n".join(filter(None, (node.tail() for node in self.nodes)))

    async def until_ended(self) -> None:
        """Return when one of the nodes has ended by itself."""
        waiting = [asyncio.create_task(node.until_ended()) for node in self.nodes]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()


def _together(urls: Sequence[str]) -> str:
    if not urls:
        return ""
    addresses = [BrokerAddress.parse(url) for url in urls]
    return addresses[0].at([server for address in addresses for server in address.servers])


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # its parent, the shell, waits for us alone
    except psutil.NoSuchProcess:
        return False


class ReservedPorts:
    """Ports of this machine that nobody else gets until `release`, while a process that was told them can listen there.

    On Linux each is bound, without listening, by a socket of ours: neither a connection nor another reservation gets
    it, but a server that allows the reuse of its address does, as brokers do, also after it was killed. Elsewhere a
    port is only known to be free at the moment of its choice.
    """

    def __init__(self) -> None:
        self._holders: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """Give all of them back."""
        for holder in self._holders:
            holder.close()
        self._holders.clear()

    def reserve(self, wanted: Sequence[tuple[int, str]]) -> list[int]:
        """Return distinct ports that were free.

        Each of ``wanted`` is a port (0: any) and the flag that chose it, for the error. Raises `PortTakenError`, or
        `ConfigError` when this user may not listen there.
        """
        ports = [port for port, _flag in wanted]
        holders = []
        for index in sorted(range(len(wanted)), key=lambda index: wanted[index][0] == 0):  # free ones come last
            port, flag = wanted[index]
            holders.append(_bound(port, flag) if port else _bound_anywhere())
            ports[index] = int(holders[-1].getsockname()[1])
        for holder in holders:
            if sys.platform == "linux":
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for the server; it was bound without
                self._holders.append(holder)
            else:
                holder.close()
        return ports


def _bound(port: int, flag: str) -> socket.socket:
    try:
        socket.create_server((_HOST, port)).close()
        return _socket_at(port, reuse=True)  # connections that ended a moment ago do not matter
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(_HOST, port, flag) from None
        raise ConfigError(flag, port, f"cannot listen there: {error.strerror}") from None


def _bound_anywhere() -> socket.socket:
    for candidate in random.sample(_server_ports(), _FREE_PORT_TRIES):
        with suppress(OSError):
            return _socket_at(candidate)
    return _socket_at(0)


def _socket_at(port: int, *, reuse: bool = False) -> socket.socket:
    """Return a socket that is bound there; without ``reuse`` it is the only one."""
    bound = socket.socket()
    try:
        if reuse:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((_HOST, port))
    except OSError:
        bound.close()
        raise
    return bound


def _server_ports() -> Sequence[int]:
    """Return the ports to choose from: none that the system gives to connections, if enough are left."""
    taken = _USUAL_CONNECTION_PORTS
    with suppress(OSError, ValueError):
        first, last = map(int, _CONNECTION_PORTS.read_text(encoding="ascii").split())
        taken = range(first, last + 1)
    others = [port for port in _PORTS if port not in taken]
    return others if len(others) >= _ENOUGH_PORTS else _PORTS
