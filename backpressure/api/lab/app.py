"""The lab's app: its endpoints and its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CollectorRegistry

from backpressure.api.common import create_app, serve_basics
from backpressure.api.lab.boards import board_router
from backpressure.api.lab.models import BoardStatus, LabStatus
from backpressure.api.lab.pubsub import pubsub_router
from backpressure.api.lab.tasks import tasks_router
from backpressure.api.pages import Page
from backpressure.engines.lab.board import Board
from backpressure.engines.lab.service import Lab
from backpressure.errors import UnknownNameError

__all__ = ["lab_app"]

_NEWEST = 20


def lab_app(lab: Lab, assets: Mapping[str, Path]) -> FastAPI:
    """Return the lab's app; ``assets`` are the page's files by name, ``index.html`` is the page itself."""
    app = create_app("Pace Matching: lab", "Try queues on RabbitMQ and Kafka: send, share out, broadcast.")

    @app.exception_handler(UnknownNameError)
    async def unknown(_: Request, error: UnknownNameError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404)

    serve_basics(app, CollectorRegistry(), lab.obstacle)
    app.include_router(board_router("RabbitMQ", lab.rabbitmq))
    app.include_router(board_router("Kafka", lab.kafka, lab.kafka_missing))
    app.include_router(tasks_router(lab.tasks))
    app.include_router(pubsub_router(lab.pubsub))

    @app.get("/status")
    async def status() -> LabStatus:
        """Everything at once, each list with its newest entries only: what the page shows."""
        return LabStatus(
            rabbitmq=_board_status(lab.rabbitmq),
            kafka=_board_status(lab.kafka, lab.kafka_missing),
            tasks=lab.tasks.view(_NEWEST),
            workers=lab.tasks.workers(),
            published=lab.pubsub.published,
            subscribers=[lab.pubsub.messages(one.subscriber_id, _NEWEST) for one in lab.pubsub.subscribers()],
        )

    page = Page(app, assets)

    @app.get("/", include_in_schema=False)
    async def root() -> FileResponse:
        return page.answer()

    return app


def _board_status(board: Board | None, missing: str = "") -> BoardStatus:
    return (
        BoardStatus(missing=missing) if board is None else BoardStatus(address=board.address, board=board.view(_NEWEST))
    )
