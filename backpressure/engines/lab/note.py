"""What travels in the lab: a note as JSON, or whatever a foreign producer put into the queue."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from backpressure.core.message import Delivery, Message

__all__ = ["MOST_CHARACTERS", "Note", "ReceivedNote"]

MOST_CHARACTERS = 10_000
"""The longest text a store keeps: what is bounded in number only is not bounded."""

_FIELDS = ("message", "timestamp", "source", "importance")


@dataclass(frozen=True, slots=True)
class Note:
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
class ReceivedNote(Note):
    """A note that came out of a queue; ``redelivered``: it had been delivered before."""

    message_id: str | None = None
    received_at: datetime | None = None
    redelivered: bool = False

    @classmethod
    def read(cls, delivery: Delivery) -> ReceivedNote:
        """Return what ``delivery`` says; a body that is none of ours is its own message."""
        text = delivery.message.body.decode("utf-8", "replace")
        try:
            fields = _fields(text)
        except (ValueError, RecursionError):  # no JSON, or nested without end
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
