"""Where the management API is, and the quirks of what it reports."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import TypeAdapter

from backpressure.errors import AccessRefusedError, AnotherBrokerError, BrokerUnavailableError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.http_client import HttpAnswer, HttpClient, NoAnswerError
from backpressure.transports.management_client import ManagementClient, management_url
from backpressure.transports.management_models import ConnectionInfo, QueueInfo


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://localhost:15672"),
        ({"host": "broker.example"}, "http://broker.example:15672"),
        ({"url": "amqp://user:pw@broker.example/v"}, "http://broker.example:15672"),
        ({"url": "amqp://[::1]:5672"}, "http://[::1]:15672"),
        ({"url": "amqps://broker.example"}, "https://broker.example:15671"),
        ({"management_url": "http://elsewhere:1/"}, "http://elsewhere:1"),
        # beside any other port, 15672 would be somebody else's broker
        ({"port": 5673}, ""),
        ({"host": "one,two:5672,[::1]"}, "http://one:15672,two:15672,[::1]:15672"),
        ({"url": "amqps://one,two/v"}, "https://one:15671,two:15671"),
        ({"url": "amqp://one,two:5673/"}, ""),
        ({"management_url": "http://one:1,[::1]:2/p"}, "http://one:1,[::1]:2/p"),
        ({"url": "amqp://broker.example:40001"}, ""),
        ({"url": "memory://x"}, ""),
        ({"url": "kafka://broker.example", "management_url": "http://elsewhere:1/"}, ""),
    ],
)
def test_the_api_is_given_or_guessed_beside_a_default_port_only(settings: dict[str, Any], url: str) -> None:
    assert management_url(BrokerSettings.model_validate(settings)) == url


def test_without_an_address_there_is_no_client() -> None:
    assert ManagementClient.of(BrokerSettings(port=5673)) is None


def test_erlangs_empty_list_stands_for_an_empty_object() -> None:
    assert QueueInfo.model_validate({"name": "q", "arguments": [], "effective_policy_definition": []}).arguments == {}
    assert ConnectionInfo.model_validate({"name": "c", "client_properties": []}).client_name == ""


def test_what_a_broker_does_not_report_is_zero() -> None:
    young = QueueInfo.model_validate({"name": "q", "policy": None, "exclusive": None, "messages_ready": None})
    assert (young.messages, young.publish_rate, young.published, young.policy) == (0, 0, 0, "")


Handler = Callable[[str, str, dict[str, str]], HttpAnswer]


class Server:
    """Stands for the management API behind a client: answers by a function of method, path and headers."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def request(self, method: str, path: str, document: Any, headers: dict[str, str] | None) -> HttpAnswer:
        del document
        return self._handler(method, path, headers or {})


def answered(handler: Handler) -> ManagementClient:
    client = ManagementClient("http://broker.example:15672")
    client._http = dict.fromkeys(client._http, cast("HttpClient", Server(handler)))
    return client


def always(status: int, content: str = "") -> Handler:
    return lambda _method, _path, _headers: HttpAnswer(status, content.encode())


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (always(401, '{"error": "not_authorised", "reason": "Login failed"}'), AccessRefusedError, "Login"),
        (always(403), AccessRefusedError, "HTTP 403"),
        (always(500, "<html>"), TransportError, "HTTP 500 Internal Server Error"),
        (always(302), TransportError, "HTTP 302 Found"),
        (always(400, '{"error": "bad_request", "reason": "Validation failed"}'), TransportError, "Valid"),
        (always(200, '{"not": "a list"}'), TransportError, "something else than expected"),
        (always(200, "<html>"), TransportError, "something else than expected"),
    ],
)
def test_every_bad_answer_is_an_error_of_ours(answer: Handler, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        asyncio.run(answered(answer).queues())


def test_what_reads_an_answer_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = answered(always(200, "[]"))

    async def twice() -> None:
        await client.queues()
        monkeypatch.setattr(TypeAdapter, "__init__", None)
        await client.queues()

    asyncio.run(twice())


def test_no_answer_is_a_broker_that_is_not_available() -> None:
    def refuse(_method: str, _path: str, _headers: dict[str, str]) -> HttpAnswer:
        raise NoAnswerError("refused")

    with pytest.raises(BrokerUnavailableError, match=r"no management API at http://broker\.example:15672: refused"):
        asyncio.run(answered(refuse).overview())


def test_names_are_escaped_in_paths() -> None:
    seen: list[tuple[str, str]] = []

    def note(method: str, path: str, _headers: dict[str, str]) -> HttpAnswer:
        seen.append((method, path))
        return HttpAnswer(204)

    asyncio.run(answered(note).delete_queue("a/b c"))
    assert seen == [("DELETE", "/api/queues/%2F/a%2Fb%20c")]


ALONE = {"name": "q", "messages_ready": 0, "messages_unacknowledged": 0}
LISTED = {"name": "q", "messages_ready": 3, "messages_unacknowledged": 120}


@pytest.mark.parametrize(
    ("alone", "listed", "held"),
    [
        (ALONE | {"type": "classic"}, [LISTED], (0, 0)),
        (ALONE | {"type": "quorum"}, [LISTED | {"type": "quorum"}], (3, 120)),
        (ALONE | {"type": "quorum"}, [], (None, None)),
        ({"name": "q"}, [LISTED], (3, 120)),  # before RabbitMQ 3.13
    ],
)
def test_what_a_node_that_does_not_lead_a_quorum_queue_tells_of_it_alone_is_not_believed(
    alone: dict[str, Any], listed: list[dict[str, Any]], held: tuple[int | None, int | None]
) -> None:
    def answer(_method: str, path: str, _headers: dict[str, str]) -> HttpAnswer:
        content: object = alone if path.startswith("/api/queues/%2F/q?") else {"items": listed}
        return HttpAnswer(200, json.dumps(content).encode())

    totals = asyncio.run(answered(answer).totals("q"))
    assert (totals.ready, totals.unacked) == held


class Line:
    """Stands for the network: each connection gives the next of ``answers`` and keeps what was sent."""

    def __init__(self, *answers: bytes, failing: Exception | None = None) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []
        self.dialled: list[tuple[str, int, object]] = []
        self.transport = self
        self.aborted = 0
        self._failing = failing

    async def __call__(self, host: str, port: int, *, ssl: object) -> Any:
        if self._failing is not None:
            raise self._failing
        self.dialled.append((host, port, ssl))
        self._reader = asyncio.StreamReader()
        return self._reader, self

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        answer = self.answers.pop(0)
        self._reader.feed_data(answer)
        if not answer.startswith(b"HTTP") or b"close" in answer:
            self._reader.feed_eof()

    async def drain(self) -> None: ...

    async def wait_closed(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None:
        self.aborted += 1


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[]"


def http(line: Line, url: str = "http://[::1]:15672/path/", timeout_s: float = 5.0) -> HttpClient:
    return HttpClient(url, "ann", "s3@cret", timeout_s=timeout_s, connect=line)


def ask(client: HttpClient, times: int = 1) -> list[HttpAnswer]:
    async def asked() -> list[HttpAnswer]:
        return [await client.request("GET", "/api") for _ in range(times)]

    return asyncio.run(asked())


def test_a_request_carries_the_login_and_goes_to_the_address() -> None:
    line = Line(OK)
    assert ask(http(line)) == [HttpAnswer(200, b"[]")]
    assert line.dialled == [("::1", 15672, None)]
    (request,) = line.sent
    assert request.startswith(b"GET /path/api HTTP/1.1\r\nHost: [::1]:15672\r\n")
    assert b"\r\nAuthorization: Basic YW5uOnMzQGNyZXQ=\r\n" in request


def test_a_document_is_sent_as_json() -> None:
    line = Line(OK)
    asyncio.run(http(line).request("PUT", "/api", {"a": 1}, {"X-Reason": "why"}))
    head, _, body = line.sent[0].partition(b"\r\n\r\n")
    assert body == b'{"a": 1}'
    assert {b"Content-Length: 8", b"Content-Type: application/json", b"X-Reason: why"} < set(head.split(b"\r\n"))


@pytest.mark.parametrize(("answer", "connections"), [(OK, 1), (CHUNKED, 1), (CLOSING, 3)])
def test_a_connection_is_used_again_unless_the_server_ends_it(answer: bytes, connections: int) -> None:
    line = Line(answer, answer, answer)
    assert ask(http(line), 3) == [HttpAnswer(200, b"[]")] * 3
    assert len(line.dialled) == connections


def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    line = Line(OK, b"", OK)
    assert ask(http(line), 2) == [HttpAnswer(200, b"[]")] * 2
    assert (len(line.dialled), line.aborted) == (2, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (Line(b""), "closed without an answer"),
        (Line(b"SSH-2.0\r\n\r\n"), "not HTTP"),
        (Line(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\n[]"), "not HTTP"),
        (Line(failing=ConnectionRefusedError(111, "refused")), "refused"),
    ],
)
def test_whatever_is_no_answer_is_an_error_that_says_why(line: Line, words: str) -> None:
    with pytest.raises(NoAnswerError, match=words):
        ask(http(line))


@pytest.mark.parametrize("url", ["http://host:port", "http://:1", "host", "ftp://host"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(NoAnswerError):
        ask(http(Line(OK), url))


def test_an_answer_that_does_not_come_is_an_error_and_its_connection_is_not_used_again() -> None:
    line = Line(b"HTTP/1.1 200")
    with pytest.raises(NoAnswerError, match="no answer within 0 s"):
        ask(http(line, timeout_s=0))
    assert line.aborted == len(line.sent)


def test_tls_is_that_of_the_broker_and_for_https_only() -> None:
    made: list[str] = []
    tls = lambda: made.append("tls") or ssl.create_default_context()  # noqa: E731
    line = Line(OK, OK)
    ask(HttpClient("http://host", "", "", timeout_s=5, tls=tls, connect=line))
    assert made == []
    ask(HttpClient("https://host", "", "", timeout_s=5, tls=tls, connect=line))
    assert (made, [(host, port) for host, port, _ in line.dialled]) == (["tls"], [("host", 80), ("host", 443)])


def test_a_user_in_the_address_logs_in_and_is_not_shown() -> None:
    broker = BrokerSettings(management_url="http://ann:s3%40cret@broker.example:15672", username="bob")
    client = ManagementClient.of(broker)
    assert client is not None
    line = Line(b"HTTP/1.1 500 Whatever\r\nContent-Length: 0\r\n\r\n")
    (http,) = client._http.values()
    http._connect = line
    with pytest.raises(TransportError) as caught:
        asyncio.run(client.overview())
    assert str(caught.value) == "http://broker.example:15672/api/overview: HTTP 500 Internal Server Error"
    assert b"Authorization: Basic YW5uOnMzQGNyZXQ=" in line.sent[0]


def test_a_node_that_does_not_answer_is_left_for_the_next_one() -> None:
    client = ManagementClient("http://one:1,two:2/prefix")
    assert client.url == "http://one:1,two:2/prefix"
    asked: list[str] = []

    def node(name: str, handler: Handler) -> HttpClient:
        def noting(*request: Any) -> HttpAnswer:
            asked.append(name)
            return handler(*request)

        return cast("HttpClient", Server(noting))

    def gone(*_: object) -> HttpAnswer:
        raise NoAnswerError("refused")

    answers = {"one": gone, "two": always(200, "[]")}
    client._http = {server: node(server[0], answers[server[0]]) for server in client._http}
    asyncio.run(client.queues())
    asyncio.run(client.queues())
    assert asked[-2:] == ["two", "two"]
    answers = {"one": gone, "two": gone}
    client._http = {server: node(server[0], answers[server[0]]) for server in client._http}
    with pytest.raises(BrokerUnavailableError, match=r"no management API at http://one:1,two:2/prefix: refused"):
        asyncio.run(client.queues())


def test_whose_api_it_is_is_checked_once_and_nothing_stays_connected() -> None:
    events: list[str] = []

    class Probe:
        async def start(self) -> None:
            events.append("start")

        async def owns(self, _management: object) -> bool:
            return False

        async def stop(self) -> None:
            events.append("stop")

    client = ManagementClient("http://other:15672")
    with pytest.raises(AnotherBrokerError, match="other:15672 is another broker's; set"):
        asyncio.run(client.check_owner(SimpleNamespace(probe=Probe)))  # type: ignore[arg-type]  # as much as it takes
    assert events == ["start", "stop"]
