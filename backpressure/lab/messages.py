"""The messages of the lab: notes (or whatever another producer put into the queue), tasks and their results."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from backpressure.core.message import Delivery, Message, Metadata

MOST_CHARACTERS = 10_000
"""The longest text that is kept: a limit on the number of messages alone would not limit the memory."""

_FIELDS = ("message", "timestamp", "source", "importance")


@dataclass(frozen=True, slots=True)
class LabNote:
    """A text and where it comes from. ``timestamp`` is the sender's own, ISO 8601."""

    message: str
    timestamp: str | None = None
    source: str | None = None
    importance: str | None = None

    def as_message(self) -> Message:
        """Return it ready to be published, under a new id."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return Message(
            json.dumps(known).encode(),
            message_id=str(uuid.uuid4()),
            timestamp_s=int(datetime.now(UTC).timestamp()),
            content_type="application/json",
        )


@dataclass(frozen=True, slots=True)
class ReceivedNote(LabNote):
    """A note that came out of a queue; ``redelivered``: it had been delivered before."""

    message_id: str | None = None
    received_at: datetime | None = None
    redelivered: bool = False

    @classmethod
    def read(cls, delivery: Delivery) -> ReceivedNote:
        """Return the note in ``delivery``; any other body becomes the text of a note."""
        text = delivery.message.body.decode("utf-8", "replace")
        try:
            fields = _fields(text)
        except (ValueError, RecursionError):  # no JSON, or nested too deeply
            fields = {"message": text[:MOST_CHARACTERS]}
        return cls(
            **{"message": "", **fields},
            message_id=delivery.message.message_id,
            received_at=datetime.now(UTC),
            redelivered=delivery.redelivered,
        )


def _fields(text: str) -> dict[str, str]:
    content = json.loads(text)
    if not isinstance(content, dict) or "message" not in content:
        content = {"message": text}
    return {name: str(content[name])[:MOST_CHARACTERS] for name in _FIELDS if content.get(name) is not None}


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
    """What a worker did, and when, by its own clock.

    ``waited_s`` from submission to the start of the work (None: unknown). ``redelivered``: another worker had the task
    before and ended without acknowledging it.
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
