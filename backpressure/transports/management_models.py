"""What the management API reports, as typed models. Fields a broker does not report keep their defaults."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

# Erlang has one empty value for lists and objects, so the API reports [] for an empty object.
_Object = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]
_Text = Annotated[str, BeforeValidator(lambda value: value or "")]


def _at(*path: str) -> Any:
    return Field(default=0, validation_alias=AliasPath(*path))


class _Info(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: Any) -> Any:
        """Leave out what is null: a broker without statistics reports much as that."""
        if not isinstance(document, dict):
            return document
        return {key: value for key, value in document.items() if value is not None}


class Overview(_Info):
    """The broker as a whole; rates per second over all queues."""

    product: str = Field(default="RabbitMQ", validation_alias=AliasChoices("implementation", "product_name"))
    version: str = Field(default="", validation_alias=AliasChoices("implementation_version", "rabbitmq_version"))
    node: str = ""
    cluster_name: str = ""
    statistics_off: bool = Field(default=False, validation_alias="disable_stats")
    publish_rate: float = _at("message_stats", "publish_details", "rate")
    confirm_rate: float = _at("message_stats", "confirm_details", "rate")
    deliver_rate: float = _at("message_stats", "deliver_get_details", "rate")
    ack_rate: float = _at("message_stats", "ack_details", "rate")
    messages: int = _at("queue_totals", "messages")
    messages_ready: int = _at("queue_totals", "messages_ready")
    messages_unacknowledged: int = _at("queue_totals", "messages_unacknowledged")
    connections: int = _at("object_totals", "connections")
    channels: int = _at("object_totals", "channels")
    queues: int = _at("object_totals", "queues")
    consumers: int = _at("object_totals", "consumers")


class QueueInfo(_Info):
    """One queue; counts in messages, memory in bytes, totals since the broker started, rates per second."""

    name: str
    vhost: str = "/"
    type: str = "classic"
    state: str = ""
    durable: bool = False
    exclusive: bool = False
    arguments: _Object = {}
    policy: _Text = ""
    effective_policy: _Object = Field(default={}, validation_alias="effective_policy_definition")
    consumers: int = 0
    memory_bytes: int = Field(default=0, validation_alias="memory")
    message_bytes: int = 0
    messages: int = 0
    messages_ready: int = 0
    messages_unacknowledged: int = 0
    ready_bytes: int = Field(default=0, validation_alias="message_bytes_ready")
    growth_rate: float | None = Field(default=None, validation_alias=AliasPath("messages_details", "rate"))
    published: int = _at("message_stats", "publish")
    delivered: int = _at("message_stats", "deliver_get")
    acknowledged: int = _at("message_stats", "ack")
    redelivered: int = _at("message_stats", "redeliver")
    sent_without_ack: int = _at("message_stats", "deliver_no_ack")
    got_without_ack: int = _at("message_stats", "get_no_ack")
    publish_rate: float = _at("message_stats", "publish_details", "rate")
    deliver_rate: float = _at("message_stats", "deliver_get_details", "rate")
    ack_rate: float = _at("message_stats", "ack_details", "rate")
    sent_without_ack_rate: float = _at("message_stats", "deliver_no_ack_details", "rate")
    got_without_ack_rate: float = _at("message_stats", "get_no_ack_details", "rate")

    @property
    def departure_rate(self) -> float:
        """Messages that leave for good: acknowledged, or delivered to a consumer that does not acknowledge."""
        return self.ack_rate + self.sent_without_ack_rate + self.got_without_ack_rate

    @property
    def taken_without_ack(self) -> int:
        """Messages handed to consumers that acknowledge automatically: they were gone when they were sent."""
        return self.sent_without_ack + self.got_without_ack

    def limit(self, name: str) -> int | None:
        """Return a limit such as ``max-length``, the lower one of argument and policy; None: there is none."""
        values = [self.arguments.get(f"x-{name}"), self.effective_policy.get(name)]
        return min((value for value in values if isinstance(value, int)), default=None)

    @property
    def overflow(self) -> str:
        """What happens to messages beyond the limits."""
        return str(self.arguments.get("x-overflow") or self.effective_policy.get("overflow") or "drop-head")


class QueueTotals(_Info):
    """What one queue holds, all of one moment.

    A classic queue counts for each answer. A quorum queue's counts are those of its last tick (every 5 s by default);
    so are all of a broker before RabbitMQ 3.8, which adds statistics that were not asked for.
    """

    name: str
    type: str = "classic"
    ready: int | None = Field(default=None, validation_alias="messages_ready")
    unacked: int | None = Field(default=None, validation_alias="messages_unacknowledged")
    collected: bool = Field(default=False, validation_alias="garbage_collection")

    @field_validator("collected", mode="before")
    @classmethod
    def _is_there(cls, value: object) -> bool:
        return value is not None

    @property
    def counted_now(self) -> bool:
        """Whether the queue counted for this answer."""
        return self.type == "classic" and not self.collected


class QueueFlow(_Info):
    """How many messages have entered one queue since the broker started, by its statistics; None: it keeps none."""

    entered: int | None = Field(default=None, validation_alias=AliasPath("message_stats", "publish"))


class QueueTotalsPage(_Info):
    """A page of a list of queues."""

    items: list[QueueTotals]


class ClusterName(_Info):
    """What a cluster calls itself; clients are told the same at login."""

    name: str = ""


class ConnectionInfo(_Info):
    """One client connection; ``client_name`` is what the client calls itself."""

    name: str
    client_name: _Text = Field(default="", validation_alias=AliasPath("client_properties", "connection_name"))
    user: str = ""
    vhost: str = ""
    peer_host: _Text = ""
    peer_port: int = 0
    state: str = ""
    channels: int = 0
    received_bytes: int = Field(default=0, validation_alias="recv_oct")
    sent_bytes: int = Field(default=0, validation_alias="send_oct")
    connected_at_ms: int = Field(default=0, validation_alias="connected_at")


class ChannelInfo(_Info):
    """One channel."""

    name: str
    connection_name: str = Field(default="", validation_alias=AliasPath("connection_details", "name"))
    number: int = 0
    user: str = ""
    state: str = ""
    confirm: bool = False
    consumer_count: int = 0
    messages_unacknowledged: int = 0
    messages_unconfirmed: int = 0
    prefetch_count: int = 0
    global_prefetch_count: int = 0
    publish_rate: float = _at("message_stats", "publish_details", "rate")
    deliver_rate: float = _at("message_stats", "deliver_get_details", "rate")
    ack_rate: float = _at("message_stats", "ack_details", "rate")


class ConsumerInfo(_Info):
    """One consumer of one queue."""

    consumer_tag: str
    queue: str = Field(default="", validation_alias=AliasPath("queue", "name"))
    connection_name: str = Field(default="", validation_alias=AliasPath("channel_details", "connection_name"))
    channel_name: str = Field(default="", validation_alias=AliasPath("channel_details", "name"))
    peer_host: _Text = Field(default="", validation_alias=AliasPath("channel_details", "peer_host"))
    peer_port: int = _at("channel_details", "peer_port")
    ack_required: bool = True
    active: bool = True
    prefetch_count: int = 0


class NodeInfo(_Info):
    """One node of the cluster; memory and disk in bytes."""

    name: str
    running: bool = True
    pid: str = Field(default="", validation_alias="os_pid")
    memory_bytes: int = Field(default=0, validation_alias="mem_used")
    memory_limit_bytes: int = Field(default=0, validation_alias="mem_limit")
    memory_alarm: bool = Field(default=False, validation_alias="mem_alarm")
    disk_free_bytes: int = Field(default=0, validation_alias="disk_free")
    disk_free_limit_bytes: int = Field(default=0, validation_alias="disk_free_limit")
    disk_alarm: bool = Field(default=False, validation_alias="disk_free_alarm")
    uptime_ms: int = Field(default=0, validation_alias="uptime")


class ExchangeInfo(_Info):
    """One exchange; the default exchange has no name."""

    name: str
    vhost: str = "/"
    type: str = ""
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    arguments: _Object = {}
    policy: str | None = None


class BindingInfo(_Info):
    """One binding; every queue has one from the default exchange, whose name is empty."""

    source: str
    destination: str
    destination_type: str = "queue"
    routing_key: str = ""


class PolicyInfo(_Info):
    """Settings that apply to all queues whose name matches ``pattern``; the highest priority wins."""

    name: str
    pattern: str
    definition: _Object = {}
    apply_to: str = Field(default="queues", validation_alias="apply-to")
    priority: int = 0
