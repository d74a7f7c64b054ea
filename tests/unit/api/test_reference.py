"""An API's reference page: Swagger UI from an installed package, and nothing from elsewhere."""

from __future__ import annotations

import asyncio
import re

import httpx
from calling import calling

from backpressure.api.common import create_app


def test_the_page_works_without_a_network_and_not_in_a_frame() -> None:
    async def story() -> list[httpx.Response]:
        async with calling(create_app("test", "test")) as client:
            page = await client.get("/docs")
            files = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text)
            return [page, *[await client.get(file) for file in files], await client.get("/docs/other")]

    page, *files, missing = asyncio.run(story())
    assert "//" not in page.text
    assert [file.status_code for file in files] == [200, 200, 200]
    assert missing.status_code == 404
    for answer in (page, *files):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'; base-uri 'none'; form-action 'self'" in policy


def test_the_page_shows_the_document_of_its_own_server_and_asks_no_other_to_check_it() -> None:
    async def story() -> str:
        async with calling(create_app("test", "test")) as client:
            return (await client.get("/docs/reference.js")).text

    script = asyncio.run(story())
    assert 'url: "/openapi.json"' in script
    assert "validatorUrl: null" in script


def test_the_title_is_text_on_the_page() -> None:
    async def story() -> str:
        async with calling(create_app("<script>alert(1)</script>", "test")) as client:
            return (await client.get("/docs")).text

    assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>" in asyncio.run(story())
