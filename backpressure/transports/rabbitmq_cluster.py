"""A private RabbitMQ cluster: several nodes on this machine with a port mapper of their own, removed completely.

The first node starts alone; the others join it while they start, all at once. Each has its own directory, ports and
process group, so that one can be killed, stopped or cut off while the others go on.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import string
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from backpressure.errors import TransportError
from backpressure.transports.private_process import PrivateNodes, PrivateProcess
from backpressure.transports.rabbitmq_node import (
    ClusterMember,
    PrivateNode,
    RabbitMQMissingError,
    find_rabbitmq,
    port_mapper,
)

QUORUM_MEMBERS = 3
"""How many members RabbitMQ gives a quorum queue, if there are as many nodes."""
_MAJORITY = 3  # of fewer nodes none has a majority when one is cut off
_COOKIE_LETTERS = 20
_POLL_S = 0.1
_JOINED_WITHIN_S = 240.0
_NAMES_REQUEST = b"\x00\x01n"


class _PortMapper(PrivateProcess):
    """Erlang's epmd: it tells the nodes each other's ports."""

    product = "Erlang port mapper"

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def _launch(self) -> None:
        script = find_rabbitmq()
        program = None if script is None else port_mapper(script)
        if program is None:
            raise RabbitMQMissingError
        self._spawn('"$1" -address 127.0.0.1 -port "$2"', program, str(self.port), environment={})

    def _is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as mapper:
            mapper.sendall(_NAMES_REQUEST)
            return mapper.recv(4) == self.port.to_bytes(4, "big")
        return False


def private_cluster(size: int, port: int = 0, management_port: int = 0) -> PrivateCluster:
    """Return a cluster of ``size`` nodes, to be started by ``async with``.

    ``port`` and ``management_port`` are those of the first node, and the others have the next ones; 0: free ones.
    """
    return PrivateCluster(size, port, management_port)


class PrivateCluster(PrivateNodes[PrivateNode]):
    """Running nodes. Starting takes twice as long as one node does; raises what `PrivateNode` raises."""

    product = "RabbitMQ cluster"

    def __init__(self, size: int, port: int, management_port: int) -> None:
        super().__init__()
        self._size = size
        self._wanted_ports = (port, management_port)

    async def _begin(self) -> None:
        mapper = _PortMapper(*self._ports.reserve([(0, "")]))
        cookie = "".join(secrets.choice(string.ascii_uppercase) for _ in range(_COOKIE_LETTERS))
        partitions = "pause_minority" if self._size >= _MAJORITY else ""
        port, management_port = self._wanted_ports
        nodes: list[PrivateNode] = []
        for number in range(self._size):
            joins = nodes[0].node_name if nodes else ""
            member = ClusterMember(mapper.port, cookie, joins, partitions)
            ports = (port and port + number, management_port and management_port + number)
            nodes.append(PrivateNode(*ports, 1000, member))
        self.nodes = nodes
        first, *others = nodes
        await self._start(mapper)
        await self._start(first)
        await self._start(*others)
        await self._until_joined()

    async def told(self, path: str, *, besides: PrivateNode | None = None) -> Any:
        """Return what the management API tells at ``path``, by any running node but ``besides``."""
        error: Exception | None = None
        for node in self.nodes:
            if node is besides or not node.pid:
                continue
            try:
                return await asyncio.to_thread(node.told, path)
            except (OSError, ValueError) as failed:
                error = failed
        raise TransportError(f"no node of the cluster answers: {error}")

    async def queue(self, name: str, *, besides: PrivateNode | None = None) -> dict[str, Any]:
        """Return what the management API tells of a queue of the virtual host ``/``; {} when there is none."""
        with suppress(TransportError):
            found: dict[str, Any] = await self.told(f"/api/queues/%2F/{quote(name, safe='')}", besides=besides)
            return found
        return {}

    async def leader(self, queue: str) -> PrivateNode | None:
        """Return the node that leads a queue: it takes, orders and delivers its messages."""
        about = await self.queue(queue)
        name = about.get("leader") or about.get("node")
        return next((node for node in self.nodes if node.node_name == name), None)

    async def _until_joined(self) -> None:
        names = {node.node_name for node in self.nodes}
        running: set[str] = set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_JOINED_WITHIN_S):
                while running != names:
                    with suppress(OSError, ValueError):  # it may be too busy to answer at once
                        told = await asyncio.to_thread(self.nodes[-1].told, "/api/nodes")
                        running = {node["name"] for node in told if node.get("running")}
                    await asyncio.sleep(_POLL_S)
                return
        missing = ", ".join(sorted(names - running))
        raise TransportError(f"not all nodes of the private {self.product} joined it: {missing} did not")
