"""Where the management API is, and the quirks of what it reports."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from backpressure.errors import AccessRefusedError, BrokerUnavailableError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.management_client import ConnectionInfo, ManagementClient, QueueInfo, management_url


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
    young = QueueInfo.model_validate({"name": "q", "policy": None})
    assert (young.messages, young.publish_rate, young.published, young.policy) == (0, 0, 0, "")


def answered(handler: Any) -> ManagementClient:
    client = ManagementClient("http://broker.example:15672")
    client._http = httpx.AsyncClient(base_url=client.url, transport=httpx.MockTransport(handler))
    return client


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx.Response(401, json={"error": "not_authorised", "reason": "Login failed"}), AccessRefusedError, "Login"),
        (httpx.Response(403), AccessRefusedError, "HTTP 403"),
        (httpx.Response(500, text="<html>"), TransportError, "HTTP 500 Internal Server Error"),
        (httpx.Response(400, json={"error": "bad_request", "reason": "Validation failed"}), TransportError, "Valid"),
        (httpx.Response(200, json={"not": "a list"}), TransportError, "something else than expected"),
        (httpx.Response(200, text="<html>"), TransportError, "something else than expected"),
    ],
)
def test_every_bad_answer_is_an_error_of_ours(answer: httpx.Response, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        asyncio.run(answered(lambda _request: answer).queues())


def test_what_reads_an_answer_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = answered(lambda _request: httpx.Response(200, json=[]))

    async def twice() -> None:
        await client.queues()
        monkeypatch.setattr(TypeAdapter, "__init__", None)
        await client.queues()

    asyncio.run(twice())


def test_no_answer_is_a_broker_that_is_not_available() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(BrokerUnavailableError, match=r"no management API at http://broker\.example:15672"):
        asyncio.run(answered(refuse).overview())


def test_a_user_in_the_address_logs_in_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(500)

    http = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **given: http(**given, transport=httpx.MockTransport(refuse)))
    broker = BrokerSettings(management_url="http://ann:s3%40cret@broker.example:15672", username="bob")
    client = ManagementClient.of(broker)
    assert client is not None
    with pytest.raises(TransportError) as caught:
        asyncio.run(client.overview())
    assert str(caught.value) == "http://broker.example:15672/api/overview: HTTP 500 Internal Server Error"
    assert seen == [httpx.BasicAuth("ann", "s3@cret")._auth_header]


def test_names_are_escaped_in_paths() -> None:
    seen: list[str] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(204)

    asyncio.run(answered(note).delete_queue("a/b c"))
    assert seen == ["/api/queues/%2F/a%2Fb%20c"]
