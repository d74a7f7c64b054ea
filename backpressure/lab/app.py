"""The lab's app: what clients send and get, its endpoints and its page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, Field

from backpressure.api.common import WHOLE, RequestBody, create_app, serve_basics
from backpressure.api.serving import Page
from backpressure.errors import TransportError, UnknownNameError
from backpressure.lab.messages import MOST_CHARACTERS, MOST_COMPLEX, LabNote, Task
from backpressure.lab.pubsub import PubSub, SubscriberMessages, SubscriberView
from backpressure.lab.service import Board, BoardView, Lab
from backpressure.lab.tasks import Tasks, TasksView, WorkerView
from backpressure.presentation import SHARED

Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Word = Annotated[str, Field(max_length=200)]
SubscriberId = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]


_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_ZONE = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"
Timestamp = Annotated[str, Field(pattern=f"^{_DATE}T{_TIME}{_ZONE}$", description="ISO 8601")]
_NEWEST = 20
Responses = dict[int | str, dict[str, Any]]
Id = Annotated[SubscriberId, InPath(examples=["subscriber-1"])]


class MessageRequest(RequestBody):
    """A message, the time it was written, and its source."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"message": "Hello", "timestamp": "2023-01-01T12:00:00", "source": "test_client"}]
        }
    )

    message: Text
    timestamp: Timestamp | None = None
    source: Word | None = None


class PublishRequest(MessageRequest):
    """The same, for every subscriber."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "message": "Hello, subscribers",
                    "timestamp": "2023-01-01T12:00:00",
                    "source": "test_client",
                    "importance": "high",
                }
            ]
        }
    )

    importance: Word | None = None


class StartRequest(RequestBody):
    """How many workers to start, beside those that run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"num_workers": 3}]})

    num_workers: Annotated[int, Field(ge=1, le=256), WHOLE] = 3


class SubmitRequest(RequestBody):
    """A task; the work takes ``complexity`` times `lab.seconds_per_complexity`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"complexity": 3, "data": "This needs processing", "type": "analysis"}]}
    )

    complexity: Annotated[int, Field(ge=1, le=MOST_COMPLEX), WHOLE] = 1
    data: Text
    type: Word = ""


class SubscribeRequest(RequestBody):
    """Who subscribes; without a name, a new UUID does."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"subscriber_id": "subscriber-1"}, {}]})

    subscriber_id: SubscriberId | None = None


class Done(BaseModel):
    """It is done."""

    status: Literal["success"] = "success"


class Sent(Done):
    """The broker has it."""

    message_id: str
    timestamp: datetime


class Submitted(Done):
    """The broker has the task."""

    task_id: str


class Stopped(Done):
    """How many workers there were."""

    stopped: int


class WorkersAnswer(Done):
    """All workers, those that died included until others are started."""

    workers: list[WorkerView]


class PublishedAnswer(Done):
    """The broker has it, and every subscriber's queue a copy."""

    message_id: str
    subscribers: int


class SubscribersAnswer(BaseModel):
    """All subscribers."""

    subscribers: list[SubscriberView]


class BoardStatus(BaseModel):
    """A board and its broker's address, or why there is none."""

    address: str = ""
    missing: str = ""
    board: BoardView | None = None


class LabStatus(BaseModel):
    """Everything at once, with the newest few messages of each list: what the page shows."""

    rabbitmq: BoardStatus
    kafka: BoardStatus
    tasks: TasksView
    workers: list[WorkerView]
    published: int
    subscribers: list[SubscriberMessages]


def lab_app(lab: Lab) -> FastAPI:
    """Return the lab's app."""
    app = create_app("Pace Matching: lab", "Try queues on RabbitMQ and Kafka: send, share out, broadcast.")

    @app.exception_handler(UnknownNameError)
    async def unknown(_: Request, error: UnknownNameError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404)

    serve_basics(app, CollectorRegistry(), lab.obstacle)
    app.include_router(_board_router("RabbitMQ", lab.rabbitmq))
    app.include_router(_board_router("Kafka", lab.kafka, lab.kafka_missing))
    app.include_router(_tasks_router(lab.tasks))
    app.include_router(_pubsub_router(lab.pubsub))

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

    page = Page(app, assets())

    @app.get("/", include_in_schema=False)
    async def root() -> FileResponse:
        return page.answer()

    return app


def assets() -> Mapping[str, Path]:
    """Return the page's files by the names they are served under; the style is that of every page."""
    own = {path.name: path for path in Path(__file__).with_name("page").iterdir()}
    return {name: SHARED[name] for name in ("theme.css", "frame.css", "numbers.js", "elements.js")} | own


def _board_status(board: Board | None, missing: str = "") -> BoardStatus:
    return (
        BoardStatus(missing=missing) if board is None else BoardStatus(address=board.address, board=board.view(_NEWEST))
    )


def _board_router(broker: str, board: Board | None, missing: str = "") -> APIRouter:
    """Return the endpoints below ``/broker``; without a ``board`` all of them say what is ``missing`` (503)."""
    router = APIRouter(
        prefix=f"/{broker.lower()}",
        tags=[broker],
        responses={
            409: {"description": "the queue exists with other arguments"},
            503: {"description": f"{broker} is away, or not configured"},
        },
    )

    def there() -> Board:
        if board is None:
            raise TransportError(missing)
        return board

    @router.post("/send", responses={429: {"description": "the queue is full"}})
    async def send(request: MessageRequest) -> Sent:
        """Send a message; the answer comes when the broker has it."""
        message_id = await there().send(LabNote(**request.model_dump()))
        return Sent(message_id=message_id, timestamp=datetime.now(UTC))

    @router.post("/consume")
    async def consume() -> Done:
        """Consume from now on: what waits, and what comes."""
        await there().consume()
        return Done()

    @router.get("/messages", response_model_exclude_none=True)
    async def messages() -> BoardView:
        """Return what was consumed, oldest first."""
        return there().view()

    return router


def _tasks_router(tasks: Tasks) -> APIRouter:
    """Return the endpoints below ``/tasks``."""
    router = APIRouter(prefix="/tasks", tags=["Tasks"])
    away: dict[int | str, dict[str, Any]] = {503: {"description": "RabbitMQ is away"}}
    other: dict[int | str, dict[str, Any]] = {409: {"description": "a queue exists with other arguments"}}

    @router.post(
        "/workers/start",
        responses={**away, 409: {"description": "too many workers, one did not start, or a queue has other arguments"}},
    )
    async def start(request: StartRequest | None = None) -> WorkersAnswer:
        """Start workers (three, if not told otherwise); the answer comes when they take tasks."""
        return WorkersAnswer(workers=await tasks.start_workers((request or StartRequest()).num_workers))

    @router.post("/workers/stop")
    async def stop() -> Stopped:
        """Stop all workers. Each may finish its task within ten seconds; a longer task goes back to the queue."""
        return Stopped(stopped=await tasks.stop_workers())

    @router.post("/workers/{worker}/kill", responses={404: {"description": "no such worker runs"}})
    async def kill(worker: Annotated[str, InPath(examples=["worker-1"])]) -> Done:
        """Kill a worker's process, in the middle of its task: another worker gets it."""
        tasks.kill_worker(worker)
        return Done()

    @router.get("/workers")
    async def workers() -> WorkersAnswer:
        """List the workers with their pids, those that died included until others are started."""
        return WorkersAnswer(workers=tasks.workers())

    @router.post("/submit", responses={**away, **other, 429: {"description": "the queue is full"}})
    async def submit(request: SubmitRequest) -> Submitted:
        """Submit a task; the answer comes when the broker has it."""
        return Submitted(task_id=await tasks.submit(Task(**request.model_dump())))

    @router.get("/results")
    async def results() -> TasksView:
        """Return the results, oldest first: which worker did it, how long the task waited and took."""
        return tasks.view()

    return router


def _pubsub_router(pubsub: PubSub) -> APIRouter:
    """Return the endpoints below ``/pubsub``."""
    router = APIRouter(prefix="/pubsub", tags=["Publish and subscribe"])
    away: Responses = {503: {"description": "RabbitMQ is away"}}
    other: Responses = {409: {"description": "the exchange or a queue exists with other arguments"}}
    unknown: Responses = {404: {"description": "no such subscriber"}}

    @router.post(
        "/subscribers",
        responses={
            **away,
            409: {"description": "the name is taken, there are too many, or a queue has other arguments"},
        },
    )
    async def subscribe(request: SubscribeRequest | None = None) -> SubscriberView:
        """Create a subscriber: its queue fills from now on."""
        return await pubsub.subscribe(request.subscriber_id if request else None)

    @router.post("/subscribers/{subscriber_id}/consume", responses={**away, **other, **unknown})
    async def consume(subscriber_id: Id) -> SubscriberView:
        """Let a subscriber consume: what waits in its queue, and what comes."""
        return await pubsub.consume(subscriber_id)

    @router.post("/publish", responses={**away, **other})
    async def publish(request: PublishRequest) -> PublishedAnswer:
        """Publish a message to every subscriber; the answer comes when the broker has it."""
        published = await pubsub.publish(LabNote(**request.model_dump()))
        return PublishedAnswer(message_id=published.message_id, subscribers=published.subscribers)

    @router.get("/subscribers")
    async def subscribers() -> SubscribersAnswer:
        """List the subscribers."""
        return SubscribersAnswer(subscribers=pubsub.subscribers())

    @router.get("/subscribers/{subscriber_id}/messages", responses=unknown, response_model_exclude_none=True)
    async def messages(subscriber_id: Id) -> SubscriberMessages:
        """Return what a subscriber has consumed, oldest first."""
        return pubsub.messages(subscriber_id)

    @router.delete("/subscribers/{subscriber_id}", responses={**away, **unknown})
    async def unsubscribe(subscriber_id: Id) -> Done:
        """Remove a subscriber and its queue, with what waits in it."""
        await pubsub.unsubscribe(subscriber_id)
        return Done()

    return router
