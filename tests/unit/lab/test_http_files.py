"""docs/http/*.http have a request for every endpoint, and each works."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from calling import calling, consumer_api, producer_api, routes
from lab_stage import lab_on
from virtual_time import run_virtually

from backpressure.lab.app import lab_app
from backpressure.settings import ApiSettings

FOLDER = Path(__file__).parents[3] / "docs" / "http"
PORTS = {name: getattr(ApiSettings(), f"{name}_port") for name in ("producer", "consumer", "lab")}


@dataclass(frozen=True)
class Request:
    """One request of a file."""

    title: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any


def requests_of(name: str) -> Iterator[Request]:
    """Parse a file: a variable, then requests, each below a line that begins with ###."""
    head, *parts = re.split(r"^### ", (FOLDER / f"{name}.http").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert re.findall(r"^@(\w+) = (\S+)$", head, re.MULTILINE) == [(name, f"http://localhost:{PORTS[name]}")]
    for part in parts:
        description, _, body = part.partition("\n\n")
        title, line, *headers = description.strip().splitlines()
        found = re.fullmatch(rf"(GET|POST|DELETE) \{{\{{{name}\}}\}}(/\S*)", line)
        assert found is not None, line
        content = json.loads(body) if body.strip() else None
        yield Request(title, found[1], found[2], dict(header.split(": ", 1) for header in headers), content)


@asynccontextmanager
async def running(name: str, stage: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of one of the three services, at work on a broker in memory."""
    if name == "lab":
        lab = lab_on(stage)
        async with calling(lab_app(lab)) as client:
            yield client
        await lab.close()
    else:
        async with {"producer": producer_api, "consumer": consumer_api}[name]() as (client, *_):
            yield client


@pytest.mark.parametrize("name", PORTS)
def test_every_endpoint_has_a_request_with_a_title_of_its_own(name: str, stage: Any) -> None:
    async def story() -> Any:
        async with running(name, stage) as client:
            return (await client.get("/openapi.json")).json()

    requests = list(requests_of(name))
    assert len({request.title for request in requests}) == len(requests)
    for method, template in routes(run_virtually(story())):
        pattern = re.sub(r"\{\w+\}", "[^/]+", template)
        assert [r for r in requests if r.method == method and re.fullmatch(pattern, r.path)], f"{method} {template}"


@pytest.mark.parametrize("name", PORTS)
def test_every_request_reaches_an_endpoint_that_understands_it(name: str, stage: Any) -> None:
    async def story() -> None:
        async with running(name, stage) as client:
            for request in requests_of(name):
                assert request.headers == ({} if request.body is None else {"Content-Type": "application/json"})
                answer = await client.request(request.method, request.path, json=request.body)
                # The lab on this stage has no worker processes: it may refuse to start or to kill one.
                expected = (
                    {200, 409} if "/workers/start" in request.path else {200, 404} if "/kill" in request.path else {200}
                )
                assert answer.status_code in expected, f"{request.title}: {answer.status_code} {answer.text}"
                assert answer.text != '{"detail":"Not Found"}', request.title

    run_virtually(story())
