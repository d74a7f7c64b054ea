"""Checks of declarations: their arguments, and whether a second declaration equals the first.

Must not know: channels, frames, where queues and exchanges are stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from backpressure.amqp.field_tables import FieldTable, Table, encode_value, join_table, octets_of, split_table
from backpressure.broker.exchange import Exchange
from backpressure.broker.policy import (
    DEAD_LETTER_STRATEGIES,
    LEADER_LOCATORS,
    MAX_NAME_OCTETS,
    MAX_TTL_MS,
    OVERFLOWS,
    QUEUE_MODES,
    QUEUE_VERSIONS,
    is_name,
)
from backpressure.broker.queue import Queue
from backpressure.broker.replies import inequivalent, precondition_failed, resource_locked
from backpressure.errors import ConfigError

DEPRECATED = ("global_qos", "transient_nonexcl_queues")
"""Features that RabbitMQ still permits in 4.0 and denies since 4.3, under the names it has for them."""
_COUNTS = (
    "x-max-length",
    "x-max-length-bytes",
    "x-message-ttl",
    "x-expires",
    "x-delivery-limit",
    "x-max-priority",
    "x-queue-version",
)
_LARGEST = {
    "x-message-ttl": (MAX_TTL_MS, "value_too_large"),
    "x-expires": (MAX_TTL_MS, "value_too_large"),
    "x-max-priority": (255, "max_value_exceeded"),
}
_NAMES = ("x-dead-letter-exchange", "x-dead-letter-routing-key")
_TEXTS = (
    "x-overflow",
    "x-queue-type",
    "x-queue-mode",
    "x-queue-leader-locator",
    "x-dead-letter-strategy",
    *_NAMES,
)
_CHOICES = {
    "x-overflow": (OVERFLOWS, "invalid_overflow"),
    "x-queue-type": (("classic", "quorum"), "\"unsupported queue type '{}'\""),
    "x-queue-mode": (QUEUE_MODES, "\"unsupported queue mode '{}'\""),
    "x-queue-version": (QUEUE_VERSIONS, "\"unsupported queue version '{}'\""),
    "x-queue-leader-locator": (LEADER_LOCATORS, "invalid_queue_locator_arg"),
    "x-dead-letter-strategy": (DEAD_LETTER_STRATEGIES, "invalid_dlx_strategy"),
}
_MATCHES = ("all", "any", "all-with-x", "any-with-x")
_COMPARED = (*_COUNTS, *_TEXTS, "x-quorum-initial-group-size", "x-single-active-consumer")
_TOO_LONG = f"more than {MAX_NAME_OCTETS} octets"
_OF_STREAMS = ("x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size")
_FOREIGN = {
    "classic": (
        *_OF_STREAMS,
        "x-quorum-initial-group-size",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-delivery-limit",
        "x-dead-letter-strategy",
    ),
    "quorum": (*_OF_STREAMS, "x-max-priority", "x-queue-mode", "x-queue-version"),
}
"""Arguments that a queue of this type does not support."""
_TYPE_NAMES = {
    "t": "bool",
    "b": "byte",
    "B": "unsignedbyte",
    "s": "short",
    "u": "unsignedshort",
    "I": "signedint",
    "i": "unsignedint",
    "l": "long",
    "L": "unsignedlong",
    "f": "float",
    "d": "double",
    "D": "decimal",
    "S": "longstr",
    "x": "binary",
    "A": "array",
    "F": "table",
    "T": "timestamp",
    "V": "void",
}


def parse_denied(option: str) -> str:
    """Return the name of a deprecated feature; `ConfigError` for any other."""
    if option not in DEPRECATED:
        raise ConfigError("--deny", option, f"must be one of {', '.join(DEPRECATED)}")
    return option


def check_queue_arguments(name: str, arguments: Table, *, durable: bool, auto_delete: bool, exclusive: bool) -> None:
    """Raise 406 for an argument that RabbitMQ refuses or that could not work; unknown ones are accepted."""
    if arguments.get("x-queue-type") is not None:
        _check_text(name, "x-queue-type", arguments)
    _check_type(name, arguments, durable=durable, auto_delete=auto_delete, exclusive=exclusive)
    for key in _COUNTS:
        if arguments.get(key) is not None:
            _check_count(name, key, arguments)
    for key in _TEXTS:
        if arguments.get(key) is not None:
            _check_text(name, key, arguments)
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        raise _invalid("x-dead-letter-routing-key", name, "routing_key_but_no_dlx_defined")
    key = "x-single-active-consumer"
    if not isinstance(arguments.get(key, False), bool):
        raise _invalid(key, name, f"{{unacceptable_type,{_type(arguments, key)}}}")


def check_exchange_arguments(name: str, arguments: Table) -> None:
    """Raise 406 for an alternate exchange that is not a valid name."""
    key = "alternate-exchange"
    alternate = arguments.get(key)
    if alternate is None:
        return
    if not isinstance(alternate, str):
        type_ = _type(arguments, key)
        raise precondition_failed(f"invalid type '{type_}' for arg '{key}' in exchange '{name}' in vhost '/'")
    if not is_name(alternate):
        raise precondition_failed(f"invalid arg '{key}' for exchange '{name}' in vhost '/': {_TOO_LONG}")


def check_binding_arguments(kind: str, arguments: Table) -> None:
    """Raise 406 for an ``x-match`` that headers exchanges do not support."""
    key = "x-match"
    if kind != "headers" or key not in arguments:
        return
    value = arguments[key]
    if not isinstance(value, str):
        type_ = _type(arguments, key)
        raise precondition_failed(f"Invalid x-match field type {type_} (value {_term(value)}); expected longstr")
    if value not in _MATCHES:
        raise precondition_failed(
            f'Invalid x-match field value <<"{value}">>; expected all, any, all-with-x, or any-with-x'
        )


def check_consumer_arguments(queue: str, arguments: Table) -> None:
    """Raise 406 for an ``x-priority`` that is not an integer."""
    key = "x-priority"
    value = arguments.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(key, queue, f'"expected integer, got {_type(arguments, key)}"')


def _check_type(name: str, arguments: Table, *, durable: bool, auto_delete: bool, exclusive: bool) -> None:
    type_ = str(arguments.get("x-queue-type", "classic"))
    if type_ == "quorum":
        wrongs = ((not durable, "non-durable"), (auto_delete, "auto-delete"), (exclusive, "exclusive-owner"))
        for wrong, invalid in wrongs:
            if wrong:
                raise precondition_failed(f"invalid property '{invalid}' for queue '{name}' in vhost '/'")
    for key in _FOREIGN[type_]:
        if key in arguments:
            raise precondition_failed(
                f"invalid arg '{key}' for queue '{name}' in vhost '/' of queue type rabbit_{type_}_queue"
            )


def _check_count(name: str, key: str, arguments: Table) -> None:
    value = arguments[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(key, name, f'"expected integer, got {_type(arguments, key)}"')
    if value < 0 and key != "x-delivery-limit":
        raise _invalid(key, name, f"{{value_negative,{value}}}")
    if value == 0 and key == "x-expires":
        raise _invalid(key, name, "{value_zero,0}")
    largest, reason = _LARGEST.get(key, (value, ""))
    if value > largest:
        raise _invalid(key, name, f"{{{reason},{value}}}")
    _check_choice(name, key, value)


def _check_text(name: str, key: str, arguments: Table) -> None:
    value = arguments[key]
    if not isinstance(value, str):
        type_ = _type(arguments, key)
        if key == "x-dead-letter-exchange":
            raise precondition_failed(f"invalid type '{type_}' for arg '{key}' in queue '{name}' in vhost '/'")
        raise _invalid(key, name, f"{{unacceptable_type,{type_}}}")
    _check_choice(name, key, value)
    if key in _NAMES and not is_name(value):
        raise _invalid(key, name, _TOO_LONG)


def _check_choice(name: str, key: str, value: object) -> None:
    choices, reason = _CHOICES.get(key, ((value,), ""))
    if value not in choices:
        raise _invalid(key, name, reason.format(value))


def with_queue_type(arguments: Table, default: str, *, durable: bool, auto_delete: bool, exclusive: bool) -> Table:
    """Return the arguments with the type that the queue gets, as RabbitMQ 4 keeps and shows them.

    ``default`` is the virtual host's; it is for queues that every type can be.
    """
    if "x-queue-type" in arguments:
        return arguments
    any_type = durable and not (auto_delete or exclusive)
    fields = {**split_table(octets_of(arguments)), b"x-queue-type": encode_value(default if any_type else "classic")}
    return FieldTable(join_table(fields))


def same_queue(queue: Queue, *, durable: bool, auto_delete: bool, exclusive: bool, arguments: Table) -> None:
    """Raise 406 naming the first property or argument that differs from the queue's; 405 for ``exclusive``."""
    if exclusive != (queue.owner is not None):
        raise resource_locked(queue.name)
    received: list[tuple[str, object, object]] = [
        ("durable", durable, queue.durable),
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
        one, other = received.get(key), current.get(key)
        if one == other and isinstance(one, float) == isinstance(other, float):
            continue
        if one is None and key in received:  # a field without a value
            raise inequivalent(key, kind, name, "none", _plain(other))
        if one is None or other is None:
            raise inequivalent(key, kind, name, _described(received, key), _described(current, key))
        raise inequivalent(key, kind, name, _plain(one), _plain(other))


def _term(value: object) -> str:
    """Return a value as Erlang prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: object) -> str:
    return f"'{_term(value)}'"


def _described(arguments: Table, key: str) -> str:
    value = arguments.get(key)
    return "none" if value is None else f"the value '{value}' of type '{_type(arguments, key)}'"


def _type(arguments: Table, key: str) -> str:
    """Return RabbitMQ's name for the type of an argument."""
    return type_name(split_table(octets_of(arguments))[key.encode()])


def type_name(raw: bytes) -> str:
    """RabbitMQ's name of an undecoded field's type."""
    return _TYPE_NAMES.get(chr(raw[0]), "unknown")


def _invalid(key: str, queue: str, reason: str) -> Exception:
    return precondition_failed(f"invalid arg '{key}' for queue '{queue}' in vhost '/': {reason}")
