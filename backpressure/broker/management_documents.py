"""The broker's state as the documents of RabbitMQ's management API: same field names, same units.

Must not know: HTTP. Everything here only reads.
"""

from __future__ import annotations

import base64
import os
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

from backpressure.amqp.field_tables import Table
from backpressure.broker.channel import Channel
from backpressure.broker.entries import ENTRY_COST_BYTES
from backpressure.broker.exchange import Binding, Exchange
from backpressure.broker.handshake import PRODUCT
from backpressure.broker.queue import Queue
from backpressure.broker.session import Session, SessionState
from backpressure.broker.vhost import VirtualHost
from backpressure.version import __version__

NODE = "embedded@localhost"


def overview(vhost: VirtualHost, sessions: Collection[Session], product: tuple[str, str]) -> Table:
    """``GET /api/overview``."""
    queues = vhost.queues.values()
    ready, unacked = sum(map(len, queues)), sum(queue.unacked for queue in queues)
    return {
        "product_name": product[0],
        "product_version": product[1],
        "management_version": product[1],
        "rabbitmq_version": product[1],
        "default_queue_type": vhost.default_queue_type,
        "implementation": PRODUCT,
        "implementation_version": __version__,
        "cluster_name": NODE,
        "node": NODE,
        "queue_totals": _depth(ready, unacked),
        "object_totals": {
            "connections": len(sessions),
            "channels": sum(len(session.channels) for session in sessions),
            "consumers": sum(len(queue.consumers) for queue in queues),
            "exchanges": len(vhost.exchanges),
            "queues": len(vhost.queues),
        },
        "message_stats": vhost.counters.report(vhost.now),
    }


def node_document(vhost: VirtualHost, started_at_s: float) -> Table:
    """One element of ``GET /api/nodes``; memory in bytes, uptime in ms."""
    return {
        "name": NODE,
        "type": "ram",
        "running": True,
        "mem_used": _resident_bytes(),
        "mem_limit": vhost.memory.limit_bytes,
        "mem_alarm": vhost.memory.active,
        "message_bytes_used": vhost.memory.used_bytes,
        "os_pid": str(os.getpid()),
        "uptime": int((vhost.now - started_at_s) * 1000),
    }


def queue_document(vhost: VirtualHost, queue: Queue) -> Table:
    """One element of ``GET /api/queues``."""
    ready_bytes = queue.ready.body_bytes
    owner = queue.owner
    document: dict[str, object] = {
        "name": queue.name,
        "vhost": "/",
        "node": NODE,
        "type": queue.arguments["x-queue-type"],
        "state": "running",
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "exclusive": owner is not None,
        "arguments": queue.arguments,
        "policy": queue.policy.name if queue.policy else None,
        "effective_policy_definition": dict(queue.policy.definition) if queue.policy else {},
        "consumers": len(queue.consumers),
        **_depth(len(queue), queue.unacked),
        "message_bytes": ready_bytes + queue.unacked_bytes,
        "message_bytes_ready": ready_bytes,
        "message_bytes_unacknowledged": queue.unacked_bytes,
        "memory": ready_bytes + queue.unacked_bytes + ENTRY_COST_BYTES * (len(queue) + queue.unacked),
    }
    stats = queue.counters.report(vhost.now)
    if stats:
        document["message_stats"] = stats
    return document


def exchange_definition(exchange: Exchange) -> Table:
    """What declares an exchange, as in exported definitions."""
    return {
        "name": exchange.name,
        "vhost": "/",
        "type": exchange.kind,
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": exchange.arguments,
    }


def exchange_document(vhost: VirtualHost, exchange: Exchange) -> Table:
    """One element of ``GET /api/exchanges``."""
    document: dict[str, object] = {
        **exchange_definition(exchange),
        "policy": exchange.policy.name if exchange.policy else None,
    }
    stats = exchange.counters.report(vhost.now)
    if stats:
        document["message_stats"] = stats
    return document


def binding_documents(vhost: VirtualHost) -> Iterator[Table]:
    """``GET /api/bindings``: every queue is bound to the default exchange by its name."""
    for name in vhost.queues:
        yield _binding("", "queue", name, name, {}, quote(name, safe=""))
    for exchange in vhost.exchanges.values():
        for binding in exchange.bindings:
            yield binding_document(exchange.name, binding)


def binding_document(source: str, binding: Binding) -> Table:
    """One element of ``GET /api/bindings``."""
    kind = "exchange" if isinstance(binding.destination, Exchange) else "queue"
    name, arguments = binding.destination.name, binding.arguments
    return _binding(source, kind, name, binding.routing_key, arguments, properties_key(binding))


def properties_key(binding: Binding) -> str:
    """What tells a binding from others of the same ends: its escaped key, and a hash of its arguments, if any."""
    key = quote(binding.routing_key, safe="")
    if not binding.fields:
        return key or "~"
    digest = zlib.crc32(repr(sorted(binding.fields)).encode()).to_bytes(4, "big")
    return f"{key}~{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def _binding(source: str, kind: str, destination: str, routing_key: str, arguments: Table, key: str) -> Table:
    return {
        "source": source,
        "vhost": "/",
        "destination": destination,
        "destination_type": kind,
        "routing_key": routing_key,
        "arguments": arguments,
        "properties_key": key,
    }


def connection_name(session: Session) -> str:
    """The name RabbitMQ gives a connection: both ends."""
    (peer_host, peer_port), (host, port) = session.peer, session.local
    return f"{peer_host}:{peer_port} -> {host}:{port}"


def connection_document(session: Session) -> Table:
    """One element of ``GET /api/connections``; ``connected_at`` in ms since 1970, ``timeout`` in s."""
    running = session.state is SessionState.RUNNING
    return {
        "name": connection_name(session),
        "vhost": "/",
        "user": session.user,
        "state": "blocked" if session.blocked else "running" if running else session.state.name.lower(),
        "protocol": "AMQP 0-9-1",
        "peer_host": session.peer[0],
        "peer_port": session.peer[1],
        "host": session.local[0],
        "port": session.local[1],
        "client_properties": session.client_properties,
        "channels": len(session.channels),
        "channel_max": session.channel_max,
        "frame_max": session.frame_max,
        "timeout": session.heartbeat_s,
        "recv_oct": session.received_bytes,
        "send_oct": session.sent_bytes,
        "connected_at": int(session.connected_at_s * 1000),
    }


def channel_documents(session: Session) -> Iterator[Table]:
    """A connection's elements of ``GET /api/channels``."""
    for channel in session.channels.values():
        stats = channel.counters.report(session.vhost.now)
        yield {
            **({"message_stats": stats} if stats else {}),
            **_channel_details(session, channel),
            "vhost": "/",
            "user": session.user,
            "state": "running",
            "confirm": channel.publishing.confirming,
            "consumer_count": len(channel.consuming.consumers),
            "messages_unacknowledged": len(channel.consuming.unacked),
            "messages_unconfirmed": channel.publishing.unconfirmed,
            "prefetch_count": channel.consuming.prefetch,
            "global_prefetch_count": channel.consuming.shared_prefetch.limit,
            "connection_details": {
                "name": connection_name(session),
                "peer_host": session.peer[0],
                "peer_port": session.peer[1],
            },
        }


def consumer_documents(session: Session) -> Iterator[Table]:
    """A connection's elements of ``GET /api/consumers``."""
    for channel in session.channels.values():
        for consumer in channel.consuming.consumers.values():
            line = consumer.queue.consumers
            active = line.active(consumer)
            yield {
                "consumer_tag": consumer.tag,
                "queue": {"name": consumer.queue.name, "vhost": "/"},
                "ack_required": not consumer.no_ack,
                "active": active,
                "activity_status": "waiting" if not active else "single_active" if line.single_active else "up",
                "exclusive": consumer.queue.exclusive_consumer,
                "prefetch_count": consumer.prefetch.limit,
                "arguments": consumer.arguments,
                "channel_details": {
                    **_channel_details(session, channel),
                    "connection_name": connection_name(session),
                    "peer_host": session.peer[0],
                    "peer_port": session.peer[1],
                    "user": session.user,
                },
            }


def _channel_details(session: Session, channel: Channel) -> Table:
    return {"name": f"{connection_name(session)} ({channel.number})", "number": channel.number, "node": NODE}


def _depth(ready: int, unacked: int) -> Table:
    return {"messages": ready + unacked, "messages_ready": ready, "messages_unacknowledged": unacked}


def _resident_bytes() -> int:
    """This process's RSS now, or where the system does not say so, its peak."""
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415 - elsewhere the broker does without

        return int(psutil.Process().memory_info().rss)
    import resource  # noqa: PLC0415 - not on Windows

    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
