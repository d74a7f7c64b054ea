"""Pages and the files they load, with headers that let a browser load nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse

from backpressure.presentation import installed_file

__all__ = ["Page", "security_headers", "serve_reference"]

_REFERENCE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{title}</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/docs/swagger-ui.css">
  <script src="/docs/swagger-ui-bundle.js" defer></script>
  <script src="/docs/reference.js" defer></script>
</head>
<body><div id="reference"></div></body>
</html>
"""


def security_headers(*, styles: str = "'self'") -> dict[str, str]:
    """Return headers that allow no other origin: neither to load from, nor to embed the page."""
    return {
        "Content-Security-Policy": (
            f"default-src 'self'; style-src {styles}; img-src 'self' data:; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


class Page:
    """``index.html``, and below ``/assets`` all files by their names."""

    def __init__(self, app: FastAPI, assets: Mapping[str, Path], *, styles: str = "'self'") -> None:
        """Serve ``assets`` from ``app``; ``styles`` is where styles may come from (Content Security Policy)."""
        self._index = assets["index.html"]
        self._headers = security_headers(styles=styles)

        @app.get("/assets/{name}", include_in_schema=False)
        async def asset(name: str) -> FileResponse:
            return _answer(assets, name, self._headers)

    def answer(self, **headers: str) -> FileResponse:
        """Return the page itself, with further ``headers``."""
        return FileResponse(self._index, headers=self._headers | headers)


def serve_reference(app: FastAPI) -> None:
    """Add ``GET /docs``: Swagger UI with every operation of ``app``, from its OpenAPI document.

    FastAPI's own page loads Swagger UI from another server: it is blank without a network, and runs foreign code with
    access to the controls. This one takes the files from the installed package fastapi-swagger, without importing it.
    """
    headers = security_headers()

    @app.get("/docs", include_in_schema=False)
    async def reference() -> HTMLResponse:
        return HTMLResponse(_REFERENCE.format(title=escape(app.title)), headers=headers)

    @app.get("/docs/{name}", include_in_schema=False)
    async def file(name: str) -> FileResponse:
        return _answer(_reference_files(), name, headers)


def _reference_files() -> Mapping[str, Path]:
    files = {"reference.js": Path(__file__).with_name("reference.js")}
    scripts = ("swagger-ui.css", "swagger-ui-bundle.js")
    return files | {name: installed_file("fastapi_swagger", f"resources/{name}") for name in scripts}


def _answer(files: Mapping[str, Path], name: str, headers: Mapping[str, str]) -> FileResponse:
    if name not in files:
        raise HTTPException(404, f"no file {name!r}")
    return FileResponse(files[name], headers={**headers, "Cache-Control": "max-age=3600"})
