"""Serves the page and the two files it loads."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse

from backpressure.api.pages import security_headers
from backpressure.api.reference.page import page_of

__all__ = ["serve_reference"]

_FILES = {name: Path(__file__).with_name(name) for name in ("reference.css", "reference.js")}


def serve_reference(app: FastAPI) -> None:
    """Add ``GET /docs`` to ``app``."""

    @app.get("/docs", include_in_schema=False)
    async def reference() -> HTMLResponse:
        return HTMLResponse(page_of(app.openapi()), headers=security_headers())

    @app.get("/docs/{name}", include_in_schema=False)
    async def file(name: str) -> FileResponse:
        if name not in _FILES:
            raise HTTPException(404, f"no file {name!r}")
        return FileResponse(_FILES[name], headers=security_headers())
