"""What the control APIs share: request limits, errors as answers, metrics of the requests themselves."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPMethod
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from starlette.routing import Match, Route

from backpressure.api.serving import BodyLimit, serve_reference
from backpressure.catalogue import find_field, former_name_notices
from backpressure.errors import (
    ConfigError,
    PaceError,
    PreconditionFailedError,
    RefusedError,
    TransportError,
    UnsupportedError,
)
from backpressure.settings import LIVE, Settings, is_live
from backpressure.telemetry.metrics import CONTENT_TYPE, RequestMetrics, expose
from backpressure.version import __version__

log = logging.getLogger(__name__)

_METHODS = frozenset(HTTPMethod)

Next = Callable[[Request], Awaitable[Response]]


def _without_zeros(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_without_zeros)
"""Annotation for whole numbers in a request: JSON has one kind of number, so 3.0 is 3."""


class RequestBody(BaseModel):
    """A request body: no unknown fields, strict types, and only valid JSON and Unicode.

    So no text for a number, no NaN, no lone surrogate.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _can_be_sent_on(cls, content: Any) -> Any:
        if isinstance(content, bytes):
            return content  # not declared as JSON: pydantic says that it is not an object
        try:
            json.dumps(content, ensure_ascii=False, allow_nan=False).encode()  # both complain with a ValueError
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        return content


class Problem(BaseModel):
    """What is wrong with one part of a request, and where."""

    type: str
    loc: list[str | int]
    msg: str


class RefusedRequest(BaseModel):
    """Why a request is refused: its form, part by part, or in one sentence a setting that is not allowed."""

    __qualname__ = "Refusal"  # its name in the OpenAPI document
    model_config = ConfigDict(title="Refusal")

    detail: list[Problem] | str
    key: str | None = None
    allowed: str | None = None


def create_app(title: str, summary: str) -> FastAPI:
    """Return an app that answers errors with status codes: 422 not allowed, 429 too much, 503 the broker is away."""
    refusal: dict[str, Any] = {"model": RefusedRequest, "description": "Not understood, or not allowed"}
    app = FastAPI(
        title=title, summary=summary, version=__version__, responses={422: refusal}, docs_url=None, redoc_url=None
    )
    app.add_middleware(BodyLimit)
    _answer_errors(app)
    serve_reference(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def not_understood(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input: it is the client's own, may be large, and need not be anything JSON can express.
        reasons = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
        return JSONResponse({"detail": reasons}, 422)

    @app.exception_handler(400)
    async def not_text(_: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - FastAPI has one reason for it
        problem = {"type": "json_invalid", "loc": ["body"], "msg": "not JSON in UTF-8"}
        return JSONResponse({"detail": [problem]}, 422)

    @app.exception_handler(405)
    async def not_that_way(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - 405 says it all
        # Starlette names the methods of one route only; a path may have several.
        routes = [route for route in app.routes if isinstance(route, Route)]
        allowed = {
            method
            for route in routes
            if route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
        return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(sorted(allowed))})

    @app.exception_handler(ConfigError)
    async def not_allowed(_: Request, error: ConfigError) -> JSONResponse:
        content: dict[str, Any] = {"detail": str(error), "key": error.key, "allowed": error.allowed}
        return JSONResponse(content, 422)

    @app.exception_handler(PreconditionFailedError)
    @app.exception_handler(UnsupportedError)
    async def not_possible(_: Request, error: TransportError) -> JSONResponse:  # a later attempt cannot succeed
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(RefusedError)
    async def too_much(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 429, {"Retry-After": "1"})

    @app.exception_handler(TransportError)
    async def broker_away(_: Request, error: TransportError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    @app.exception_handler(PaceError)
    async def failed(_: Request, error: PaceError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)


def public_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON, without secrets."""
    content = settings.model_dump(mode="json", exclude={"process", "lab"})
    content["broker"]["url"] = settings.broker.address()
    content["broker"]["management_url"] = re.sub("//.*@", "//", settings.broker.management_url)
    content["tracing"]["endpoint"] = re.sub("//.*@", "//", settings.tracing.endpoint)
    return content


class Change(BaseModel):
    """A value before and after."""

    old: Any
    new: Any


class Changed(BaseModel):
    """What a request has changed, settings by their dotted names; it is in force."""

    status: Literal["success"] = "success"
    changed: dict[str, Change]

    @classmethod
    def between(cls, old: Settings, new: Settings) -> Changed:
        """Return what differs, without secrets."""
        before, after = public_settings(old), public_settings(new)
        return cls(
            changed={
                f"{section}.{name}": Change(old=before[section][name], new=value)
                for section, values in after.items()
                for name, value in values.items()
                if value != before[section][name]
            }
        )


def checked_live(settings: dict[str, Any], role: Literal["producer", "consumer"]) -> dict[str, Any]:
    """Return ``settings`` by dotted names as they are; raises `ConfigError` for one that needs a restart."""
    for notice in former_name_notices({key: (value, "request") for key, value in settings.items()}):
        log.warning("%s", notice)
    for key, value in settings.items():
        find_field(key, value, "request")
        if not is_live(key, LIVE[role]):
            raise ConfigError(key, value, f"cannot be changed while the {role} runs: set it and restart", "request")
    return settings


@contextmanager
def named_as_sent(request: BaseModel, sent: Mapping[str, str]) -> Iterator[None]:
    """Make errors name the field and value of ``request``, not the setting that the field stands for.

    ``sent`` has the names of the fields by the dotted names of their settings.
    """
    try:
        yield
    except ConfigError as error:
        key = next((key for key in sent if error.key == key or error.key.startswith(f"{key}.")), None)
        if key is None:
            raise
        name = sent[key]
        value = getattr(request, name) if error.key == key else error.value
        raise ConfigError(name + error.key.removeprefix(key), value, error.allowed, "request") from None


class Health(BaseModel):
    """The process is alive."""

    status: Literal["healthy"] = "healthy"
    timestamp: datetime


class Ready(BaseModel):
    """The process is connected to its broker."""

    status: Literal["ready"] = "ready"
    timestamp: datetime


class NotReady(BaseModel):
    """The process is alive, and why it cannot do its work now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "not ready", "timestamp": "2026-01-01T12:00:00Z", "detail": "the broker is away"},
            ]
        }
    )

    status: Literal["not ready"] = "not ready"
    timestamp: datetime
    detail: str


Obstacle = Callable[[], Awaitable[str]]
"""Returns what keeps a process from doing its work; an empty text when nothing does."""


def serve_basics(app: FastAPI, registry: CollectorRegistry, obstacle: Obstacle) -> None:
    """Add ``GET /health``, ``GET /ready`` and ``GET /metrics``, and measure the duration of every request.

    Args:
        app: what to add them to.
        registry: what ``/metrics`` tells.
        obstacle: decides whether ``/ready`` answers 200 or 503.
    """
    requests = RequestMetrics(registry)

    @app.middleware("http")
    async def measure(request: Request, call_next: Next) -> Response:
        started = time.monotonic()
        status = 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            # Only the app's own routes become labels: requested paths must not grow the registry.
            path = getattr(request.scope.get("route"), "path", None)
            method = request.method if path and request.method in _METHODS else "other"
            requests.observe(method, path or "other", status, time.monotonic() - started)

    @app.get("/health")
    async def health() -> Health:
        """Say that the process is alive, with or without a broker (liveness: restart it when this fails)."""
        return Health(timestamp=datetime.now(UTC))

    not_ready: dict[str, Any] = {"model": NotReady, "description": "the broker cannot be reached or blocks"}

    @app.get("/ready", response_model=Ready, responses={503: not_ready})
    async def ready() -> Ready | JSONResponse:
        """Say whether the broker can be reached and the work be done (readiness: 503 while it cannot)."""
        detail, now = await obstacle(), datetime.now(UTC)
        if not detail:
            return Ready(timestamp=now)
        return JSONResponse(NotReady(timestamp=now, detail=detail).model_dump(mode="json"), 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return all metrics as Prometheus text."""
        return Response(expose(registry), media_type=CONTENT_TYPE)
