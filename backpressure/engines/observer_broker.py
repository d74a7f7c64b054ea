"""What the observer takes from a management API: its listings in, plain states out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from backpressure.core.snapshot import BrokerState, Client, Connection, QueueState
from backpressure.transports.management_models import ConnectionInfo, ConsumerInfo, NodeInfo, Overview, QueueInfo

__all__ = ["ManagementReader", "broker_state", "listed_queues"]


class ManagementReader(Protocol):
    """The part of the management API that the observer reads; every call may raise `TransportError`."""

    async def overview(self) -> Overview:
        """Return the broker's name and version."""

    async def nodes(self) -> list[NodeInfo]:
        """Return the nodes of the cluster."""

    async def queues(self) -> list[QueueInfo]:
        """Return all queues of the virtual host."""

    async def connections(self) -> list[ConnectionInfo]:
        """Return all connections."""

    async def consumers(self) -> list[ConsumerInfo]:
        """Return all consumers of the virtual host."""


def listed_queues(queues: Iterable[QueueInfo]) -> dict[str, QueueState]:
    """Return the queues by name, without exclusive ones, on which processes receive the feedback."""
    return {
        queue.name: QueueState(
            name=queue.name,
            ready=queue.messages_ready,
            unacked=queue.messages_unacknowledged,
            consumers=queue.consumers,
            age_s=0.0,
            watched=False,
            published_per_s=queue.publish_rate,
            delivered_per_s=queue.deliver_rate,
            acked_per_s=queue.ack_rate,
            memory_bytes=queue.memory_bytes,
        )
        for queue in queues
        if not queue.exclusive
    }


def broker_state(
    overview: Overview,
    nodes: list[NodeInfo],
    connections: Iterable[ConnectionInfo],
    consumers: Iterable[ConsumerInfo],
) -> BrokerState:
    """Return the broker; of a cluster, the memory of the node nearest to its limit."""
    measured = [node for node in nodes if node.memory_limit_bytes]
    fullest = max(measured, key=lambda node: node.memory_bytes / node.memory_limit_bytes, default=None)
    return BrokerState(
        product=overview.product,
        version=overview.version,
        memory_bytes=fullest.memory_bytes if fullest else None,
        memory_limit_bytes=fullest.memory_limit_bytes if fullest else None,
        memory_alarm=any(node.memory_alarm for node in nodes),
        disk_alarm=any(node.disk_alarm for node in nodes),
        connections=tuple(
            Connection(
                name=connection.client_name or connection.name,
                user=connection.user,
                peer=_peer(connection),
                state=connection.state,
                channels=connection.channels,
            )
            for connection in connections
        ),
        consumers=tuple(
            Client(
                tag=consumer.consumer_tag,
                queue=consumer.queue,
                peer=_peer(consumer),
                prefetch=consumer.prefetch_count,
                ack_required=consumer.ack_required,
            )
            for consumer in consumers
        ),
    )


def _peer(info: ConnectionInfo | ConsumerInfo) -> str:
    return f"{info.peer_host}:{info.peer_port}" if info.peer_host else ""
