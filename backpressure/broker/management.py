"""The part of RabbitMQ's management HTTP API that monitors and clean-up use.

Lives here: the routes and basic auth. What the documents contain is in `reports`; HTTP itself is in `web`.
Must not know: AMQP frames.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from backpressure.broker import management_documents as documents
from backpressure.broker.faults import FaultSettings
from backpressure.broker.policy import Policy
from backpressure.broker.replies import AmqpRefusal
from backpressure.broker.web import Answer
from backpressure.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from backpressure.broker.handshake import SessionConfig
    from backpressure.broker.session import Session
    from backpressure.broker.vhost import VirtualHost

__all__ = ["HttpError", "ManagementApi"]


class HttpError(Exception):
    """An answer other than success."""

    def __init__(self, status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> None:
        """``reason`` goes into the JSON body."""
        super().__init__(reason)
        self.answer = Answer.refusal(status, reason, *headers)


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
        self._started_at_s = clock()
        route = re.compile
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = [
            ("GET", route("overview"), lambda **_: documents.overview(vhost, sessions(), config.product)),
            ("GET", route("whoami"), lambda user, **_: {"name": user, "tags": ["administrator"]}),
            ("GET", route("nodes"), lambda **_: [documents.node_document(vhost, self._started_at_s)]),
            ("GET", route(f"nodes/{documents.NODE}"), lambda **_: documents.node_document(vhost, self._started_at_s)),
            ("GET", route("queues(/%2[Ff])?"), self._queues),
            ("GET", route("queues/%2[Ff]/(?P<name>[^/]+)"), self._queue),
            ("DELETE", route("queues/%2[Ff]/(?P<name>[^/]+)"), self._delete_queue),
            ("DELETE", route("queues/%2[Ff]/(?P<name>[^/]+)/contents"), self._purge),
            ("GET", route("exchanges(/%2[Ff])?"), self._exchanges),
            ("GET", route("exchanges/%2[Ff]/(?P<name>[^/]*)"), self._exchange),
            ("DELETE", route("exchanges/%2[Ff]/(?P<name>[^/]+)"), self._delete_exchange),
            ("GET", route("bindings(/%2[Ff])?"), lambda **_: list(documents.binding_documents(vhost))),
            ("GET", route("connections"), lambda **_: [documents.connection_document(s) for s in sessions()]),
            ("DELETE", route("connections/(?P<name>[^/]+)"), self._close_connection),
            ("GET", route("channels"), lambda **_: self._of_sessions(documents.channel_documents)),
            ("GET", route("consumers(/%2[Ff])?"), lambda **_: self._of_sessions(documents.consumer_documents)),
            ("GET", route("faults"), lambda **_: vhost.faults.settings.document()),
            ("PUT", route("faults"), self._set_faults),
            ("DELETE", route("faults"), lambda **_: vhost.faults.apply(FaultSettings())),
            ("POST", route("faults/drop-connections"), lambda **_: {"dropped": vhost.faults.drop_connections()}),
            ("GET", route("policies(/%2[Ff])?"), lambda **_: [p.document() for p in vhost.policies.values()]),
            ("GET", route("policies/%2[Ff]/(?P<name>[^/]+)"), self._policy),
            ("PUT", route("policies/%2[Ff]/(?P<name>[^/]+)"), self._set_policy),
            ("DELETE", route("policies/%2[Ff]/(?P<name>[^/]+)"), self._delete_policy),
        ]

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

    # -- queues --------------------------------------------------------------------------------------------------

    def _queues(self, **_: Any) -> Any:
        return [documents.queue_document(self._vhost, queue) for queue in self._vhost.queues.values()]

    def _queue(self, name: str, **_: Any) -> Any:
        return documents.queue_document(self._vhost, self._vhost.queue(name))

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
        return [documents.exchange_document(self._vhost, exchange) for exchange in self._vhost.exchanges.values()]

    def _exchange(self, name: str, **_: Any) -> Any:
        return documents.exchange_document(self._vhost, self._vhost.exchange(name))

    def _delete_exchange(self, name: str, query: Mapping[str, str], **_: Any) -> None:
        self._vhost.exchange(name)
        self._vhost.delete_exchange(name, if_unused=query.get("if-unused") == "true")

    def _of_sessions(self, documents: Callable[[Any], Iterable[Any]]) -> list[Any]:
        return [document for session in self._sessions() for document in documents(session)]

    def _close_connection(self, name: str, reason: str, **_: Any) -> None:
        text = f"CONNECTION_FORCED - {reason or 'Closed via management plugin'}"
        for session in self._sessions():
            if documents.connection_name(session) == name:
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
        return Answer(HTTPStatus.CREATED if created else HTTPStatus.NO_CONTENT)

    def _delete_policy(self, name: str, **_: Any) -> None:
        if name not in self._vhost.policies:
            raise HttpError(HTTPStatus.NOT_FOUND, "Not Found")
        self._vhost.delete_policy(name)


def _answer(result: Any) -> Answer:
    if isinstance(result, Answer):
        return result
    return Answer(HTTPStatus.NO_CONTENT if result is None else HTTPStatus.OK, result)


def _json_object(body: bytes) -> dict[str, Any]:
    """Return what the client sent; 400 for what is no JSON object, or has half of a surrogate pair or NaN in it."""
    try:
        document = json.loads(body)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return document
