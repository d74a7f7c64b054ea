"""The HTTP server under the management API: h11 over asyncio, far lighter than a framework.

Lives here: reading requests and writing answers, the limits on both, and whose requests are answered. Every request
that arrives gets an answer, also one that cannot be read. Must not know: what is served.
"""

from __future__ import annotations

import asyncio
import json
import math
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, cast

import h11

from backpressure.core.addresses import is_from_other_site, names_this_machine

MAX_BODY_BYTES = 8 << 20
MAX_CONNECTIONS = 64
"""One more closes the connection that was silent the longest, so that idle clients do not lock others out."""
REQUEST_TIMEOUT_S = 10.0
"""From the connection, or a request's first octet, to its last."""
IDLE_TIMEOUT_S = 60.0
"""From an answer to the next request, and for a client to read the answer."""
LINGER_TIMEOUT_S = 2.0
"""How long a client that is being refused may go on sending: closing at once could destroy the answer on its way."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a JSON document (None: no body), and further headers."""

    status: HTTPStatus
    document: Any = None
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def refusal(cls, status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> Answer:
        """Any answer but success, with RabbitMQ's error document."""
        names = {HTTPStatus.UNAUTHORIZED: "not_authorized", HTTPStatus.NOT_FOUND: "Object Not Found"}
        return cls(status, {"error": names.get(status, "bad_request"), "reason": reason}, headers)


class TimerHandle(Protocol):
    """What `WebServer` needs of an event loop's timer."""

    def cancel(self) -> None:
        """Never run."""


class WebServer:
    """The connections of one HTTP server."""

    def __init__(
        self,
        handle: Callable[[str, str, Mapping[bytes, bytes], bytes], Answer],
        call_later: Callable[[float, Callable[[], None]], TimerHandle],
    ) -> None:
        """``handle`` answers method, target, headers and body; ``call_later`` is the event loop's."""
        self._handle = handle
        self.call_later = call_later
        self._connections: dict[_WebConnection, None] = {}

    def connection(self) -> asyncio.Protocol:
        """The protocol of one HTTP connection."""
        return _WebConnection(self)

    def admit(self, connection: _WebConnection) -> None:
        """Note a connection that is new or has just completed a request, at the cost of the most silent one."""
        self._connections.pop(connection, None)
        self._connections[connection] = None
        if len(self._connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            self.dismiss(oldest)
            oldest.abort()

    def dismiss(self, connection: _WebConnection) -> None:
        """Forget a connection that ended."""
        self._connections.pop(connection, None)

    def answer(self, method: str, target: str, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """Answer a request with any content."""
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not names_this_machine(host):
            return Answer.refusal(
                HTTPStatus.MISDIRECTED_REQUEST, "the management API answers under localhost or 127.0.0.1 only"
            )
        if is_from_other_site(method, origin, host):
            return Answer.refusal(HTTPStatus.FORBIDDEN, "pages of other sites may change nothing here")
        try:
            return self._handle(method, target, headers, body)
        except Exception:  # noqa: BLE001 - a fault of ours costs one request, not the connection and its client's patience
            traceback.print_exc()
            return Answer.refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the broker; see what it printed")


class _WebConnection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, server: WebServer) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._timer: TimerHandle | None = None
        self._between_requests = False
        self._paused = False
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.admit(self)
        self._limit(REQUEST_TIMEOUT_S)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._server.dismiss(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._between_requests:
            self._between_requests = False
            self._limit(REQUEST_TIMEOUT_S)
        self._http.receive_data(data)
        self._read()

    def eof_received(self) -> None:
        """The client sends no more: asyncio closes the connection once what was written has left."""
        if not self._refused:
            self._http.receive_data(b"")
            self._read()

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._read()

    def _limit(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._server.call_later(seconds, self._timed_out)

    def _timed_out(self) -> None:
        unread, _ = self._http.trailing_data
        if not self._refused and (unread or self._http.their_state is h11.SEND_BODY):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"no whole request within {REQUEST_TIMEOUT_S:g} s")
        else:
            self.abort()

    def _read(self) -> None:
        """Answer what has arrived; a client that does not read its answers waits with its next requests."""
        try:
            while not self._paused and not self._refused:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request = event
                    self._body.clear()
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > MAX_BODY_BYTES:
                        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes")
                elif isinstance(event, h11.EndOfMessage):
                    self._complete()
                else:
                    break
            if self._http.they_are_waiting_for_100_continue:
                self._write(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))
        except h11.RemoteProtocolError as error:
            self._refuse(HTTPStatus(error.error_status_hint), str(error))

    def _complete(self) -> None:
        request = self._request
        assert request is not None
        headers = dict(request.headers)
        answer = self._server.answer(
            request.method.decode(), request.target.decode("latin-1"), headers, bytes(self._body)
        )
        self._body.clear()
        self._respond(answer, with_body=request.method != b"HEAD")
        self._server.admit(self)
        if self._http.our_state is h11.MUST_CLOSE:
            self._linger()
        else:
            self._http.start_next_cycle()
            self._between_requests = True
            self._limit(IDLE_TIMEOUT_S)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer a request that was not read to its end, and read no more."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._respond(Answer.refusal(status, reason, ("connection", "close")))
        self._linger()

    def _linger(self) -> None:
        self._refused = True
        end_output(self._transport)
        self._limit(LINGER_TIMEOUT_S)

    def _respond(self, answer: Answer, *, with_body: bool = True) -> None:
        body = b"" if answer.document is None else _json(answer.document)
        headers = list(answer.headers)
        if answer.status is not HTTPStatus.NO_CONTENT:
            headers += [("content-length", str(len(body))), ("content-type", "application/json")]
        events: list[h11.Event] = [
            h11.Response(status_code=answer.status, headers=headers, reason=answer.status.phrase)
        ]
        if body and with_body:
            events.append(h11.Data(data=body))
        self._write(*events, h11.EndOfMessage())

    def _write(self, *events: h11.Event) -> None:
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))


def end_output(transport: asyncio.Transport) -> bool:
    """Tell the peer that nothing more comes; False when there is no way to: with TLS, or when it has gone."""
    if not transport.can_write_eof():
        return False
    try:
        transport.write_eof()
    except OSError:  # it was reset meanwhile
        return False
    return True


def _json(document: Any) -> bytes:
    try:
        return json.dumps(document, default=str, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:  # a client's table with a number that JSON has no word for, or octets that are not UTF-8
        return json.dumps(_sayable(document), default=str, ensure_ascii=False).encode()


def _sayable(value: Any) -> Any:
    """Say what JSON cannot carry, and strict readers refuse, in the words of RabbitMQ."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case str() if not _is_utf8(value):
            return f"Not UTF-8, base64 is: {b64encode(value.encode(errors='surrogateescape')).decode()}"
        case dict():
            return {_name(key): _sayable(item) for key, item in value.items()}
        case list() | tuple():
            return [_sayable(item) for item in value]
    return value


def _name(key: str) -> str:
    return key if _is_utf8(key) else key.encode(errors="surrogateescape").decode(errors="replace")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
