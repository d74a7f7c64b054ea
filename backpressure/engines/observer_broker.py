"""What the observer takes from a management API: its JSON in, plain states out.

The API's answers vary between versions and leave out what has not happened yet (a queue without traffic has no
``message_stats``), so every field is optional here; a missing one is None or empty, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from backpressure.core.snapshot import BrokerState, Client, Connection, QueueState

__all__ = ["ManagementReader", "broker_state", "listed_queues"]

Listing = list[dict[str, Any]]


class ManagementReader(Protocol):
    """The part of the RabbitMQ management API that the observer reads; every call may raise `TransportError`."""

    async def overview(self) -> dict[str, Any]:
        """``GET /api/overview``."""

    async def nodes(self) -> Listing:
        """``GET /api/nodes``."""

    async def queues(self) -> Listing:
        """``GET /api/queues``."""

    async def connections(self) -> Listing:
        """``GET /api/connections``."""

    async def consumers(self) -> Listing:
        """``GET /api/consumers``."""


def listed_queues(queues: Listing) -> dict[str, QueueState]:
    """Return every listed queue by name."""
    return {str(queue["name"]): _queue_state(queue) for queue in queues if "name" in queue}


def broker_state(overview: dict[str, Any], nodes: Listing, connections: Listing, consumers: Listing) -> BrokerState:
    """Return the broker; of a cluster, the node nearest to its memory limit."""
    fullest = max(nodes, key=_memory_share, default={})
    return BrokerState(
        product=str(overview.get("product_name") or "RabbitMQ"),
        version=str(overview.get("product_version") or overview.get("rabbitmq_version") or ""),
        memory_bytes=_count(fullest, "mem_used"),
        memory_limit_bytes=_count(fullest, "mem_limit"),
        memory_alarm=any(node.get("mem_alarm") is True for node in nodes),
        disk_alarm=any(node.get("disk_free_alarm") is True for node in nodes),
        connections=tuple(_connection(item) for item in connections),
        consumers=tuple(_client(item) for item in consumers),
    )


def _queue_state(queue: Mapping[str, Any]) -> QueueState:
    return QueueState(
        name=str(queue["name"]),
        ready=_count(queue, "messages_ready") or 0,
        unacked=_count(queue, "messages_unacknowledged"),
        consumers=_count(queue, "consumers"),
        age_s=0.0,
        watched=False,
        published_per_s=_rate(queue, "message_stats", "publish"),
        delivered_per_s=_rate(queue, "message_stats", "deliver_get"),
        acked_per_s=_rate(queue, "message_stats", "ack"),
        memory_bytes=_count(queue, "memory"),
    )


def _connection(item: Mapping[str, Any]) -> Connection:
    properties = _object(item, "client_properties")
    return Connection(
        name=str(properties.get("connection_name") or item.get("user_provided_name") or item.get("name") or ""),
        user=str(item.get("user") or ""),
        peer=_peer(item),
        state=str(item.get("state") or ""),
        channels=_count(item, "channels") or 0,
        product=str(properties.get("product") or ""),
        received_bytes_per_s=_rate(item, "", "recv_oct"),
        sent_bytes_per_s=_rate(item, "", "send_oct"),
    )


def _client(item: Mapping[str, Any]) -> Client:
    channel = _object(item, "channel_details")
    return Client(
        tag=str(item.get("consumer_tag") or ""),
        queue=str(_object(item, "queue").get("name") or ""),
        peer=_peer(channel),
        user=str(channel.get("user") or ""),
        prefetch=_count(item, "prefetch_count") or 0,
        ack_required=item.get("ack_required") is True,
    )


def _peer(item: Mapping[str, Any]) -> str:
    host, port = item.get("peer_host"), item.get("peer_port")
    return f"{host}:{port}" if host else ""


def _object(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = item.get(key)
    return value if isinstance(value, dict) else {}  # an empty object comes as [] from some versions


def _count(item: Mapping[str, Any], key: str) -> int | None:
    value = item.get(key)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rate(item: Mapping[str, Any], group: str, name: str) -> float | None:
    holder = _object(item, group) if group else item
    value = _object(holder, f"{name}_details").get("rate")
    return float(value) if isinstance(value, int | float) else None


def _memory_share(node: Mapping[str, Any]) -> float:
    limit = _count(node, "mem_limit")
    return (_count(node, "mem_used") or 0) / limit if limit else 0.0
