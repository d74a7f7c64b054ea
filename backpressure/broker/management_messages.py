"""The management API's messages: publish one to an exchange, look at or take some from a queue.

Must not know: HTTP, channels.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from backpressure.amqp.field_tables import decode_table, encode_table, short_string
from backpressure.amqp.properties import LAYOUT, Properties
from backpressure.broker.management_requests import bad_request, json_object, name_of, text_of
from backpressure.broker.publishing import compose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backpressure.broker.entries import Entry
    from backpressure.broker.management_requests import Route
    from backpressure.broker.queue import Queue
    from backpressure.broker.vhost import VirtualHost

__all__ = ["MessagesApi"]

_PUBLISH_KEYS = ("properties", "routing_key", "payload", "payload_encoding")
_GET_KEYS = ("ackmode", "count", "encoding")
_ACK_MODES = ("ack_requeue_true", "ack_requeue_false", "reject_requeue_true", "reject_requeue_false")


class MessagesApi:
    """For trying things out, and for tools that look into a queue."""

    def __init__(self, vhost: VirtualHost) -> None:
        """The virtual host whose exchanges and queues these are."""
        self._vhost = vhost

    def routes(self) -> list[Route]:
        """Everything that this part answers."""
        return [
            ("POST", "exchanges/%2[Ff]/(?P<name>[^/]+)/publish", self._publish),
            ("POST", "queues/%2[Ff]/(?P<name>[^/]+)/get", self._get),
        ]

    def _publish(self, name: str, body: bytes, **_: Any) -> Any:
        document = json_object(body, required=_PUBLISH_KEYS)
        exchange = self._vhost.exchange("" if name == "amq.default" else name)
        payload = _decoded(text_of(document, "payload"), document["payload_encoding"])
        properties = Properties(len(payload), _encoded_properties(document["properties"]))
        message = compose(exchange.name, name_of(text_of(document, "routing_key")), properties, payload)
        queues = self._vhost.route(exchange, message)
        self._vhost.counters.totals["publish"] += 1
        exchange.counters.totals["publish_in"] += 1
        exchange.counters.totals["publish_out"] += len(queues)
        self._vhost.publish(queues, message)
        return {"routed": bool(queues)}

    def _get(self, name: str, body: bytes, **_: Any) -> Any:
        document = json_object(body, required=_GET_KEYS)
        mode, count = document["ackmode"], document["count"]
        if mode not in _ACK_MODES:
            raise bad_request(f"ackmode: one of {', '.join(_ACK_MODES)}")
        if not isinstance(count, int) or document["encoding"] not in ("auto", "base64"):
            raise bad_request("count: a whole number; encoding: auto or base64")
        queue, found = self._vhost.queue(name), []
        entries: list[Entry] = []
        while len(entries) < max(count, 1) and (entry := queue.take()) is not None:
            entries.append(entry)
            queue.counters.totals["get"] += 1
            found.append(_document(queue, entry, document))
        if mode.endswith("requeue_true"):
            queue.requeue(entries)
        for entry in entries if mode.endswith("requeue_false") else ():
            if mode.startswith("ack"):
                queue.settle(entry)
            else:
                queue.discard(entry)
        return found


def _document(queue: Queue, entry: Entry, asked: Mapping[str, Any]) -> dict[str, Any]:
    message = entry.message
    limit = asked.get("truncate")
    shown = message.body[:limit] if isinstance(limit, int) and limit >= 0 else message.body
    try:
        text = None if asked["encoding"] == "base64" else shown.decode()
    except UnicodeDecodeError:
        text = None
    return {
        "payload_bytes": len(message.body),
        "redelivered": entry.redelivered,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "message_count": len(queue),
        "properties": _decoded_properties(message.properties()) or [],
        "payload": base64.b64encode(shown).decode() if text is None else text,
        "payload_encoding": "base64" if text is None else "string",
    }


def _decoded(payload: str, encoding: object) -> bytes:
    if encoding == "string":
        return payload.encode()
    if encoding != "base64":
        raise bad_request(f"unsupported_encoding: {encoding!r}")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as cause:
        raise bad_request("not_base64") from cause


def _encoded_properties(document: object) -> dict[str, bytes]:
    if not isinstance(document, dict):
        if document == []:
            return {}
        raise bad_request("properties: must be an object")
    sizes = {name: size for name, _, size in LAYOUT}
    unknown = document.keys() - sizes.keys()
    if unknown:
        raise bad_request(f"properties: {', '.join(sorted(unknown))} is none")
    try:
        return {name: _encoded(name, value, sizes[name]) for name, value in document.items()}
    except (TypeError, ValueError, OverflowError, AttributeError) as cause:
        raise bad_request(f"properties: {cause}") from cause


def _encoded(name: str, value: Any, size: int | None) -> bytes:
    if name == "headers":
        return encode_table(value)
    if size is None:
        return short_string(value)
    octets: bytes = value.to_bytes(size, "big")
    return octets


def _decoded_properties(properties: Properties) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, _, size in LAYOUT:
        raw = properties.raw.get(name)
        if raw is None:
            continue
        if name == "headers":
            found[name] = decode_table(raw)
        else:
            found[name] = properties.text(name) if size is None else properties.number(name)
    return found
