"""What the control APIs share: request limits, errors as answers, metrics of the requests themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from backpressure import __version__
from backpressure.core.reports import Report
from backpressure.errors import ConfigError, PaceError, TransportError
from backpressure.settings import Settings

__all__ = ["MAX_BODY_BYTES", "create_app", "public_settings", "serve_basics"]

MAX_BODY_BYTES = 8 << 20

Next = Callable[[Request], Awaitable[Response]]


def create_app(title: str, summary: str) -> FastAPI:
    """Return an app whose errors are answers: 422 for what is not allowed, 503 for a broker that is away."""
    app = FastAPI(title=title, summary=summary, version=__version__)

    @app.middleware("http")
    async def limit_body(request: Request, call_next: Next) -> Response:
        length = request.headers.get("content-length", "0")
        if request.method in {"POST", "PUT", "PATCH"}:
            if "content-length" not in request.headers and "transfer-encoding" in request.headers:
                return JSONResponse({"detail": "a Content-Length is needed"}, 411)
            if not length.isdigit() or int(length) > MAX_BODY_BYTES:
                return JSONResponse({"detail": f"at most {MAX_BODY_BYTES} bytes"}, 413)
        return await call_next(request)

    @app.exception_handler(ConfigError)
    async def not_allowed(_: Request, error: ConfigError) -> JSONResponse:
        content: dict[str, Any] = {"detail": str(error), "key": error.key, "allowed": error.allowed}
        return JSONResponse(content, 422)

    @app.exception_handler(TransportError)
    async def broker_away(_: Request, error: TransportError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    @app.exception_handler(PaceError)
    async def failed(_: Request, error: PaceError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    return app


def public_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON, without anything secret in them."""
    content = settings.model_dump(mode="json", exclude={"process"})
    content["broker"]["url"] = settings.broker.address()
    return content


class Health(BaseModel):
    """The process is alive."""

    status: Literal["healthy"] = "healthy"
    timestamp: datetime


class Observed(Protocol):
    """An engine whose counters can be read."""

    def report(self) -> Report:
        """Return the counters now."""


def serve_basics(app: FastAPI, engine: Observed) -> None:
    """Add ``GET /health``."""

    @app.get("/health")
    async def health() -> Health:
        """Say that the process is alive."""
        return Health(timestamp=datetime.now(UTC))
