"""What may be declared: argument checks, and whether a second declaration means the same thing.

May not know: channels, frames, where things are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backpressure.broker.policy import OVERFLOWS
from backpressure.broker.replies import inequivalent, precondition_failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backpressure.amqp.tables import Table
    from backpressure.broker.exchange import Exchange
    from backpressure.broker.queue import Queue

__all__ = ["MAX_TTL_MS", "check_queue_arguments", "same_exchange", "same_queue"]

MAX_TTL_MS = 2**32 - 1
_COUNTS = ("x-max-length", "x-max-length-bytes", "x-message-ttl", "x-expires", "x-delivery-limit", "x-max-priority")
_LARGEST = {
    "x-message-ttl": (MAX_TTL_MS, "value_too_large"),
    "x-expires": (MAX_TTL_MS, "value_too_large"),
    "x-max-priority": (255, "max_value_exceeded"),
}
_TEXTS = ("x-overflow", "x-queue-type", "x-queue-mode", "x-dead-letter-exchange", "x-dead-letter-routing-key")
_CHOICES = {
    "x-overflow": (OVERFLOWS, "invalid_overflow"),
    "x-queue-type": (("classic", "quorum"), "\"unsupported queue type '{}'\""),
    "x-queue-mode": (("default", "lazy"), "\"unsupported queue mode '{}'\""),
}
_COMPARED = (*_COUNTS, *_TEXTS, "x-single-active-consumer")


def check_queue_arguments(name: str, arguments: Table, *, durable: bool, exclusive: bool) -> None:
    """Raise 406 for an argument RabbitMQ would refuse; unknown ones pass, as they do there."""
    for key in _COUNTS:
        if arguments.get(key) is not None:
            _check_count(name, key, arguments[key])
    for key in _TEXTS:
        if arguments.get(key) is not None:
            _check_text(name, key, arguments[key])
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        raise _invalid("x-dead-letter-routing-key", name, "routing_key_but_no_dlx_defined")
    single = arguments.get("x-single-active-consumer", False)
    if not isinstance(single, bool):
        raise _invalid("x-single-active-consumer", name, f"{{unacceptable_type,{_type(single)}}}")
    _check_type(name, arguments, durable=durable, exclusive=exclusive)


def _check_type(name: str, arguments: Table, *, durable: bool, exclusive: bool) -> None:
    if arguments.get("x-queue-type") == "quorum":
        for wrong, invalid in ((not durable, "non-durable"), (exclusive, "exclusive-owner")):
            if wrong:
                raise precondition_failed(f"invalid property '{invalid}' for queue '{name}' in vhost '/'")
    elif "x-delivery-limit" in arguments:
        raise precondition_failed(
            f"invalid arg 'x-delivery-limit' for queue '{name}' in vhost '/' of queue type rabbit_classic_queue"
        )


def _check_count(name: str, key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(key, name, f'"expected integer, got {_type(value)}"')
    if value < 0:
        raise _invalid(key, name, f"{{value_negative,{value}}}")
    if value == 0 and key == "x-expires":
        raise _invalid(key, name, "{value_zero,0}")
    largest, reason = _LARGEST.get(key, (value, ""))
    if value > largest:
        raise _invalid(key, name, f"{{{reason},{value}}}")


def _check_text(name: str, key: str, value: object) -> None:
    if not isinstance(value, str):
        if key == "x-dead-letter-exchange":
            raise precondition_failed(f"invalid type '{_type(value)}' for arg '{key}' in queue '{name}' in vhost '/'")
        raise _invalid(key, name, f"{{unacceptable_type,{_type(value)}}}")
    choices, reason = _CHOICES.get(key, ((value,), ""))
    if value not in choices:
        raise _invalid(key, name, reason.format(value))


def same_queue(queue: Queue, *, durable: bool, auto_delete: bool, exclusive: bool, arguments: Table) -> None:
    """Raise 406 naming the first property or argument that differs from the queue's."""
    received: list[tuple[str, object, object]] = [
        ("durable", durable, queue.durable),
        ("exclusive", exclusive, queue.owner is not None),
        ("auto_delete", auto_delete, queue.auto_delete),
    ]
    for argument, value, current in received:
        if value != current:
            raise inequivalent(argument, "queue", queue.name, _plain(value), _plain(current))
    _same_arguments("queue", queue.name, _COMPARED, arguments, queue.arguments)


def same_exchange(
    exchange: Exchange, *, kind: str, durable: bool, auto_delete: bool, internal: bool, arguments: Table
) -> None:
    """Raise 406 naming the first property or argument that differs from the exchange's."""
    received: list[tuple[str, object, object]] = [
        ("type", kind, exchange.kind),
        ("durable", durable, exchange.durable),
        ("auto_delete", auto_delete, exchange.auto_delete),
        ("internal", internal, exchange.internal),
    ]
    for argument, value, current in received:
        if value != current:
            raise inequivalent(argument, "exchange", exchange.name, _plain(value), _plain(current))
    _same_arguments("exchange", exchange.name, ("alternate-exchange",), arguments, exchange.arguments)


def _same_arguments(kind: str, name: str, keys: Iterable[str], received: Table, current: Table) -> None:
    for key in keys:
        one, other = received.get(key, _default(key)), current.get(key, _default(key))
        if one == other:
            continue
        if one is None or other is None:
            raise inequivalent(key, kind, name, _described(one), _described(other))
        raise inequivalent(key, kind, name, _plain(one), _plain(other))


def _default(key: str) -> object:
    return "classic" if key == "x-queue-type" else None


def _plain(value: object) -> str:
    return f"'{str(value).lower() if isinstance(value, bool) else value}'"


def _described(value: object) -> str:
    return "none" if value is None else f"the value '{value}' of type '{_type(value)}'"


def _type(value: object) -> str:
    """RabbitMQ's name of a field's type."""
    match value:
        case bool():
            return "bool"
        case int():
            return "signedint" if -(2**31) <= value < 2**31 else "long"
        case str():
            return "longstr"
        case float():
            return "double"
    return type(value).__name__


def _invalid(key: str, queue: str, reason: str) -> Exception:
    return precondition_failed(f"invalid arg '{key}' for queue '{queue}' in vhost '/': {reason}")
