"""What the observer takes from a management API: its listings in, plain states out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from backpressure.core.snapshot import BrokerState, Client, Connection, QueueState
from backpressure.transports.management_models import (
    ChannelInfo,
    ConnectionInfo,
    ConsumerInfo,
    NodeInfo,
    Overview,
    QueueInfo,
)

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

    async def channels(self) -> list[ChannelInfo]:
        """Return all channels that the user may see."""


def listed_queues(queues: Iterable[QueueInfo], *, counted: bool = True) -> dict[str, QueueState]:
    """Return the queues by name, without exclusive ones, on which processes receive the feedback.

    Without ``counted`` the broker keeps no statistics: the rates are unknown.
    """
    return {
        queue.name: QueueState(
            name=queue.name,
            ready=queue.messages_ready,
            unacked=queue.messages_unacknowledged,
            consumers=queue.consumers,
            age_s=0.0,
            watched=False,
            kind=queue.type,
            max_length=queue.limit("max-length"),
            fill=_fill(queue),
            overflow=queue.overflow,
            published_per_s=queue.publish_rate if counted else None,
            delivered_per_s=queue.deliver_rate if counted else None,
            acked_per_s=queue.departure_rate if counted else None,
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
    channels: Iterable[ChannelInfo] = (),
) -> BrokerState:
    """Return the broker; of a cluster, the memory of the node nearest to its limit.

    With its ``channels`` it is also known what each consumer holds, and the limit of a whole channel.
    """
    consumers = list(consumers)
    seen = {channel.name: channel for channel in channels}
    sharing = Counter(consumer.channel_name for consumer in consumers)
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
            _client(consumer, seen.get(consumer.channel_name), alone=sharing[consumer.channel_name] == 1)
            for consumer in consumers
        ),
    )


def _client(consumer: ConsumerInfo, channel: ChannelInfo | None, *, alone: bool) -> Client:
    return Client(
        tag=consumer.consumer_tag,
        queue=consumer.queue,
        peer=_peer(consumer),
        prefetch=consumer.prefetch_count or (channel.global_prefetch_count if channel else 0),
        ack_required=consumer.ack_required,
        active=consumer.active,
        unacked=channel.messages_unacknowledged if channel and alone else None,
    )


def _fill(queue: QueueInfo) -> float | None:
    """Return the share of its bound that the queue uses; only ready messages count."""
    limits = ((queue.messages_ready, queue.limit("max-length")), (queue.ready_bytes, queue.limit("max-length-bytes")))
    return max((used / limit for used, limit in limits if limit), default=None)


def _peer(info: ConnectionInfo | ConsumerInfo) -> str:
    return f"{info.peer_host}:{info.peer_port}" if info.peer_host else ""
