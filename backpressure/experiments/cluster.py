"""What a run can do to the nodes of a private broker, one by one or all together.

A broker is lost when all of its nodes are; a cluster goes on without a few. The faults of whole brokers
(``broker-kill`` and the like) act on every node here, those of clusters (``node-kill``) on one.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import psutil

from backpressure.errors import ExperimentError, TransportError
from backpressure.experiments.tcp_proxy import Proxy
from backpressure.transports.kafka_node import PrivateKafka
from backpressure.transports.private_process import PrivateProcess
from backpressure.transports.rabbitmq_cluster import QUORUM_MEMBERS, PrivateCluster
from backpressure.transports.rabbitmq_node import DISK_LIMIT, PrivateNode

if TYPE_CHECKING:
    from backpressure.transports.kafka.client import CopiesReader

_POLL_S = 0.1
_IN_SYNC_S = 60.0
_ELECTED_S = 30.0
_MORE_THAN_ANY_DISK = "1000000000000000"

_Node = TypeVar("_Node", bound=PrivateProcess)


class ClusterOperator(ABC, Generic[_Node]):
    """A `BrokerOperator` of all nodes together, and what can be done to one of them."""

    def __init__(self, nodes: Sequence[_Node]) -> None:
        """``nodes`` are running."""
        self.nodes = nodes

    @abstractmethod
    async def leader(self, queue: str) -> _Node:
        """Return the node that leads ``queue``; raises `TransportError` where there is none."""

    @abstractmethod
    async def elected(self, queue: str, before: _Node, since: float) -> tuple[_Node, float]:
        """Return the node that leads ``queue`` instead of ``before``, and when it became the leader (`time.time`)."""

    @abstractmethod
    async def until_in_sync(self, queue: str) -> None:
        """Return when every copy of ``queue`` is up to date; raises `ExperimentError` when that takes too long."""

    @abstractmethod
    async def set_alarm(self, *, raised: bool) -> None:
        """See `BrokerOperator.set_alarm`."""

    @abstractmethod
    async def cut_off(self, node: _Node) -> float:
        """End the connections between ``node`` and the others, and let them make no new ones; return when."""

    @abstractmethod
    async def join_again(self, node: _Node) -> None:
        """Let ``node`` and the others connect again."""

    async def prepare_stop(self, node: _Node) -> None:
        """Let the others take over what ``node`` leads, where its product can be told so."""

    def number(self, node: _Node) -> int:
        """Return the number of ``node``; the first is 1."""
        return self.nodes.index(node) + 1

    async def choose(self, which: str | int, queue: str) -> _Node:
        """Return the node with that number, or the ``leader`` of ``queue``, or a ``follower``."""
        if isinstance(which, int):
            return self.nodes[which - 1]
        leader = await self.leader(queue)
        return leader if which == "leader" else next(node for node in self.nodes if node is not leader)

    async def election(self, queue: str, before: _Node, since: float, *, handed_over: bool = False) -> str:
        """Return what is worth a line about the next leader of ``queue``, after ``before`` was lost or left it."""
        try:
            async with asyncio.timeout(_ELECTED_S):
                node, at = await self.elected(queue, before, since)
        except TimeoutError:
            return f"{queue} got no new leader within {_ELECTED_S:g} s"
        took = "" if handed_over else f", elected {max(0.0, at - since):.2f} s later"
        return f"node {self.number(node)} leads {queue}{took}"

    async def stop(self) -> None:
        """See `BrokerOperator.stop`."""
        for node in reversed(self.nodes):
            await node.stop()

    async def start(self) -> None:
        """See `BrokerOperator.start`; each node waits for the others."""
        await asyncio.gather(*(node.revive() for node in self.nodes))

    async def kill(self) -> None:
        """See `BrokerOperator.kill`."""
        for node in self.nodes:
            await asyncio.to_thread(node.kill)

    async def revive(self) -> None:
        """See `BrokerOperator.revive`."""
        await self.start()

    def suspend(self) -> None:
        """See `BrokerOperator.suspend`."""
        for node in self.nodes:
            node.suspend()

    def go_on(self) -> None:
        """See `BrokerOperator.go_on`."""
        for node in self.nodes:
            node.go_on()


class RabbitMQCluster(ClusterOperator[PrivateNode]):
    """RabbitMQ nodes; a queue's leader takes, orders and delivers its messages."""

    def __init__(self, cluster: PrivateCluster) -> None:
        """``cluster`` is running."""
        super().__init__(cluster.nodes)
        self._cluster = cluster

    async def leader(self, queue: str) -> PrivateNode:
        """See `ClusterOperator.leader`."""
        leader = await self._cluster.leader(queue)
        if leader is None:
            raise TransportError(f"no node leads the queue {queue!r}")
        return leader

    async def elected(self, queue: str, before: PrivateNode, since: float) -> tuple[PrivateNode, float]:
        """See `ClusterOperator.elected`; the nodes log it, to the millisecond."""
        while True:
            found = [
                (at, self.number(node))
                for node in self.nodes
                if node is not before
                for at in _elections([*node.logs], queue)
                if at > since
            ]
            if found:
                at, number = min(found)
                return self.nodes[number - 1], at
            await asyncio.sleep(_POLL_S)

    async def until_in_sync(self, queue: str) -> None:
        """See `ClusterOperator.until_in_sync`."""
        await self.check_members(queue, min(len(self.nodes), QUORUM_MEMBERS))

    async def check_members(self, queue: str, expected: int) -> None:
        """Return when ``queue`` has that many members, all online; raises `ExperimentError`."""
        about: dict[str, object] = {}
        deadline = time.monotonic() + _IN_SYNC_S
        while time.monotonic() < deadline:
            about = await self._cluster.queue(queue)
            if about.get("type") == "classic":
                return
            members, online = about.get("members") or [], about.get("online") or []
            if isinstance(members, list) and isinstance(online, list) and len(members) == len(online) == expected:
                return
            await asyncio.sleep(_POLL_S)
        raise ExperimentError(
            f"the queue {queue} has the members {about.get('members')}, of which {about.get('online')} are online: "
            f"{expected} were expected"
        )

    async def prepare_stop(self, node: PrivateNode) -> None:
        """Put the node into maintenance mode: it hands over its leaders and sends its clients away."""
        await asyncio.to_thread(node.upgrade, "drain")

    async def set_alarm(self, *, raised: bool) -> None:
        """See `BrokerOperator.set_alarm`; the alarm of one node blocks the publishers of all."""
        await self._ctl(self.nodes[0], "set_vm_memory_high_watermark", *(("absolute", "1MB") if raised else ("0.4",)))

    async def set_disk_alarm(self, node: PrivateNode, *, raised: bool) -> None:
        """Raise or clear the disk alarm of one node."""
        await self._ctl(node, "set_disk_free_limit", _MORE_THAN_ANY_DISK if raised else DISK_LIMIT)

    async def cut_off(self, node: PrivateNode) -> float:
        """See `ClusterOperator.cut_off`; a node refuses those whose cookie it does not know."""
        others = [other.node_name for other in self.nodes if other is not node]
        refuse = " ".join(f"erlang:set_cookie('{name}', cut_off), erlang:disconnect_node('{name}')," for name in others)
        told = await asyncio.to_thread(node.ctl, "eval", f"{refuse} erlang:system_time(microsecond).")
        return int(told) / 1e6

    async def join_again(self, node: PrivateNode) -> None:
        """See `ClusterOperator.join_again`."""
        others = [other.node_name for other in self.nodes if other is not node]
        allow = " ".join(f"erlang:set_cookie('{name}', erlang:get_cookie())," for name in others)
        await self._ctl(node, "eval", f"{allow} ok.")

    async def _ctl(self, node: PrivateNode, *arguments: str) -> None:
        await asyncio.to_thread(node.ctl, *arguments)


class KafkaBrokers(ClusterOperator[PrivateKafka]):
    """Kafka brokers; a topic's leader is that of its first partition."""

    def __init__(self, nodes: Sequence[PrivateKafka], between: Proxy | None = None) -> None:
        """``nodes`` are running; ``between`` is what they reach each other through, where one is to be cut off."""
        super().__init__(nodes)
        self._between = between

    async def stop(self) -> None:
        """See `BrokerOperator.stop`.

        A broker leaves in order when a majority agrees to it. Those that are left without one would wait for five
        minutes, and are killed instead; what they had confirmed is on disk.
        """
        for left, node in zip(range(len(self.nodes), 0, -1), reversed(self.nodes), strict=True):
            if 2 * left > len(self.nodes):
                await node.stop()
            else:
                await asyncio.to_thread(node.kill)

    async def leader(self, queue: str) -> PrivateKafka:
        """See `ClusterOperator.leader`."""
        copies = await asyncio.to_thread(self._reader().read, queue)
        if copies is None or copies.leader < 1:
            raise TransportError(f"no broker leads the topic of {queue!r}")
        return self.nodes[copies.leader - 1]

    async def elected(self, queue: str, before: PrivateKafka, since: float) -> tuple[PrivateKafka, float]:
        """See `ClusterOperator.elected`; it is known as soon as a broker tells it, asked ten times a second."""
        del since
        reader = self._reader(besides=before)
        while True:
            copies = await asyncio.to_thread(reader.read, queue)
            if copies is not None and copies.leader not in {-1, self.number(before)}:
                return self.nodes[copies.leader - 1], time.time()
            await asyncio.sleep(_POLL_S)

    async def until_in_sync(self, queue: str) -> None:
        """See `ClusterOperator.until_in_sync`."""
        reader, copies = self._reader(), None
        deadline = time.monotonic() + _IN_SYNC_S
        while time.monotonic() < deadline:
            copies = await asyncio.to_thread(reader.read, queue)
            if copies is not None and len(copies.in_sync) == len(copies.replicas):
                return
            await asyncio.sleep(_POLL_S)
        raise ExperimentError(f"the topic of {queue} is not in sync: {copies}")

    async def cut_off(self, node: PrivateKafka) -> float:
        """See `ClusterOperator.cut_off`; whose a connection is, the system tells by its port."""
        assert self._between is not None
        process = psutil.Process(node.pid)

        def clients() -> set[int]:
            return {connection.laddr.port for connection in process.net_connections("tcp")}

        await self._between.isolate(node.listening, clients)
        return time.time()

    async def join_again(self, node: PrivateKafka) -> None:
        """See `ClusterOperator.join_again`."""
        del node
        assert self._between is not None
        await self._between.mend()

    async def set_alarm(self, *, raised: bool) -> None:
        """Kafka has no alarm; the scenario was refused."""
        raise NotImplementedError(raised)

    def _reader(self, *, besides: PrivateKafka | None = None) -> CopiesReader:
        from backpressure.transports.kafka.client import CopiesReader  # noqa: PLC0415 -- an optional library

        asked = [node for node in self.nodes if node is not besides and node.pid]
        return CopiesReader("kafka://" + ",".join(node.internal_url.partition("://")[2] for node in asked))


def _elections(logs: Sequence[Path], queue: str) -> Iterator[float]:
    """Yield when the node with these ``logs`` became the leader of ``queue``."""
    said = re.compile(rf"^(\S+ \S+) .*queue '{re.escape(queue)}' in vhost '.*': candidate -> leader ", re.MULTILINE)
    for log in logs:
        for found in said.finditer(log.read_text(encoding="utf-8", errors="replace")):
            yield datetime.fromisoformat(found[1]).timestamp()
