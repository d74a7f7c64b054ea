"""The management API's HTTP, octet by octet on a fake transport: whatever arrives is answered, within limits."""

from __future__ import annotations

import base64
import errno
import json
import random
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import h11
import pytest

from backpressure.broker import web
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.management import ManagementApi
from backpressure.broker.vhost import VirtualHost
from backpressure.broker.web import WebServer, end_output

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LOGIN = b"Authorization: Basic " + base64.b64encode(b"guest:guest") + b"\r\n"


class Later:
    """A timer of the fake event loop."""

    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s, self.callback = due_s, callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop's timers, on a clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Later] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Later:
        self.timers.append(Later(self.now + seconds, callback))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.due_s <= self.now]
        self.timers = [timer for timer in self.timers if timer.due_s > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.callback()


class Client:
    """A connection, as the client sees it; ``reading`` False lets no answer leave."""

    def __init__(self, server: WebServer) -> None:
        self.received = b""
        self.closed = False
        self.half_closed = False
        self.reading = True
        self._protocol = cast("asyncio.Protocol", server.connection())
        self._protocol.connection_made(cast("asyncio.Transport", self))

    def send(self, *parts: bytes) -> Client:
        for part in parts:
            self._protocol.data_received(part)
        return self

    def shut(self) -> Client:
        self._protocol.eof_received()
        return self

    def pause(self) -> None:
        self._protocol.pause_writing()

    def resume(self) -> None:
        self._protocol.resume_writing()

    def answers(self, *methods: bytes) -> list[tuple[int, dict[str, str], bytes]]:
        """Status, headers and body of everything received since the last call; ``methods`` are what was asked."""
        found = []
        for method in methods:
            reader = h11.Connection(h11.CLIENT)
            reader.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
            reader.send(h11.EndOfMessage())
            reader.receive_data(self.received)
            head: Any = reader.next_event()
            while isinstance(head, h11.InformationalResponse):
                head = reader.next_event()
            assert isinstance(head, h11.Response), head
            body = b""
            while isinstance(event := reader.next_event(), h11.Data):
                body += event.data
            assert isinstance(event, h11.EndOfMessage)
            self.received = reader.trailing_data[0]
            headers = {name.decode(): value.decode() for name, value in head.headers}
            found.append((head.status_code, headers, body))
        assert not self.received
        return found

    # -- asyncio.Transport ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        assert not self.closed
        assert not self.half_closed
        self.received += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.closed = True


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def server(loop: Loop) -> WebServer:
    api = ManagementApi(VirtualHost(), SessionConfig(), lambda: loop.now, list)
    return WebServer(api.handle, loop.call_later)


@pytest.fixture
def client(server: WebServer) -> Client:
    return Client(server)


def request(
    target: str = "/api/overview", method: str = "GET", body: bytes = b"", *, host: str = "localhost", more: bytes = b""
) -> bytes:
    length = f"Content-Length: {len(body)}\r\n".encode() if body else b""
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n".encode() + LOGIN + length + more + b"\r\n" + body


def ask(client: Client, *arguments: Any, **options: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    client.send(request(*arguments, **options))
    [(status, headers, body)] = client.answers(b"GET")
    return status, headers, json.loads(body) if body else {}


def test_requests_on_one_connection_are_answered_in_order_a_byte_at_a_time(client: Client) -> None:
    stream = request("/api/whoami") + request("/api/nothing") + request("/api/whoami")
    client.send(*(stream[i : i + 1] for i in range(len(stream))))
    assert [status for status, _, _ in client.answers(b"GET", b"GET", b"GET")] == [200, 404, 200]


def test_a_head_request_gets_the_headers_of_the_get(client: Client) -> None:
    client.send(request(), request(method="HEAD"))
    (status, headers, body), (same_status, same_headers, nothing) = client.answers(b"GET", b"HEAD")
    assert (status, same_status) == (200, 200)
    assert headers == same_headers
    assert int(headers["content-length"]) == len(body)
    assert not nothing


def test_a_method_that_is_not_served_is_answered_with_those_that_are(client: Client) -> None:
    status, headers, _ = ask(client, "/api/policies/%2F/name", "POST")
    assert (status, headers["allow"]) == (405, "HEAD, GET, PUT, DELETE, OPTIONS")
    status, headers, _ = ask(client, "/api/policies/%2F/name", "OPTIONS")
    assert (status, headers["allow"]) == (200, "HEAD, GET, PUT, DELETE, OPTIONS")


@pytest.mark.parametrize("target", ["//[", "*", "http://[/api/overview", "/api//[", "/api/queues/%2F/%ff%fe", "/%"])
def test_a_target_that_means_nothing_is_not_found(client: Client, target: str) -> None:
    assert ask(client, target)[0] == 404


POLICY = {"pattern": "", "definition": {"max-length": 1}}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"pattern": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"pattern": ' + b"[" * 400 + b"]" * 400 + b', "definition": {"max-length": 1}}',
        b"\xff\xfe",
        b'{"pattern": "\\ud800", "definition": {"max-length": 1}}',
        json.dumps({**POLICY, "apply-to": []}).encode(),
        json.dumps({**POLICY, "apply-to": {"all": 1}}).encode(),
        json.dumps({**POLICY, "apply-to": "everything"}).encode(),
        json.dumps({**POLICY, "pattern": ["a"]}).encode(),
        json.dumps({**POLICY, "priority": True}).encode(),
        json.dumps({**POLICY, "priority": "1"}).encode(),
        json.dumps({"pattern": "", "definition": {"overflow": ["drop-head"]}}).encode(),
        b'{"pattern": "", "definition": {"max-length": 1}, "priority": ' + b"9" * 5000 + b"}",
        b'{"pattern": "", "definition": {"max-length": NaN}}',
        b"null",
        b"",
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_a_reason(client: Client, body: bytes) -> None:
    status, _, document = ask(client, "/api/policies/%2F/name", "PUT", body)
    assert status == 400
    assert document["error"] == "bad_request"
    assert document["reason"]
    assert not ask(client, "/api/policies")[2]


@pytest.mark.parametrize("name", ["confirm_delay_ms", "drop_every_s", "nack_share"])
def test_a_fault_of_four_hundred_digits_is_refused(client: Client, name: str) -> None:
    for number in (b"9" * 400, b"1e999", b"-" + b"9" * 400, b"1e300"):
        assert ask(client, "/api/faults", "PUT", b'{"%s": %s}' % (name.encode(), number))[0] == 400


def test_a_fault_of_the_broker_costs_one_request(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("inner")

    client = Client(WebServer(fail, loop.call_later))
    assert ask(client)[0] == 500
    assert "KeyError: 'inner'" in capsys.readouterr().err
    assert ask(client)[0] == 500


def test_a_number_that_json_has_no_word_for_is_shown_as_text(loop: Loop) -> None:
    answer = web.Answer(HTTPStatus.OK, {"a": [float("nan")], "b": float("inf"), "c": 1.5})
    client = Client(WebServer(lambda *_: answer, loop.call_later))
    assert ask(client)[2] == {"a": ["nan"], "b": "inf", "c": 1.5}


def test_octets_that_are_not_utf8_are_shown_as_rabbitmq_shows_them(loop: Loop) -> None:
    shown = {"caf\udce9": ["caf\udce9", {"a": "\udcff"}], "é": "日 \U0001f600"}
    client = Client(WebServer(lambda *_: web.Answer(HTTPStatus.OK, shown), loop.call_later))
    assert ask(client)[2] == {
        "caf\ufffd": ["Not UTF-8, base64 is: Y2Fm6Q==", {"a": "Not UTF-8, base64 is: /w=="}],
        "é": "日 \U0001f600",
    }


@pytest.mark.parametrize("host", ["localhost", "localhost:15672", "127.0.0.1:1", "127.8.9.10", "[::1]:15672"])
def test_it_answers_under_the_names_of_this_machine(client: Client, host: str) -> None:
    assert ask(client, host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:15672", "localhost.evil.example", "10.0.0.1", "[", ""])
def test_it_answers_under_no_other_name(client: Client, host: str) -> None:
    assert ask(client, host=host)[0] == 421


def test_a_page_of_another_site_changes_nothing_and_one_of_its_own_may(client: Client) -> None:
    target, method = "/api/faults/drop-connections", "POST"
    for origin in (b"http://evil.example", b"null", b"http://localhost:8000", b"http://["):
        assert ask(client, target, method, more=b"Origin: " + origin + b"\r\n")[0] == 403
    assert ask(client, target, method, more=b"Origin: http://localhost\r\n")[0] == 200
    assert ask(client, "/api/overview", more=b"Origin: http://evil.example\r\n")[0] == 200


def test_a_body_larger_than_allowed_is_refused_while_the_client_still_sends(client: Client) -> None:
    size = web.MAX_BODY_BYTES + 1
    client.send(f"PUT /api/faults HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size + 9}\r\n\r\n".encode())
    client.send(bytes(size), b"more")
    [(status, headers, _)] = client.answers(b"PUT")
    assert (status, headers["connection"]) == (413, "close")
    assert client.half_closed
    assert not client.closed  # it goes on reading for a moment, so that the answer is not lost


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(client: Client) -> None:
    client.send(
        b"PUT /api/faults HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
        + LOGIN
        + b"\r\n"
    )
    assert client.received.startswith(b"HTTP/1.1 100 ")
    client.send(b"{}")
    assert client.answers(b"PUT")[0][0] == 200


def test_a_client_that_says_nothing_is_cut(loop: Loop, client: Client) -> None:
    loop.advance(web.REQUEST_TIMEOUT_S - 1)
    assert (client.closed, client.received) == (False, b"")
    loop.advance(1)
    assert (client.closed, client.received) == (True, b"")


def test_half_a_request_is_answered_when_its_time_is_up_however_it_trickles(loop: Loop, client: Client) -> None:
    for octet in b"GET /a":
        loop.advance(web.REQUEST_TIMEOUT_S / 7)
        client.send(bytes((octet,)))
    loop.advance(web.REQUEST_TIMEOUT_S / 7)
    assert client.answers(b"GET")[0][0] == 408
    loop.advance(web.LINGER_TIMEOUT_S)
    assert client.closed


def test_a_body_that_never_comes_is_answered_when_its_time_is_up(loop: Loop, client: Client) -> None:
    client.send(b"PUT /api/faults HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n" + LOGIN + b"\r\n")
    loop.advance(web.REQUEST_TIMEOUT_S)
    assert client.answers(b"PUT")[0][0] == 408


def test_a_client_may_rest_between_two_requests_but_not_forever(loop: Loop, client: Client) -> None:
    assert ask(client)[0] == 200
    loop.advance(web.IDLE_TIMEOUT_S - 1)
    assert ask(client)[0] == 200
    loop.advance(web.IDLE_TIMEOUT_S)
    assert client.closed


def test_half_a_request_and_no_more_is_answered(client: Client) -> None:
    client.send(b"GET /api/overview HT").shut()
    assert client.answers(b"GET")[0][0] == 400


def test_one_connection_too_many_costs_the_one_that_was_silent_the_longest(server: WebServer) -> None:
    clients = [Client(server) for _ in range(web.MAX_CONNECTIONS)]
    assert ask(clients[0])[0] == 200
    assert ask(Client(server))[0] == 200
    assert [number for number, client in enumerate(clients) if client.closed] == [1]


def test_a_client_that_does_not_read_its_answers_is_not_read_from(client: Client) -> None:
    client.send(request())
    client.pause()
    client.send(request(), request())
    assert (client.reading, len(client.answers(b"GET"))) == (False, 1)
    client.resume()
    assert (client.reading, len(client.answers(b"GET", b"GET"))) == (True, 2)


def test_the_end_of_a_connection_stops_its_timer(loop: Loop, client: Client) -> None:
    client._protocol.connection_lost(None)
    loop.advance(1000)
    assert not client.closed  # nothing was aborted: there is nothing left to abort


METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "BREW"]
WORDS = [
    *("api", "queues", "exchanges", "bindings", "policies", "faults", "drop-connections", "connections", "overview"),
    *(
        "%2F",
        "%2f",
        "/",
        "nodes",
        "whoami",
        "contents",
        "consumers",
        "a",
        "",
        "..",
        "%",
        "%00",
        "%ff",
        "[",
        "?",
        "&=",
        "#",
    ),
    *("users", "vhosts", "permissions", "definitions", "health", "checks", "publish", "get", "e", "q", "amq.default"),
    *(
        "channels",
        "guest",
        "amq.topic",
        "source",
        "port-listener",
        "?page=1",
        "?page=1&page_size=2&name=(&use_regex=true",
    ),
    *("?sort=arguments.x&columns=name", "x" * 300),
]
PATHS = [
    *("queues/%2F/a", "queues/%2F/a/get", "queues/%2F/a/bindings", "exchanges/%2F/x", "exchanges/%2F/x/publish"),
    *("exchanges/%2F/amq.default/publish", "bindings/%2F/e/amq.topic/q/a", "bindings/%2F/e/amq.topic/q/a/k", "users/u"),
    *("policies/%2F/p", "permissions/%2F/guest", "vhosts/v", "definitions", "faults", "health/checks/port-listener/5"),
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 10**400, -(10**400), 1e308, "", "a", "\ud800", "x" * 300, [], {}, [[]], {"a": {}}, "("),
    *("all", "queues", "drop-head", "^a", "string", "base64", "auto", "ack_requeue_true", "topic", "k", ".*", "YQ=="),
]
KEYS = [
    *("pattern", "definition", "apply-to", "priority", "max-length", "message-ttl", "overflow", "expires", "x"),
    *("dead-letter-exchange", "nack_share", "confirm_delay_ms", "memory_alarm", "drop_every_s", "stall_reads"),
    *("routing_key", "payload", "payload_encoding", "properties", "headers", "count", "ackmode", "encoding", "CC"),
    *("queues", "exchanges", "bindings", "policies", "name", "type", "arguments", "durable", "password", "tags"),
    *(
        "configure",
        "write",
        "read",
        "destination",
        "vhost",
        "x-max-length",
        "x-max-priority",
        "expiration",
        "timestamp",
    ),
]


def _value(chance: random.Random, depth: int = 0) -> Any:
    if depth < 3 and chance.random() < 0.4:
        return {chance.choice(KEYS): _value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return chance.choice(VALUES)


def _generated(chance: random.Random) -> tuple[bytes, bytes]:
    method = chance.choice(METHODS)
    target = "/" + "/".join(["api"] * chance.randrange(2) + chance.choices(WORDS, k=chance.randrange(5)))
    if chance.random() < 0.5:
        target = "/api/" + chance.choice(PATHS)
    document = {chance.choice(KEYS): _value(chance) for _ in range(chance.randrange(9))}
    body = json.dumps(chance.choice([document, document, _value(chance)])).encode()
    match chance.randrange(6):
        case 0:
            body = body[: chance.randrange(len(body) + 1)]
        case 1:
            body = chance.choice([b"[", b'{"a":']) * 20_000
        case 2:
            body = chance.randbytes(20)
        case _:
            pass
    more = chance.choice([b"", b"Origin: http://localhost\r\n", b"X-Reason: \xff\xfe\r\n", b"Connection: close\r\n"])
    octets = bytearray(request(target, method, body, more=more))
    if chance.random() < 0.2:  # a request that is not HTTP any more
        octets[chance.randrange(min(len(octets), 120))] = chance.randrange(256)
    return method.encode(), bytes(octets)


def test_each_of_thousands_of_generated_requests_is_answered(server: WebServer, loop: Loop) -> None:
    chance = random.Random(12)
    statuses: dict[int, int] = {}
    for number in range(6000):
        method, octets = _generated(chance)
        client = Client(server).send(octets)
        loop.advance(web.REQUEST_TIMEOUT_S)
        assert client.received, octets
        status = int(client.received.split()[1])
        if client.received.startswith(b"HTTP/1.1 100"):
            status = int(client.received.split(b"\r\n\r\n", 1)[1].split()[1])
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500 or status in {501, 503}, (number, method, octets)
    assert statuses.keys() >= {200, 201, 204, 400, 401, 404, 405, 421}


def test_a_connection_that_was_reset_meanwhile_has_no_output_to_end() -> None:
    class Reset:
        def can_write_eof(self) -> bool:
            return True

        def write_eof(self) -> None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    assert not end_output(cast("asyncio.Transport", Reset()))
