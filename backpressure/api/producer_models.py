"""What the producer's control API takes and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from backpressure.api.common import WHOLE, RequestBody, checked_live

__all__ = [
    "BatchProduced",
    "BatchRequest",
    "NotTaken",
    "ProduceRequest",
    "Produced",
    "ProducerConfigRequest",
    "Purged",
    "Unsent",
]

_MOST_AT_ONCE = 10_000  # so that the answer takes a few seconds at most
_MOST_ID_BYTES = 255  # a short string of AMQP 0-9-1
_SETTINGS = {
    "queue_mode": "producer.strategy",
    "max_queue_size": "queue.max_length",
    "rate_limit": "control.rate_limit",
    "production_rate": "producer.rate",
    "target_wait_ms": "control.target_wait_ms",
    "reduction_factor": "control.reduction_factor",
    "floor_per_s": "control.floor_per_s",
    "ceiling_per_s": "control.ceiling_per_s",
    "depth_threshold": "control.depth_threshold",
    "parameters": "control.parameters",
}


def _short(text: str) -> str:
    if len(text.encode()) > _MOST_ID_BYTES:
        raise ValueError(f"takes more than {_MOST_ID_BYTES} bytes")
    return text


MessageId = Annotated[str, Field(min_length=1, max_length=_MOST_ID_BYTES), AfterValidator(_short)]


class ProduceRequest(RequestBody):
    """One message, or a burst of ``count`` generated ones."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "order-1", "payload": "Hello", "processing_time": 0.05}, {"count": 1000}]
        },
    )

    id: MessageId | None = Field(None, description="message id; ours if absent")
    payload: Any = Field(None, description="text, or any JSON value, which is sent as JSON")
    processing_time: Annotated[float, Field(ge=0, le=3600)] | None = Field(None, description="work asked for, seconds")
    count: Annotated[int, Field(ge=1, le=_MOST_AT_ONCE), WHOLE] | None = Field(
        None, description="send this many at once"
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> ProduceRequest:
        if self.count is None and self.payload is None:
            raise ValueError("needs either payload (one message) or count (a burst)")
        if self.count is not None and (self.payload is not None or self.id is not None):
            raise ValueError("count stands alone: a burst is made of generated messages")
        return self


class Item(BaseModel):
    """One message of a batch."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: MessageId | None = None
    payload: Any
    processing_time: Annotated[float, Field(ge=0, le=3600)] | None = None


class BatchRequest(RequestBody):
    """Several messages."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"id": "a", "payload": "one"}, {"id": "b", "payload": "two"}]}]},
    )

    messages: list[Item] = Field(min_length=1, max_length=_MOST_AT_ONCE)


class ProducerConfigRequest(RequestBody):
    """Any of these; all are applied, or none."""

    __qualname__ = "ConfigRequest"  # its name in the OpenAPI document
    model_config = ConfigDict(
        title="ConfigRequest",
        json_schema_extra={"examples": [{"queue_mode": "bounded", "max_queue_size": 100}, {"production_rate": 50}]},
    )

    queue_mode: str | None = Field(
        None, description="unbounded, bounded, rate_limited, or the name of any law, with the bound that goes with it"
    )
    max_queue_size: Annotated[int, WHOLE] | None = Field(None, description="bound of the queue, messages")
    rate_limit: float | None = Field(None, description="pace of the mode rate_limited, msg/s")
    production_rate: float | Literal["max"] | None = Field(
        None, description="offered load, msg/s; 0 or max: as fast as can be"
    )
    target_wait_ms: float | None = Field(None, description="queue wait the law aims for")
    reduction_factor: float | None = Field(None, description="threshold: multiply the rate by this under pressure")
    floor_per_s: float | None = Field(None, description="never slower than this, msg/s")
    ceiling_per_s: float | None = Field(None, description="never faster than this, msg/s")
    depth_threshold: Annotated[int, WHOLE] | None = Field(
        None, description="threshold: a deeper queue counts as pressure"
    )
    parameters: dict[str, dict[str, float]] | None = Field(None, description="per law, its own parameters")
    settings: dict[str, Any] = Field(default_factory=dict, description="further settings by their dotted names")

    def sent(self) -> dict[str, str]:
        """Return the fields that are given, by the dotted names of the settings they stand for."""
        return {key: name for name, key in _SETTINGS.items() if getattr(self, name) is not None}

    def changes(self) -> dict[str, Any]:
        """Return the dotted settings that are named; raises `ConfigError` for one that cannot change at run time."""
        named = {key: getattr(self, name) for key, name in self.sent().items()}
        return named | checked_live(self.settings, "producer")


class Produced(BaseModel):
    """The broker has it."""

    status: Literal["success"] = "success"
    message_id: str
    timestamp: datetime


class BatchProduced(BaseModel):
    """The broker has all of them."""

    status: Literal["success"] = "success"
    messages_produced: int


class NotTaken(BaseModel):
    """The number of accepted messages, and ids of those refused or unconfirmed: a hundred of each at most."""

    message: str
    messages_produced: int
    refused: list[str] = Field(description="not in the queue")
    unconfirmed: list[str] = Field(
        description="perhaps in the queue, or on the way: sending them again may duplicate them"
    )


class Unsent(BaseModel):
    """Why not all was confirmed: in one sentence when nothing was sent, else with the ids."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"detail": "the broker is away"},
                {
                    "detail": {
                        "message": "the queue is full: 1 of 2 were taken",
                        "messages_produced": 1,
                        "refused": ["order-2"],
                        "unconfirmed": [],
                    }
                },
            ]
        }
    )

    detail: NotTaken | str


class Purged(BaseModel):
    """How many messages were dropped."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "success", "purged": 42}]})

    status: Literal["success"] = "success"
    purged: int
