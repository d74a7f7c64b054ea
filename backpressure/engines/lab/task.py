"""A task and its result, as they travel."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from backpressure.core.message import Message, Metadata
from backpressure.engines.lab.note import MOST_CHARACTERS

__all__ = ["MOST_COMPLEX", "Task", "TaskResult"]

MOST_COMPLEX = 100

Content = TypeVar("Content")
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]


@dataclass(frozen=True, slots=True)
class Task:
    """Work to be done: ``complexity`` says how much of it, the rest is passed through."""

    complexity: Annotated[int, Field(ge=1, le=MOST_COMPLEX)]
    data: Text = ""
    type: Text = ""

    def as_message(self) -> Message:
        """Return it ready to be published; the message id is the task's."""
        return _message(_TASK.dump_json(self))

    @classmethod
    def read(cls, message: Message) -> Task | None:
        """Return the task in ``message``, or None when there is none."""
        return _read(_TASK, message)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a worker did, and when, on its clock.

    ``waited_s`` from submission to the start of the work (None: unknown). ``redelivered``: another worker had the task
    before and did not finish it, or at least did not live to acknowledge it.
    """

    task_id: Text
    type: Text
    data: Text
    complexity: int
    worker: Text
    pid: int
    waited_s: float | None
    processing_time_s: float
    redelivered: bool
    finished_at: datetime

    def as_message(self) -> Message:
        """Return it ready to be published."""
        return _message(_RESULT.dump_json(self))

    @classmethod
    def read(cls, message: Message) -> TaskResult | None:
        """Return the result in ``message``, or None when there is none."""
        return _read(_RESULT, message)


_TASK, _RESULT = TypeAdapter(Task), TypeAdapter(TaskResult)


def _message(body: bytes) -> Message:
    headers = Metadata(sent_ns=time.time_ns()).headers()
    return Message(body, message_id=str(uuid.uuid4()), headers=headers, content_type="application/json")


def _read(kind: TypeAdapter[Content], message: Message) -> Content | None:
    try:
        return kind.validate_json(message.body)
    except ValidationError:
        return None
