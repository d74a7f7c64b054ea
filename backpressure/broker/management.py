"""The part of RabbitMQ's management HTTP API that monitors and clean-up use.

Lives here: finding the handler of a request, basic auth, connections and faults, messages to publish or to look at. The
parts `management_topology` and `management_node` bring their own routes; HTTP itself is in `web`.
Must not know: AMQP frames.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

from backpressure.amqp.field_tables import decode_table, encode_table, short_string
from backpressure.amqp.properties import LAYOUT, Properties
from backpressure.broker import management_documents as documents
from backpressure.broker.entries import Entry
from backpressure.broker.faults import FaultSettings
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.management_node import NodeApi
from backpressure.broker.management_requests import (
    HttpError,
    Route,
    bad_request,
    json_object,
    name_of,
    not_found,
    shaped,
    text_of,
)
from backpressure.broker.management_topology import TopologyApi
from backpressure.broker.publishing import compose
from backpressure.broker.queue import Queue
from backpressure.broker.replies import AmqpRefusal
from backpressure.broker.session import Session
from backpressure.broker.vhost import VirtualHost
from backpressure.broker.web import Answer
from backpressure.errors import ConfigError

_PUBLISH_KEYS = ("properties", "routing_key", "payload", "payload_encoding")
_GET_KEYS = ("ackmode", "count", "encoding")
_ACK_MODES = ("ack_requeue_true", "ack_requeue_false", "reject_requeue_true", "reject_requeue_false")


class ManagementApi:
    """Routes requests to the virtual host."""

    def __init__(
        self,
        vhost: VirtualHost,
        config: SessionConfig,
        clock: Callable[[], float],
        sessions: Callable[[], Collection[Session]],
    ) -> None:
        """``clock`` is the event loop's, ``config`` is that of AMQP, ``sessions`` are the open connections."""
        self._vhost = vhost
        self._sessions = sessions
        self._users = config.users
        self._clock = clock
        self.node = NodeApi(vhost, config, sessions, clock())
        routes: list[Route] = [
            *self.node.routes(),
            *TopologyApi(vhost).routes(),
            *_MessagesApi(vhost).routes(),
            ("GET", "(vhosts/%2[Ff]/)?connections", self._listed(lambda s: [documents.connection_document(s)])),
            ("GET", "connections/(?P<name>[^/]+)", self._connection),
            ("DELETE", "connections/(?P<name>[^/]+)", self._close_connection),
            ("GET", "connections/(?P<name>[^/]+)/channels", self._channels_of),
            ("GET", "(vhosts/%2[Ff]/)?channels", self._listed(documents.channel_documents)),
            ("GET", "channels/(?P<name>[^/]+)", self._channel),
            ("GET", "consumers(/%2[Ff])?", self._listed(documents.consumer_documents)),
            ("GET", "faults", lambda **_: vhost.faults.settings.document()),
            ("PUT", "faults", self._set_faults),
            ("DELETE", "faults", lambda **_: vhost.faults.apply(FaultSettings())),
            ("POST", "faults/drop-connections", lambda **_: {"dropped": vhost.faults.drop_connections()}),
        ]
        self._routes = [(verb, re.compile(pattern), handler) for verb, pattern, handler in routes]

    def handle(self, method: str, target: str, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """Answer one request."""
        self._vhost.now = self._clock()
        try:
            user = self._authenticate(headers.get(b"authorization", b""))
            return self._dispatch(method, target, body, user, headers.get(b"x-reason", b"").decode("latin-1"))
        except HttpError as error:
            return error.answer
        except AmqpRefusal as fault:
            status = HTTPStatus.NOT_FOUND if fault.code == 404 else HTTPStatus.BAD_REQUEST
            return Answer.refusal(status, f"{fault.code} {fault.text}")
        except ConfigError as error:
            return Answer.refusal(HTTPStatus.BAD_REQUEST, str(error))
        except RecursionError:
            return Answer.refusal(HTTPStatus.BAD_REQUEST, "the body is nested too deeply")

    def _dispatch(self, method: str, target: str, body: bytes, user: str, reason: str) -> Answer:
        path, _, query_text = target.partition("?")
        path = path.removeprefix("/api/").rstrip("/") if path.startswith("/api/") else ""
        verb = "GET" if method == "HEAD" else method
        allowed = []
        for known, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match and known == verb:
                names = {key: unquote(value) for key, value in match.groupdict().items()}
                query = {key: values[-1] for key, values in parse_qs(query_text).items()}
                return _answer(handler(**names, query=query, body=body, user=user, reason=reason))
            if match:
                allowed += ["HEAD", "GET"] if known == "GET" else [known]
        if not allowed:
            raise HttpError(HTTPStatus.NOT_FOUND, "Not Found")
        allow = ("allow", ", ".join((*allowed, "OPTIONS")))
        if method == "OPTIONS":
            return Answer(HTTPStatus.OK, headers=(allow,))
        raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed", allow)

    def _authenticate(self, authorization: bytes) -> str:
        scheme, _, credentials = authorization.partition(b" ")
        try:
            user, _, password = base64.b64decode(credentials).decode().partition(":")
        except ValueError:
            user = password = ""
        known = self._users.get(user)
        right = known is not None and hmac.compare_digest(known.encode(), password.encode())
        if scheme.lower() != b"basic" or not right:
            challenge = ("www-authenticate", 'Basic realm="embedded broker"')
            raise HttpError(HTTPStatus.UNAUTHORIZED, "Login failed", challenge)
        return user

    # -- connections ---------------------------------------------------------------------------------------------

    def _listed(self, describe: Callable[[Session], Iterable[Any]]) -> Callable[..., Any]:
        """What answers with a list of what every session has."""
        return lambda query, **_: shaped(
            [document for session in self._sessions() for document in describe(session)], query
        )

    def _connection(self, name: str, **_: Any) -> Any:
        return documents.connection_document(self._session(name))

    def _channels_of(self, name: str, **_: Any) -> Any:
        return list(documents.channel_documents(self._session(name)))

    def _channel(self, name: str, **_: Any) -> Any:
        for session in self._sessions():
            for document in documents.channel_documents(session):
                if document["name"] == name:
                    return document
        raise not_found()

    def _session(self, name: str) -> Session:
        for session in self._sessions():
            if documents.connection_name(session) == name:
                return session
        raise not_found()

    def _close_connection(self, name: str, reason: str, **_: Any) -> None:
        text = f"CONNECTION_FORCED - {reason or 'Closed via management plugin'}"
        self._session(name).close(320, text.encode()[:255].decode(errors="ignore"))  # a short string on the wire

    # -- faults --------------------------------------------------------------------------------------------------

    def _set_faults(self, body: bytes, **_: Any) -> Any:
        faults = self._vhost.faults
        faults.apply(faults.settings.updated(json_object(body)))
        return faults.settings.document()


def _answer(result: Any) -> Answer:
    if isinstance(result, Answer):
        return result
    return Answer(HTTPStatus.NO_CONTENT if result is None else HTTPStatus.OK, result)


class _MessagesApi:
    """Publishes a message to an exchange, looks at or takes some from a queue: to try things out, and for tools."""

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
