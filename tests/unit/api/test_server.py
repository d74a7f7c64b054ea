"""Serving: on loopback unless a token protects it, on a port that is free, and stopped cleanly."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from typing import Any

import httpx
import pytest
from calling import calling
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from backpressure.api.common import create_app, serve_basics
from backpressure.api.serving import ApiServer
from backpressure.core.addresses import is_loopback
from backpressure.errors import ConfigError, PortTakenError
from backpressure.telemetry.metrics import expose


def small_app() -> FastAPI:
    app = create_app("test", "test")

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    return app


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def serve(app: FastAPI | None = None, **given: Any) -> ApiServer:
    options = {"host": "127.0.0.1", "port": 0, "token": SecretStr(""), "key": "api.host", "flag": "--api-port", **given}
    return ApiServer(app or small_app(), **options)


def test_it_serves_on_a_free_port_and_stops() -> None:
    async def story() -> tuple[str, str]:
        server = serve()
        async with server, httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{server.url}/hello")
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{server.url}/hello")
        return answer.json(), server.url

    text, url = asyncio.run(story())
    assert text == "hello"
    assert url.startswith("http://127.0.0.1:")


def test_methods_that_do_not_exist_add_no_series() -> None:
    app, registry = create_app("test", "test"), CollectorRegistry()

    async def nothing() -> str:
        return ""

    serve_basics(app, registry, nothing)

    async def story() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as client:
            for method in ("GET", "FOO1", "FOO2"):
                await client.request(method, "/health")

    asyncio.run(story())
    counted = re.findall(r'duration_seconds_count\{endpoint="/health",method="(\w+)"', expose(registry).decode())
    assert sorted(counted) == ["GET", "other"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"authorization": "hunter2"}, 401),
        ({"authorization": "Basic hunter2"}, 401), ({"authorization": "Bearer hunter2"}, 200),
        ({"authorization": "Bearer hunter2 "}, 401), ({"authorization": "bearer hunter2"}, 200),
        ({"authorization": basic("anybody", "hunter2")}, 200), ({"authorization": basic("", "hunter2")}, 200),
        ({"authorization": basic("hunter2", "")}, 401), ({"authorization": basic("anybody", "wrong")}, 401),
        ({"authorization": basic("anybody", "hunter2").replace("Basic", "Digest")}, 401),
        ({"authorization": "Basic !!!"}, 401), ({"authorization": "Basic"}, 401), ({"authorization": "Bearer"}, 401),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/hello", "/docs", "/openapi.json"])
def test_with_a_token_every_request_needs_it(given: dict[str, str], status: int, path: str) -> None:
    async def story() -> httpx.Response:
        app = small_app()
        server = serve(app, token=SecretStr("hunter2"))
        async with calling(app, **given) as client:
            answer = await client.get(path)
        await server.stop()
        return answer

    answer = asyncio.run(story())
    assert answer.status_code == status
    assert "hunter2" not in answer.text
    if status == 401:
        assert answer.headers.get_list("WWW-Authenticate") == ["Bearer", 'Basic realm="pace", charset="UTF-8"']


@pytest.mark.parametrize("token", ["", "hunter2"])
def test_the_document_mentions_the_token_when_there_is_one_and_not_which(token: str) -> None:
    async def story() -> dict[str, Any]:
        app = small_app()
        server = serve(app, token=SecretStr(token))
        await server.stop()
        return app.openapi()

    document = asyncio.run(story())
    assert document.get("security", []) == ([{"bearer": []}, {"basic": []}] if token else [])
    assert ("401" in document["paths"]["/hello"]["get"]["responses"]) == bool(token)
    assert "hunter2" not in str(document)


def test_an_unsupported_method_is_answered_with_the_supported_ones() -> None:
    async def story() -> tuple[int, str]:
        app = small_app()
        app.add_api_route("/hello", lambda: "changed", methods=["POST"])
        async with calling(app) as client:
            answer = await client.delete("/hello")
            return answer.status_code, answer.headers["allow"]

    assert asyncio.run(story()) == (405, "GET, POST")


def test_no_other_site_may_read_an_answer() -> None:
    async def story() -> list[httpx.Headers]:
        app = small_app()
        server = serve(app)
        origin = {"host": "localhost", "origin": "http://evil.example"}
        async with calling(app) as client:
            asked = {**origin, "access-control-request-method": "POST"}
            answers = [await client.get("/hello", headers=origin), await client.options("/hello", headers=asked)]
        await server.stop()
        return [answer.headers for answer in answers]

    assert not any(name.startswith("access-control-") for headers in asyncio.run(story()) for name in headers)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def noting(given: bytes, secret: bytes) -> bool:
        compared.append((given, secret))
        return False

    monkeypatch.setattr("hmac.compare_digest", noting)

    async def story() -> int:
        app = small_app()
        server = serve(app, token=SecretStr("hunter2"))
        async with calling(app, authorization="Bearer hunter2") as client:
            answer = await client.get("/hello")
        await server.stop()
        return answer.status_code

    assert asyncio.run(story()) == 401  # nothing but this comparison decides
    assert compared == [(b"hunter2", b"hunter2")]


def test_a_token_beyond_ascii_is_accepted_in_both_forms() -> None:
    async def story() -> list[int]:
        app = small_app()
        server = serve(app, token=SecretStr("naïve"))
        headers = ("Bearer naïve".encode(), basic("me", "naïve").encode(), b"Bearer nave")
        async with calling(app) as client:
            answers = [await client.get("/hello", headers=[(b"authorization", header)]) for header in headers]
        await server.stop()
        return [answer.status_code for answer in answers]

    assert asyncio.run(story()) == [200, 200, 401]


@pytest.mark.parametrize(
    ("method", "origin", "host", "status"),
    [
        ("POST", None, "localhost:8000", 200), ("POST", "http://localhost:8000", "localhost:8000", 200),
        ("POST", "http://[::1]:8000", "[::1]:8000", 200), ("POST", "http://evil.example", "localhost:8000", 403),
        ("POST", "http://localhost:81", "localhost:8000", 403), ("POST", "null", "localhost:8000", 403),
        ("DELETE", "http://evil.example", "localhost:8000", 403), ("GET", "http://evil.example", "localhost", 200),
        ("POST", "http://evil.example", "evil.example", 421), ("POST", "http://[::1", "localhost:8000", 403),
    ],
)  # fmt: skip
def test_a_page_of_another_site_can_change_nothing(method: str, origin: str | None, host: str, status: int) -> None:
    async def story() -> int:
        app = small_app()
        app.add_api_route("/change", lambda: "changed", methods=["GET", "POST", "DELETE"])
        server = serve(app)
        async with calling(app) as client:
            sender = {"origin": origin} if origin else {}
            answer = await client.request(method, "/change", headers={"host": host, **sender})
        await server.stop()
        return answer.status_code

    assert asyncio.run(story()) == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("LOCALHOST", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 421),
        ("evil.example:8000", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("[::1", 421),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_without_a_token_nothing_is_answered_under_a_name_that_is_not_this_machines(
    method: str, host: str, status: int
) -> None:
    async def story(token: str) -> int:
        app = small_app()
        app.add_api_route("/read", lambda: "secret", methods=["GET", "HEAD", "POST"], include_in_schema=False)
        server = serve(app, token=SecretStr(token))
        async with calling(app, authorization="Bearer hunter2") as client:
            answer = await client.request(method, "/read", headers={"host": host})
        await server.stop()
        return answer.status_code

    assert asyncio.run(story("")) == status
    assert asyncio.run(story("hunter2")) == 200


def test_a_refused_request_is_not_answered_otherwise_even_when_its_body_is_too_large() -> None:
    async def story() -> int:
        app = small_app()
        server = serve(app, token=SecretStr("hunter2"))
        async with calling(app) as client:
            answer = await client.post("/hello", headers={"content-length": "999999999"}, content=b"")
        await server.stop()
        return answer.status_code

    assert asyncio.run(story()) == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])
def test_on_an_address_others_can_reach_it_does_not_start_without_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match=r"api\.token") as caught:
        serve(host=host, key="monitor.host")
    assert caught.value.key == "monitor.host"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_taken_port_is_named_with_the_flag_that_chooses_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"port {port} on 127\.0\.0\.1.*--api-port") as caught:
            serve(port=port)
    assert (caught.value.port, caught.value.flag, caught.value.exit_code) == (port, "--api-port", 3)


def test_an_address_that_is_not_this_machines_is_not_called_a_taken_port() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1.*cannot listen"):
        serve(host="192.0.2.1", token=SecretStr("hunter2"))
