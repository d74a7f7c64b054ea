"""Serves one FastAPI app inside a running event loop, on loopback unless a token protects it.

A token comes as ``Authorization: Bearer <token>`` from programs, and as the password of HTTP Basic (any user name) from
browsers, which ask for it themselves. A browser also adds it to requests that pages of other sites
trigger, so requests that change anything are refused when they come from another origin. Without a token, only requests
to this machine's own names are answered.

Pages, and the files they load, have headers that let a browser load nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hmac
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Self

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backpressure.core.addresses import bracketed, is_from_other_site, is_loopback, names_this_machine
from backpressure.errors import ConfigError, PortTakenError
from backpressure.presentation import installed_file

Next = Callable[[Request], Awaitable[Response]]

_STOP_TIMEOUT_S = 3
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
MAX_BODY_BYTES = 8 << 20
_TOO_LARGE = f"at most {MAX_BODY_BYTES} bytes"


def security_headers() -> dict[str, str]:
    """Return headers that allow no other origin: neither to load from, nor to embed the page."""
    return {
        "Content-Security-Policy": (
            "default-src 'self'; style-src 'self'; img-src 'self' data:; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


class Page:
    """``index.html``, and below ``/assets`` all files by their names."""

    def __init__(self, app: FastAPI, assets: Mapping[str, Path]) -> None:
        """Serve ``assets`` from ``app``."""
        self._index = assets["index.html"]
        self._headers = security_headers()

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


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
    """One app on one address; ``async with ApiServer(…)`` serves it until the block ends."""

    def __init__(self, app: FastAPI, *, host: str, port: int, token: SecretStr, key: str, flag: str) -> None:
        """Bind the address at once, so that nothing is half started.

        Args:
            app: what to serve.
            host: address to bind; any other than loopback needs a token.
            port: 0 picks a free one.
            token: when not empty, every request needs it.
            key: the setting that ``host`` comes from, named when it is not allowed.
            flag: the option that chooses another port, named when this one is taken.

        Raises:
            ConfigError: not loopback, and no token; or no address of this machine.
            PortTakenError: somebody else listens there.
        """
        secret = token.get_secret_value()
        if not secret and not is_loopback(host):
            raise ConfigError(key, host, "an address others can reach needs api.token (PACE_API__TOKEN)")
        _refuse_other_origins(app, any_name=bool(secret))
        if secret:
            _require_token(app, secret.encode())
        self._socket = _bind(host, port, key, flag)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{bracketed(host)}:{self.port}"
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=_STOP_TIMEOUT_S, ws="none"
        )
        self._server = _QuietServer(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve in a task of its own; returns once requests are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn offers a flag, no event
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Finish the requests under way, within three seconds, and close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _bind(host: str, port: int, key: str, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off for sockets that say so, and only for those.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # Windows would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(host, port, flag) from None
        raise ConfigError(key, host, f"cannot listen there on port {port}: {error.strerror}") from None
    listener.listen(128)
    return listener


def _refuse_other_origins(app: FastAPI, *, any_name: bool) -> None:
    """Refuse requests from other sites' pages that change anything.

    Without a token, every request must use one of this machine's own names: a site can point its name at our address,
    and its pages could then read our answers.
    """

    @app.middleware("http")
    async def check(request: Request, call_next: Next) -> Response:
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if not any_name and not names_this_machine(host):
            return JSONResponse({"detail": "without api.token it answers under localhost or 127.0.0.1 only"}, 421)
        if is_from_other_site(request.method, origin, host):
            return JSONResponse({"detail": "pages of other sites may change nothing here"}, 403)
        return await call_next(request)


def _require_token(app: FastAPI, secret: bytes) -> None:
    _document_token(app)

    @app.middleware("http")
    async def check(request: Request, call_next: Next) -> Response:
        if not hmac.compare_digest(_given_token(request.headers.get("authorization", "")), secret):
            refusal = JSONResponse({"detail": "missing or wrong token"}, 401, {"WWW-Authenticate": "Bearer"})
            refusal.headers.append("WWW-Authenticate", 'Basic realm="pace", charset="UTF-8"')
            return refusal
        return await call_next(request)


def _document_token(app: FastAPI) -> None:
    """Say in the app's OpenAPI document what every request needs. FastAPI keeps the only copy of it."""
    document = app.openapi()
    schemes = {scheme: {"type": "http", "scheme": scheme} for scheme in ("bearer", "basic")}
    document.setdefault("components", {})["securitySchemes"] = schemes
    document["security"] = [{scheme: []} for scheme in schemes]
    for path in document.get("paths", {}).values():
        for operation in path.values():
            operation["responses"]["401"] = {"description": "missing or wrong token"}


def _given_token(authorization: str) -> bytes:
    """Return the token in the header's value; nothing when there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.encode("latin-1")  # headers are bytes: this is how they were decoded
    if scheme.lower() != "basic":
        return b""
    try:
        _, _, password = base64.b64decode(credentials, validate=True).partition(b":")
    except ValueError:
        return b""
    return password


class BodyLimit:
    """Answers 413 to a body that is too large, by its header or as it arrives."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; see ASGI."""
        length = Headers(scope=scope).get("content-length", "0") if scope["type"] == "http" else "0"
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            await JSONResponse({"detail": _TOO_LARGE}, 413)(scope, receive, send)
            return
        read_bytes = 0

        async def counted() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self._app(scope, counted, send)
