"""Our messages as Kafka's records, which have a body and headers of bytes, and back; what queues are called there.

Text in a header is UTF-8 and any other value is JSON, so that every program can read it. One more header,
``pace.types``, tells which are text, JSON or plain bytes. It marks a record as ours; in a foreign record every header
is bytes, and its timestamp is that of the message.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from confluent_kafka import Message as Record

from backpressure.core.message import Delivery, HeaderValue, Message
from backpressure.transports.deaths import death_headers

GROUPS = "pace."
"""What the names of our groups begin with; those of the topics of a run as well."""

_LONGEST = 249


def topic_name(queue: str) -> str:
    """Return the topic that stands for ``queue``: its name, with "_" for what Kafka does not allow."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", queue)[:_LONGEST]
    return name if name.strip(".") else name.replace(".", "_")


def group_id(queue: str) -> str:
    """Return the consumer group that stands for the consumers of ``queue``: their commits are the queue's place."""
    return f"{GROUPS}{topic_name(queue)}"


Headers = list[tuple[str, str | bytes | None]]

_TYPES = "pace.types"
_MESSAGE_ID = "pace.message_id"
_TIMESTAMP_S = "pace.timestamp_s"
_CONTENT_TYPE = "pace.content_type"
_EXPIRATION_MS = "pace.expiration_ms"
_TRANSIENT = "pace.transient"
_TEXT, _BYTES, _JSON = "t", "b", "j"


def headers_of(message: Message) -> Headers:
    """Return the headers to publish ``message`` with, its properties among them."""
    kinds = []
    headers: Headers = []
    for name, value in message.headers.items():
        kind, data = _encoded(value)
        kinds.append((name, kind))
        headers.append((name, data))
    headers.append((_TYPES, _types(tuple(kinds))))
    if message.message_id is not None:
        headers.append((_MESSAGE_ID, message.message_id.encode()))
    if message.timestamp_s is not None:
        headers.append((_TIMESTAMP_S, b"%d" % message.timestamp_s))
    if message.content_type is not None:
        headers.append((_CONTENT_TYPE, message.content_type.encode()))
    if message.expiration_ms is not None:
        headers.append((_EXPIRATION_MS, b"%d" % message.expiration_ms))
    if not message.persistent:
        headers.append((_TRANSIENT, b"1"))
    return headers


def content_of(message: Message) -> dict[str, Any]:
    """Return the arguments of `Producer.produce` for ``message``, key and time included if it is handed on."""
    if isinstance(message.native, dict):
        return message.native
    return {"value": message.body, "headers": headers_of(message)}


def message_from(record: Record) -> Message:
    """Return what was received."""
    headers = {name: _bytes(value) for name, value in _headers(record)}
    try:
        return _ours(record, dict(headers)) if _TYPES in headers else _foreign(record, headers)
    except (ValueError, RecursionError):  # another program uses these names for something else
        return _foreign(record, headers)


def dead_letter(delivery: Delivery, queue: str, more: Mapping[str, HeaderValue]) -> Message:
    """Return ``delivery`` as a dead letter of ``queue``: key, value, time and headers as they came, and ``more``."""
    record, received = cast("Record", delivery.native), delivery.message
    death = death_headers(
        received.headers,
        queue=queue,
        reason="rejected",
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        expiration_ms=received.expiration_ms,
    )
    kept = [(name, value) for name, value in _headers(record) if name not in death]
    types: dict[str, Any] = {}
    for name, value in kept:
        if name == _TYPES:
            with suppress(ValueError, RecursionError):
                types |= _kinds(_bytes(value))
    added: Headers = []
    for name, new in {**more, **death}.items():
        types[name], data = _encoded(new)
        added.append((name, data))
    expires = received.expiration_ms is not None
    kept = [(name, value) for name, value in kept if name != _TYPES and not (expires and name == _EXPIRATION_MS)]
    native: dict[str, Any] = {
        "value": record.value(),
        "key": record.key(),
        "headers": [*kept, *added, (_TYPES, json.dumps(types, separators=(",", ":")).encode())],
    }
    kind, timestamp_ms = record.timestamp()
    if kind != TIMESTAMP_NOT_AVAILABLE and 0 < timestamp_ms <= time.time() * 1000:  # brokers refuse the future
        native["timestamp"] = timestamp_ms
    return Message(received.body, received.message_id, headers=received.headers, native=native)


def _headers(record: Record) -> Headers:
    """Return the record's headers; none when a name is not UTF-8, which the client cannot read.

    The client then raises once. The next time it returns tuples with a NULL in them, and using one ends the process.
    """
    try:
        return cast("Headers", record.headers() or [])
    except SystemError:
        record.set_headers([])
        return []


def _foreign(record: Record, headers: dict[str, bytes]) -> Message:
    kind, timestamp_ms = record.timestamp()
    timestamp_s = None if kind == TIMESTAMP_NOT_AVAILABLE else timestamp_ms // 1000
    return Message(_bytes(record.value()), timestamp_s=timestamp_s, headers=dict(headers))


def _ours(record: Record, headers: dict[str, bytes]) -> Message:
    properties = {name: headers.pop(name).decode() for name in _PROPERTIES if name in headers}
    kinds = _kinds(headers.pop(_TYPES))
    return Message(
        _bytes(record.value()),
        message_id=properties.get(_MESSAGE_ID),
        timestamp_s=_number(properties.get(_TIMESTAMP_S)),
        headers={name: _decoded(kinds.get(name, _BYTES), value) for name, value in headers.items()},
        persistent=_TRANSIENT not in properties,
        content_type=properties.get(_CONTENT_TYPE),
        expiration_ms=_number(properties.get(_EXPIRATION_MS)),
    )


_PROPERTIES = (_MESSAGE_ID, _TIMESTAMP_S, _CONTENT_TYPE, _EXPIRATION_MS, _TRANSIENT)


def _encoded(value: HeaderValue) -> tuple[str, bytes]:
    match value:
        case str():
            return _TEXT, value.encode()
        case bytes():
            return _BYTES, value
        case _:
            return _JSON, json.dumps(value, default=_text).encode()


def _decoded(kind: str, value: bytes) -> HeaderValue:
    match kind:
        case "t":
            return value.decode()
        case "j":
            parsed: HeaderValue = json.loads(value)
            return parsed
        case _:
            return value


@lru_cache(maxsize=64)  # all messages of a producer have the same headers
def _types(kinds: Iterable[tuple[str, str]]) -> bytes:
    return json.dumps(dict(kinds), separators=(",", ":")).encode()


@lru_cache(maxsize=64)
def _kinds(types: bytes) -> dict[str, str]:
    kinds = json.loads(types)
    if not isinstance(kinds, dict):
        raise ValueError("not a mapping")  # noqa: TRY004 -- one kind of error for all that is malformed
    return kinds


def _text(value: object) -> str:
    """Return text for bytes within lists, which JSON does not have."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _bytes(value: bytes | str | None) -> bytes:
    return value if isinstance(value, bytes) else (value or "").encode()
