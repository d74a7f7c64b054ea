"""The management API's queues, exchanges, bindings and policies, one by one and as a file of definitions.

Must not know: HTTP, who the client is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from backpressure.broker import management_documents as documents
from backpressure.broker.exchange import Binding, Exchange
from backpressure.broker.management_requests import (
    HttpError,
    Route,
    arguments_of,
    flag_of,
    json_object,
    name_of,
    not_found,
    shaped,
    text_of,
)
from backpressure.broker.policy import Policy
from backpressure.broker.queue import Queue
from backpressure.broker.replies import AmqpRefusal, access_refused
from backpressure.broker.vhost import VirtualHost
from backpressure.broker.web import Answer
from backpressure.errors import ConfigError

_QUEUE = "queues/%2[Ff]/(?P<name>[^/]+)"
_EXCHANGE = "exchanges/%2[Ff]/(?P<name>[^/]+)"
_BINDINGS = "bindings/%2[Ff]/e/(?P<source>[^/]+)/(?P<kind>[qe])/(?P<destination>[^/]+)"
_DEFAULT = "amq.default"
"""What paths call the default exchange, whose name is empty."""


class TopologyApi:
    """Reads and writes of what a virtual host is made of."""

    def __init__(self, vhost: VirtualHost) -> None:
        """The virtual host to show and to change."""
        self._vhost = vhost

    def routes(self) -> list[Route]:
        """Everything that this part answers."""
        return [
            ("GET", "queues(/%2[Ff])?", self._queues),
            ("GET", _QUEUE, self._queue),
            ("PUT", _QUEUE, self._put_queue),
            ("DELETE", _QUEUE, self._delete_queue),
            ("DELETE", f"{_QUEUE}/contents", self._purge),
            ("GET", f"{_QUEUE}/bindings", self._bindings_of_queue),
            ("GET", "exchanges(/%2[Ff])?", self._exchanges),
            ("GET", _EXCHANGE, self._exchange),
            ("PUT", _EXCHANGE, self._put_exchange),
            ("DELETE", _EXCHANGE, self._delete_exchange),
            ("GET", f"{_EXCHANGE}/bindings/(?P<end>source|destination)", self._bindings_of_exchange),
            ("GET", "bindings(/%2[Ff])?", self._bindings),
            ("GET", _BINDINGS, self._bindings_between),
            ("POST", _BINDINGS, self._bind),
            ("GET", f"{_BINDINGS}/(?P<key>[^/]+)", self._binding),
            ("DELETE", f"{_BINDINGS}/(?P<key>[^/]+)", self._unbind),
            ("GET", "policies(/%2[Ff])?", self._policies),
            ("GET", "policies/%2[Ff]/(?P<name>[^/]+)", self._policy),
            ("PUT", "policies/%2[Ff]/(?P<name>[^/]+)", self._set_policy),
            ("DELETE", "policies/%2[Ff]/(?P<name>[^/]+)", self._delete_policy),
        ]

    # -- queues --------------------------------------------------------------------------------------------------

    def _queues(self, query: Mapping[str, str], **_: Any) -> Any:
        return shaped([documents.queue_document(self._vhost, queue) for queue in self._vhost.queues.values()], query)

    def _queue(self, name: str, **_: Any) -> Any:
        return documents.queue_document(self._vhost, self._vhost.queue(name))

    def _put_queue(self, name: str, body: bytes, **_: Any) -> Answer:
        created = name not in self._vhost.queues
        _declare_queue(self._vhost, {**json_object(body), "name": name})
        return Answer(HTTPStatus.CREATED if created else HTTPStatus.NO_CONTENT)

    def _delete_queue(self, name: str, query: Mapping[str, str], **_: Any) -> None:
        queue = self._vhost.queue(name)
        self._vhost.check_deletion(
            queue, if_unused=query.get("if-unused") == "true", if_empty=query.get("if-empty") == "true"
        )
        self._vhost.delete_queue(queue)

    def _purge(self, name: str, **_: Any) -> None:
        self._vhost.queue(name).purge()

    # -- exchanges -----------------------------------------------------------------------------------------------

    def _exchanges(self, query: Mapping[str, str], **_: Any) -> Any:
        found = self._vhost.exchanges.values()
        return shaped([documents.exchange_document(self._vhost, exchange) for exchange in found], query)

    def _exchange(self, name: str, **_: Any) -> Any:
        return documents.exchange_document(self._vhost, self._vhost.exchange(_exchange_name(name)))

    def _put_exchange(self, name: str, body: bytes, **_: Any) -> Answer:
        created = name not in self._vhost.exchanges
        _declare_exchange(self._vhost, {**json_object(body), "name": name})
        return Answer(HTTPStatus.CREATED if created else HTTPStatus.NO_CONTENT)

    def _delete_exchange(self, name: str, query: Mapping[str, str], **_: Any) -> None:
        self._vhost.exchange(name)
        self._vhost.delete_exchange(name, if_unused=query.get("if-unused") == "true")

    # -- bindings ------------------------------------------------------------------------------------------------

    def _bindings(self, query: Mapping[str, str], **_: Any) -> Any:
        return shaped(list(documents.binding_documents(self._vhost)), query)

    def _bindings_of_queue(self, name: str, **_: Any) -> Any:
        self._vhost.queue(name)
        return self._selected(destination=name, destination_type="queue")

    def _bindings_of_exchange(self, name: str, end: str, **_: Any) -> Any:
        name = _exchange_name(name)
        self._vhost.exchange(name)
        return self._selected(**{end: name}, **({"destination_type": "exchange"} if end == "destination" else {}))

    def _bindings_between(self, source: str, kind: str, destination: str, **_: Any) -> Any:
        source = _exchange_name(source)
        self._vhost.exchange(source)
        self._end(kind, destination)
        type_ = "queue" if kind == "q" else "exchange"
        return self._selected(source=source, destination=destination, destination_type=type_)

    def _selected(self, **wanted: str) -> list[Any]:
        found = documents.binding_documents(self._vhost)
        return [document for document in found if wanted.items() <= document.items()]

    def _bind(self, source: str, kind: str, destination: str, body: bytes, **_: Any) -> Answer:
        document = json_object(body)
        key = name_of(text_of(document, "routing_key"))
        binding = self._vhost.bind(source, self._end(kind, destination), key, arguments_of(document))
        location = f"{quote(destination, safe='')}/{quote(documents.properties_key(binding), safe='~')}"
        return Answer(HTTPStatus.CREATED, headers=(("location", location),))

    def _binding(self, **names: Any) -> Any:
        exchange, binding = self._find(**names)
        return documents.binding_document(exchange.name, binding)

    def _unbind(self, **names: Any) -> None:
        exchange, binding = self._find(**names)
        self._vhost.unbind(exchange.name, binding.destination, binding.routing_key, binding.arguments)

    def _find(self, source: str, kind: str, destination: str, key: str, **_: Any) -> tuple[Exchange, Binding]:
        """The binding whose key is ``key``, which clients escape once or twice."""
        exchange, end = self._vhost.exchange(_exchange_name(source)), self._end(kind, destination)
        for binding in exchange.bindings:
            known = documents.properties_key(binding)
            if binding.destination is end and key in {known, unquote(known)}:
                return exchange, binding
        raise not_found()

    def _end(self, kind: str, name: str) -> Queue | Exchange:
        return self._vhost.queue(name) if kind == "q" else self._vhost.exchange(name)

    # -- policies ------------------------------------------------------------------------------------------------

    def _policies(self, query: Mapping[str, str], **_: Any) -> Any:
        return shaped([policy.document() for policy in self._vhost.policies.values()], query)

    def _policy(self, name: str, **_: Any) -> Any:
        policy = self._vhost.policies.get(name)
        if policy is None:
            raise not_found()
        return policy.document()

    def _set_policy(self, name: str, body: bytes, **_: Any) -> Answer:
        created = name not in self._vhost.policies
        self._vhost.set_policy(Policy.parse(name, json_object(body)))
        return Answer(HTTPStatus.CREATED if created else HTTPStatus.NO_CONTENT)

    def _delete_policy(self, name: str, **_: Any) -> None:
        if name not in self._vhost.policies:
            raise not_found()
        self._vhost.delete_policy(name)


def _exchange_name(name: str) -> str:
    return "" if name == _DEFAULT else name


def _declare_queue(vhost: VirtualHost, document: Mapping[str, Any]) -> None:
    vhost.declare_queue(
        name_of(text_of(document, "name")),
        None,
        durable=flag_of(document, "durable"),
        exclusive=False,
        auto_delete=flag_of(document, "auto_delete"),
        arguments=arguments_of(document),
    )


def _declare_exchange(vhost: VirtualHost, document: Mapping[str, Any]) -> None:
    kind = text_of(document, "type", "direct")
    name = name_of(text_of(document, "name"))
    if not name:
        raise access_refused("operation not permitted on the default exchange")
    vhost.declare_exchange(
        name,
        kind,
        durable=flag_of(document, "durable"),
        auto_delete=flag_of(document, "auto_delete"),
        internal=flag_of(document, "internal"),
        arguments=arguments_of(document),
    )


# -- definitions -------------------------------------------------------------------------------------------------------


def export_definitions(vhost: VirtualHost) -> dict[str, Any]:
    """Queues, exchanges, bindings and policies as `import_definitions` reads them; exclusive queues are left out."""
    return {
        "policies": [policy.document() for policy in vhost.policies.values()],
        "queues": [
            {"name": q.name, "vhost": "/", "durable": q.durable, "auto_delete": q.auto_delete, "arguments": q.arguments}
            for q in vhost.queues.values()
            if q.owner is None
        ],
        "exchanges": [
            documents.exchange_definition(exchange)
            for exchange in vhost.exchanges.values()
            if exchange.name and not exchange.name.startswith("amq.")
        ],
        "bindings": [
            {key: value for key, value in document.items() if key != "properties_key"}
            for document in documents.binding_documents(vhost)
            if document["source"] and not _is_exclusive(vhost, document)
        ],
    }


def _is_exclusive(vhost: VirtualHost, binding: Mapping[str, Any]) -> bool:
    queue = vhost.queues.get(binding["destination"]) if binding["destination_type"] == "queue" else None
    return queue is not None and queue.owner is not None


def import_definitions(vhost: VirtualHost, document: Mapping[str, Any]) -> None:
    """Declare what a file of definitions holds, as RabbitMQ exports it; what exists and is the same stays.

    It may be of one virtual host, whatever its name; raises `HttpError`, `ConfigError` or `AmqpRefusal` for anything
    that cannot be declared, after what stands before it has been.
    """
    parts = {part: _objects(document, part) for part in ("policies", "exchanges", "queues", "bindings")}
    hosts = {item.get("vhost", "/") for items in parts.values() for item in items}
    if len(hosts) > 1:
        raise ConfigError("definitions", sorted(map(str, hosts)), "must be of one virtual host: there is only one here")
    for kind in _default_queue_types(document, hosts):
        vhost.set_default_queue_type(kind)
    for item in parts["policies"]:
        vhost.set_policy(Policy.parse(text_of(item, "name"), item))
    for item in parts["exchanges"]:
        _declare_exchange(vhost, item)
    for item in parts["queues"]:
        _declare_queue(vhost, item)
    for item in parts["bindings"]:
        name = text_of(item, "destination")
        is_queue = text_of(item, "destination_type", "queue") == "queue"
        end = vhost.queue(name) if is_queue else vhost.exchange(name)
        vhost.bind(text_of(item, "source"), end, name_of(text_of(item, "routing_key")), arguments_of(item))


def _default_queue_types(document: Mapping[str, Any], hosts: Collection[object]) -> set[str]:
    """What the file, of one virtual host or of several, says of the host that it is used of."""
    told = [document, *(item for item in _objects(document, "vhosts") if not hosts or item.get("name") in hosts)]
    return {text_of(item, "default_queue_type") for item in told} - {"", "undefined"}


def load_definitions(vhost: VirtualHost, path: Path) -> None:
    """Import a file of definitions; `ConfigError` says what is wrong with it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ConfigError("--definitions", str(path), "is not a JSON object")
        import_definitions(vhost, document)
    except OSError as cause:
        raise ConfigError("--definitions", str(path), f"cannot be read: {cause.strerror}") from cause
    except (ValueError, RecursionError, AmqpRefusal, HttpError) as cause:
        raise ConfigError("--definitions", str(path), f"cannot be used: {cause}") from cause


def _objects(document: Mapping[str, Any], part: str) -> list[Any]:
    items = document.get(part, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ConfigError(f"definitions.{part}", items, "must be a list of objects")
    return items
