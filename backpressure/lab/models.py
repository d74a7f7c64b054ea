"""What clients of the lab send, and the answers that are not views of its parts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from backpressure.api.common import WHOLE, RequestBody
from backpressure.lab.messages import MOST_CHARACTERS, MOST_COMPLEX
from backpressure.lab.pubsub import SubscriberMessages, SubscriberView
from backpressure.lab.service import BoardView
from backpressure.lab.tasks import TasksView, WorkerView

__all__ = [
    "BoardStatus",
    "Done",
    "LabStatus",
    "MessageRequest",
    "PublishRequest",
    "PublishedAnswer",
    "Sent",
    "StartRequest",
    "Stopped",
    "SubmitRequest",
    "Submitted",
    "SubscribeRequest",
    "SubscriberId",
    "SubscribersAnswer",
    "WorkersAnswer",
]

Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Word = Annotated[str, Field(max_length=200)]
SubscriberId = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]


_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_ZONE = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"
Timestamp = Annotated[str, Field(pattern=f"^{_DATE}T{_TIME}{_ZONE}$", description="ISO 8601")]


class MessageRequest(RequestBody):
    """A message, when it was written, and by whom."""

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
