"""The part of RabbitMQ's management HTTP API that monitors and clean-up use.

Lives here: HTTP (h11 over an asyncio protocol, far lighter than a framework), the routes, basic auth. What the
documents contain is in `reports`. May not know: AMQP frames.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from backpressure.broker import reports
from backpressure.broker.faults import FaultSettings
from backpressure.broker.policy import Policy
from backpressure.broker.replies import Fault
from backpressure.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from backpressure.broker.vhost import VirtualHost

__all__ = ["HttpError", "ManagementApi"]

MAX_BODY_BYTES = 64 * 1024

Answer = tuple[HTTPStatus, Any]


class HttpError(Exception):
    """An answer other than success."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        """``reason`` goes into the JSON body."""
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ManagementApi:
    """Routes requests to the virtual host."""

    def __init__(self, vhost: VirtualHost, users: Mapping[str, str], clock: Callable[[], float]) -> None:
        """``clock`` reads the event loop's seconds; ``users`` are the ones AMQP accepts."""
        self._vhost = vhost
        self._users = users
        self._clock = clock
        self._started_at_s = clock()
        route = re.compile
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = [
            ("GET", route("overview"), lambda **_: reports.overview(vhost)),
            ("GET", route("whoami"), lambda user, **_: {"name": user, "tags": ["administrator"]}),
            ("GET", route("nodes"), lambda **_: [reports.node_document(vhost, self._started_at_s)]),
            ("GET", route(f"nodes/{reports.NODE}"), lambda **_: reports.node_document(vhost, self._started_at_s)),
            ("GET", route("queues(/%2[Ff])?"), self._queues),
            ("GET", route("queues/%2[Ff]/(?P<name>[^/]+)"), self._queue),
            ("DELETE", route("queues/%2[Ff]/(?P<name>[^/]+)"), self._delete_queue),
            ("DELETE", route("queues/%2[Ff]/(?P<name>[^/]+)/contents"), self._purge),
            ("GET", route("exchanges(/%2[Ff])?"), self._exchanges),
            ("GET", route("exchanges/%2[Ff]/(?P<name>[^/]*)"), self._exchange),
            ("DELETE", route("exchanges/%2[Ff]/(?P<name>[^/]+)"), self._delete_exchange),
            ("GET", route("bindings(/%2[Ff])?"), lambda **_: list(reports.binding_documents(vhost))),
            ("GET", route("connections"), lambda **_: [reports.connection_document(s) for s in vhost.sessions]),
            ("DELETE", route("connections/(?P<name>[^/]+)"), self._close_connection),
            ("GET", route("channels"), lambda **_: self._of_sessions(reports.channel_documents)),
            ("GET", route("consumers(/%2[Ff])?"), lambda **_: self._of_sessions(reports.consumer_documents)),
            ("GET", route("faults"), lambda **_: vhost.faults.settings.document()),
            ("PUT", route("faults"), self._set_faults),
            ("DELETE", route("faults"), lambda **_: vhost.faults.apply(FaultSettings())),
            ("POST", route("faults/drop-connections"), lambda **_: {"dropped": vhost.faults.drop_connections()}),
            ("GET", route("policies(/%2[Ff])?"), lambda **_: [p.document() for p in vhost.policies.values()]),
            ("GET", route("policies/%2[Ff]/(?P<name>[^/]+)"), self._policy),
            ("PUT", route("policies/%2[Ff]/(?P<name>[^/]+)"), self._set_policy),
            ("DELETE", route("policies/%2[Ff]/(?P<name>[^/]+)"), self._delete_policy),
        ]

    def connection(self) -> asyncio.Protocol:
        """The protocol of one HTTP connection."""
        return _HttpConnection(self)

    def handle(self, method: str, target: str, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """Answer one request with a status and a JSON document, or None for no body."""
        self._vhost.now = self._clock()
        try:
            user = self._authenticate(headers.get(b"authorization", b""))
            return self._dispatch(method, target, body, user, headers.get(b"x-reason", b"").decode("latin-1"))
        except HttpError as error:
            return error.status, {"error": _error_name(error.status), "reason": error.reason}
        except Fault as fault:
            status = HTTPStatus.NOT_FOUND if fault.code == 404 else HTTPStatus.BAD_REQUEST
            return status, {"error": _error_name(status), "reason": f"{fault.code} {fault.text}"}
        except ConfigError as error:
            return HTTPStatus.BAD_REQUEST, {"error": "bad_request", "reason": str(error)}

    def _dispatch(self, method: str, target: str, body: bytes, user: str, reason: str) -> Answer:
        url = urlsplit(target)
        path = url.path.removeprefix("/api/").rstrip("/") if url.path.startswith("/api/") else ""
        status = HTTPStatus.NOT_FOUND
        for verb, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match and verb == method:
                names = {key: unquote(value) for key, value in match.groupdict().items()}
                query = {key: values[-1] for key, values in parse_qs(url.query).items()}
                return _answer(handler(**names, query=query, body=body, user=user, reason=reason))
            if match:
                status = HTTPStatus.METHOD_NOT_ALLOWED
        raise HttpError(status, "Not Found" if status is HTTPStatus.NOT_FOUND else "Method Not Allowed")

    def _authenticate(self, authorization: bytes) -> str:
        scheme, _, credentials = authorization.partition(b" ")
        try:
            user, _, password = base64.b64decode(credentials).decode().partition(":")
        except ValueError:
            user = password = ""
        if scheme.lower() != b"basic" or user not in self._users or self._users[user] != password:
            raise HttpError(HTTPStatus.UNAUTHORIZED, "Login failed")
        return user

    # -- queues --------------------------------------------------------------------------------------------------

    def _queues(self, **_: Any) -> Any:
        return [reports.queue_document(self._vhost, queue) for queue in self._vhost.queues.values()]

    def _queue(self, name: str, **_: Any) -> Any:
        return reports.queue_document(self._vhost, self._vhost.queue(name))

    def _delete_queue(self, name: str, query: Mapping[str, str], **_: Any) -> None:
        self._vhost.delete_queue(
            self._vhost.queue(name),
            if_unused=query.get("if-unused") == "true",
            if_empty=query.get("if-empty") == "true",
        )

    def _purge(self, name: str, **_: Any) -> None:
        self._vhost.queue(name).purge()

    # -- exchanges, connections ----------------------------------------------------------------------------------

    def _exchanges(self, **_: Any) -> Any:
        return [reports.exchange_document(self._vhost, exchange) for exchange in self._vhost.exchanges.values()]

    def _exchange(self, name: str, **_: Any) -> Any:
        return reports.exchange_document(self._vhost, self._vhost.exchange(name))

    def _delete_exchange(self, name: str, query: Mapping[str, str], **_: Any) -> None:
        self._vhost.exchange(name)
        self._vhost.delete_exchange(name, if_unused=query.get("if-unused") == "true")

    def _of_sessions(self, documents: Callable[[Any], Iterable[Any]]) -> list[Any]:
        return [document for session in self._vhost.sessions for document in documents(session)]

    def _close_connection(self, name: str, reason: str, **_: Any) -> None:
        text = f"CONNECTION_FORCED - {reason or 'Closed via management plugin'}"
        for session in list(self._vhost.sessions):
            if reports.connection_name(session) == name:
                session.close(320, text.encode()[:255].decode(errors="ignore"))  # a short string on the wire
                return
        raise HttpError(HTTPStatus.NOT_FOUND, "Not Found")

    # -- faults --------------------------------------------------------------------------------------------------

    def _set_faults(self, body: bytes, **_: Any) -> Any:
        faults = self._vhost.faults
        faults.apply(faults.settings.updated(_json_object(body)))
        return faults.settings.document()

    # -- policies ------------------------------------------------------------------------------------------------

    def _policy(self, name: str, **_: Any) -> Any:
        policy = self._vhost.policies.get(name)
        if policy is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "Not Found")
        return policy.document()

    def _set_policy(self, name: str, body: bytes, **_: Any) -> Answer:
        created = name not in self._vhost.policies
        self._vhost.set_policy(Policy.parse(name, _json_object(body)))
        return (HTTPStatus.CREATED if created else HTTPStatus.NO_CONTENT), None

    def _delete_policy(self, name: str, **_: Any) -> None:
        if name not in self._vhost.policies:
            raise HttpError(HTTPStatus.NOT_FOUND, "Not Found")
        self._vhost.delete_policy(name)


def _answer(result: Any) -> Answer:
    if isinstance(result, tuple):
        return result
    return (HTTPStatus.NO_CONTENT if result is None else HTTPStatus.OK), result


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return document


def _error_name(status: HTTPStatus) -> str:
    names = {HTTPStatus.UNAUTHORIZED: "not_authorized", HTTPStatus.NOT_FOUND: "Object Not Found"}
    return names.get(status, "bad_request")


class _HttpConnection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, api: ManagementApi) -> None:
        self._api = api
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        try:
            self._read()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                self._respond(HTTPStatus(error.error_status_hint), {"error": "bad_request", "reason": str(error)})
            self._transport.close()

    def _read(self) -> None:
        while True:
            event = self._http.next_event()
            match event:
                case h11.Request():
                    self._request = event
                    self._body.clear()
                case h11.Data():
                    self._body += event.data
                    if len(self._body) > MAX_BODY_BYTES:
                        self._respond(
                            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "bad_request", "reason": "body too large"}
                        )
                        self._transport.close()
                        return
                case h11.EndOfMessage():
                    self._dispatch()
                    if self._http.our_state is h11.MUST_CLOSE:
                        self._transport.close()
                        return
                    self._http.start_next_cycle()
                case _:
                    return

    def _dispatch(self) -> None:
        request = self._request
        assert request is not None
        headers = dict(request.headers)
        status, document = self._api.handle(
            request.method.decode(), request.target.decode("latin-1"), headers, bytes(self._body)
        )
        self._respond(status, document)

    def _respond(self, status: HTTPStatus, document: Any) -> None:
        body = b"" if document is None else json.dumps(document, default=str).encode()
        headers = [("content-length", str(len(body))), ("content-type", "application/json")]
        if status is HTTPStatus.UNAUTHORIZED:
            headers.append(("www-authenticate", 'Basic realm="embedded broker"'))
        if status is HTTPStatus.NO_CONTENT:
            headers = []
        parts = [self._http.send(h11.Response(status_code=status, headers=headers, reason=status.phrase))]
        if body:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(part for part in parts if part))
