"""The page of an API: every operation with a form, and nothing that comes from anywhere else."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
from calling import calling, consumer_api, producer_api, routes
from virtual_time import run_virtually

from backpressure.api.common import create_app
from backpressure.api.reference.page import page_of


def test_every_operation_is_on_the_page_with_its_example_and_its_answers() -> None:
    async def story() -> list[tuple[str, dict[str, Any]]]:
        seen = []
        for api in (producer_api, consumer_api):
            async with api() as (client, *_):
                seen.append(((await client.get("/docs")).text, (await client.get("/openapi.json")).json()))
        return seen

    for page, document in run_virtually(story()):
        assert document["info"]["title"] in page
        for method, path in routes(document):
            assert f'data-method="{method}" data-path="{path}"' in page
    produce, _ = run_virtually(story())[0]
    assert "&quot;payload&quot;: &quot;Hello&quot;" in produce
    assert "<td>→ 429</td>" in produce
    assert "<td>message id; ours if absent</td>" in produce


def test_the_page_works_without_a_network_and_lets_nobody_frame_it() -> None:
    async def story() -> list[httpx.Response]:
        async with calling(create_app("test", "test")) as client:
            page = await client.get("/docs")
            files = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text)
            return [page, *[await client.get(file) for file in files], await client.get("/docs/other")]

    page, *files, missing = asyncio.run(story())
    assert "//" not in re.sub(r"https?://json-schema\S*", "", page.text)
    assert [file.status_code for file in files] == [200, 200]
    assert missing.status_code == 404
    for answer in (page, *files):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'; base-uri 'none'; form-action 'self'" in policy


def test_what_stands_in_the_document_is_text_on_the_page() -> None:
    evil = "<script>alert(1)</script>"
    operation = {
        "description": evil,
        "parameters": [{"name": evil, "in": "path", "required": True, "schema": {"examples": [evil]}}],
        "requestBody": {"content": {"application/json": {"schema": {"examples": [evil], "properties": {evil: {}}}}}},
        "responses": {"200": {"description": evil}},
    }
    page = page_of({"info": {"title": evil, "version": evil}, "paths": {f"/{evil}": {"post": operation}}})
    assert "alert" in page
    assert evil not in page
