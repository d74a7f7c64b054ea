"""Exchange, queues and bindings of an experiment as data, and what to do when one exists with other arguments.

::

    direct.exchange ──work──▶ work.queue ──full (drop-head), expired, rejected──▶ work.queue.dlq
                    └─work──▶ audit.queue (when auditing)

Dead letters go through the default exchange, which every broker has and no user can misconfigure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from backpressure.errors import ConfigError, PreconditionFailedError, UnsupportedError
from backpressure.settings import QueueSettings


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
    if queue.max_priority is not None:
        if queue.type == "quorum":
            raise ConfigError("queue.max_priority", queue.max_priority, "a quorum queue has no such argument")
        work["x-max-priority"] = queue.max_priority
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


_SETTINGS = {
    "x-queue-type": "type",
    "x-max-length": "max_length",
    "x-max-length-bytes": "max_length_bytes",
    "x-overflow": "overflow",
    "x-message-ttl": "message_ttl_ms",
    "x-max-priority": "max_priority",
    "x-dead-letter-routing-key": "dead_letter",
    "partitions": "partitions",
    "retention.ms": "message_ttl_ms",
}
"""By the argument that differs, the setting of the work queue it comes from."""


def advised(error: PreconditionFailedError, queue: QueueSettings) -> PreconditionFailedError:
    """Return ``error`` with advice, the least harmful first; ``queue`` is what was to be declared."""
    name = error.name
    if name == queue.exchange:
        as_it_is = f"--predeclared and PACE_QUEUE__EXCHANGE={name}, if the queue exists as well"
        return error.advised(
            [("to use it as it is", as_it_is), ("to use another exchange", f"PACE_QUEUE__EXCHANGE={name}.new")]
        )
    advice = [("to use it as it is and declare nothing", "--predeclared")] if name == queue.work else []
    if declared := _as_it_is(error, queue):
        advice.append(("to declare it as it is", declared))
    if name == queue.audit and queue.auditing:
        advice.append(("to use another audit queue", f"--audit-queue {name}.new"))
    elif name == queue.dead_letter:
        advice.append(
            ("to use another work queue, which has a dead-letter queue of its own", f"--queue {queue.work}.new")
        )
    else:
        advice.append(("to use another queue", f"--queue {name}.new"))
    advice.append(("to delete it with all messages in it and create it again", f"pace cleanup {name}"))
    return error.advised(advice)


def _as_it_is(error: PreconditionFailedError, queue: QueueSettings) -> str:
    """Return the setting or flag that declares the queue as it is, or "" where there is none."""
    argument, is_work = error.argument, error.name == queue.work
    if argument == "durable":
        return "--no-durable" if queue.durable else "--durable"
    if argument == "x-queue-mode":
        return "without --lazy (queue.type = classic)" if queue.type == "lazy" else "--lazy (queue.type = lazy)"
    setting = _SETTINGS.get(argument)
    if argument == "x-max-length" and error.name == queue.audit:
        setting = "audit_max_length"
    elif not is_work and argument != "x-queue-type":
        setting = None
    current = _current(error.reply_text)
    return f"PACE_QUEUE__{setting.upper()}={current}" if setting and current else ""


def _current(reply_text: str) -> str:
    """Return the value that the broker says is current, "none" for none, or "" where it does not tell."""
    found = re.search(r"(?:current is|the topic has) (?:the value )?(?:'([^']*)'|(\S+))", reply_text)
    return (found.group(1) or found.group(2) or "") if found else ""


def not_reached(queue: str, exchange: str, key: str, bound: Sequence[str]) -> UnsupportedError:
    """Return the error of a publisher whose messages do not come into the queue that it is to keep pace with."""
    takes = ", ".join(map(repr, bound))
    return UnsupportedError(
        f"exchange {exchange!r} takes messages with the key {key!r} elsewhere, or nowhere, and not to {queue!r} "
        f"({f'bound with {takes}' if bound else 'not bound to it'}), so its consumers cannot set their pace; check "
        "--queue, --exchange and --routing-key"
    )
