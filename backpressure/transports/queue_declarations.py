"""Exchange, queues and bindings of an experiment as data, without I/O.

::

    direct.exchange ──work──▶ work.queue ──full (drop-head), expired, rejected──▶ work.queue.dlq
                    └─work──▶ audit.queue (when auditing)

Dead letters go through the default exchange, which every broker has and no user can misconfigure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backpressure.errors import ConfigError
from backpressure.settings import QueueSettings

__all__ = ["QueueDeclaration", "bound_policy", "queue_declarations"]


@dataclass(frozen=True, slots=True)
class QueueDeclaration:
    """One queue: its arguments, and whether it is bound to the exchange."""

    name: str
    durable: bool
    arguments: dict[str, str | int] = field(default_factory=dict)
    bound: bool = True


def queue_declarations(queue: QueueSettings, *, bound_by_policy: bool) -> list[QueueDeclaration]:
    """Return what to declare, the dead-letter queue first: no message must be dead-lettered before it exists.

    With ``bound_by_policy`` the work queue's bound is not among its arguments: an argument can never be raised while
    the queue exists, because the broker applies the smaller of argument and policy.

    Raises `ConfigError` for what no broker can do.
    """
    if queue.type == "quorum" and queue.overflow == "reject-publish-dlx":
        raise ConfigError("queue.overflow", queue.overflow, "a quorum queue knows reject-publish and drop-head only")
    kinds: dict[str, dict[str, str | int]] = {
        "quorum": {"x-queue-type": "quorum"},
        "lazy": {"x-queue-mode": "lazy"},  # all three: any of them may grow long
    }
    kind = kinds.get(queue.type, {})
    work: dict[str, str | int] = {
        **kind,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue.dead_letter,
    }
    if queue.message_ttl_ms is not None:
        work["x-message-ttl"] = queue.message_ttl_ms
    if not bound_by_policy:
        work |= {f"x-{key}": value for key, value in bound_policy(queue).items()}
    declarations = [
        QueueDeclaration(queue.dead_letter, queue.durable, kind, bound=False),
        QueueDeclaration(queue.work, queue.durable, work),
    ]
    if queue.auditing:
        limits: dict[str, str | int] = {"x-max-length": queue.audit_max_length, "x-overflow": "drop-head"}
        declarations.append(QueueDeclaration(queue.audit, queue.durable, kind | limits))
    return declarations


def bound_policy(queue: QueueSettings) -> dict[str, str | int]:
    """Return the work queue's bound as a policy definition; empty for an unbounded queue."""
    limits: dict[str, str | int] = {}
    if queue.max_length is not None:
        limits["max-length"] = queue.max_length
    if queue.max_length_bytes is not None:
        limits["max-length-bytes"] = queue.max_length_bytes
    return limits | {"overflow": queue.overflow} if limits else {}
