"""Every knob: its name, unit, default, allowed range and reason, once.

`config.py`, the command-line help, ``docs/configuration.md`` and the scenario files are all views of these models.
Values come, in rising strength, from the defaults here, ``config.py``, the environment (``RABBITMQ_…``, ``LOG_LEVEL``,
then ``PACE_SECTION__KEY``, each also from ``.env``) and command-line flags; `load` puts them together.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Collection
from math import inf
from typing import Annotated, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from backpressure.core.addresses import bracketed
from backpressure.knobs import (
    MOST_NAME_OCTETS,
    BrokerUrl,
    Host,
    KafkaUrl,
    Name,
    Port,
    Prefetch,
    Rate,
    Section,
    http_url,
    knob,
    octets,
)

__all__ = [
    "FORMER_PARAMETERS",
    "LIVE",
    "ApiSettings",
    "BrokerSettings",
    "ConsumerSettings",
    "ControlSettings",
    "FeedbackSettings",
    "LabSettings",
    "LogSettings",
    "MonitorSettings",
    "ProcessSettings",
    "ProducerSettings",
    "QueueSettings",
    "RetrySettings",
    "Settings",
    "TracingSettings",
    "is_live",
]


class BrokerSettings(Section):
    """Where the broker is and how patiently to look for it."""

    url: BrokerUrl = knob(
        "", "", "a full URL (amqp[s]:// kafka[+ssl]://) wins over host, port and user; empty: use those"
    )
    host: Host = knob("localhost", "", "machine the broker runs on")
    port: Port = knob(5672, "", "AMQP port")
    username: str = knob("guest", "", "RabbitMQ lets guest in from localhost only")
    password: SecretStr = knob(SecretStr("guest"), "", "never shown in logs, reports or /status")
    virtual_host: Annotated[str, octets(MOST_NAME_OCTETS)] = knob("/", "", "name space of queues and exchanges")
    management_url: Annotated[str, http_url("http://localhost:15672", optional=True)] = knob(
        "", "", "management API, e.g. http://localhost:15672; empty: found from the host"
    )
    heartbeat_s: int = knob(30, "s", "a dead peer is noticed after about two of these", ge=0, le=600)
    connect_timeout_s: float = knob(5.0, "s", "one attempt to connect may take this long", gt=0, le=120)
    blocked_timeout_s: float = knob(300.0, "s", "give up on a connection the broker keeps blocked", gt=0)
    reconnect_min_s: float = knob(0.2, "s", "first pause before connecting again; doubles each time", gt=0)
    reconnect_max_s: float = knob(3.0, "s", "longest pause before connecting again", gt=0)
    discover: bool = knob(
        True, "", "told of no broker, and none on the port: use the one that `pace broker` started here"
    )
    wait: bool = knob(True, "", "wait for a broker that is not there yet; off: fail at once")
    ca_file: str = knob("", "", "certificate authority for amqps://; empty: the system's")
    cert_file: str = knob("", "", "client certificate for amqps://")
    key_file: str = knob("", "", "its private key")

    @model_validator(mode="after")
    def _ordered_pauses(self) -> Self:
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("reconnect_max_s must not be below reconnect_min_s")
        return self

    def full_url(self) -> str:
        """Return the URL to connect to, with its password."""
        if self.url:
            return self.url
        user = quote(self.username, safe="")
        password = quote(self.password.get_secret_value(), safe="")
        return f"amqp://{user}:{password}@{bracketed(self.host)}:{self.port}/{quote(self.virtual_host, safe='')}"

    def address(self) -> str:
        """Return the URL without user and password, fit to be shown."""
        parts = urlsplit(self.full_url())
        if parts.scheme.startswith("kafka"):
            servers = parts.netloc.rpartition("@")[2].split(",")  # any of a cluster's leads to all others
            addresses = ",".join(s if re.search(r":\d+$", s) else f"{s}:9092" for s in servers)
            return f"{parts.scheme}://{addresses}"
        default = {"amqps": 5671}.get(parts.scheme, 5672)
        path = "" if unquote(parts.path) in {"/", "//", ""} else parts.path
        return f"{parts.scheme}://{bracketed(parts.hostname or self.host)}:{parts.port or default}{path}"


class QueueSettings(Section):
    """The queue between the two, and what surrounds it."""

    exchange: Name = knob("direct.exchange", "", "direct, durable; producers publish here, never to the queue itself")
    routing_key: Name = knob("work", "", "binds the work queue (and the audit queue) to the exchange")
    work: Name = knob("work.queue", "", "the queue that producer and consumer share")
    dead_letter: Name = knob("work.queue.dlq", "", "where messages go that failed too often or were dropped")
    audit: Name = knob("audit.queue", "", "receives a copy of every message when auditing is on")
    auditing: bool = knob(False, "", "nobody empties the audit queue, so it is off until asked for")
    audit_max_length: int = knob(1_000_000, "messages", "the audit queue drops its oldest beyond this", ge=1)
    type: Literal["classic", "quorum", "lazy"] = knob(
        "classic", "", "quorum: replicated; lazy: on disk (RabbitMQ before 3.12; later classic queues always are)"
    )
    durable: bool = knob(True, "", "the queue and its persistent messages survive a broker restart")
    max_length: int | None = knob(10_000, "messages", "bound of the work queue; None: unbounded", ge=1)
    max_length_bytes: int | None = knob(None, "bytes", "bound of the work queue by size; None: unbounded", ge=1)
    overflow: Literal["reject-publish", "drop-head", "reject-publish-dlx"] = knob(
        "reject-publish", "", "a full queue refuses new messages (nack), or drops its oldest"
    )
    message_ttl_ms: int | None = knob(None, "ms", "messages older than this are dead-lettered; None: never", ge=0)
    partitions: int = knob(
        1, "", "Kafka only: at most this many consumers share the topic, order holds within each", ge=1, le=10_000
    )

    @model_validator(mode="after")
    def _quorum_is_durable(self) -> Self:
        if self.type == "quorum" and not self.durable:
            raise ValueError("a quorum queue is always durable: set durable = True or another type")
        return self


class ProducerSettings(Section):
    """The fast side."""

    rate: Rate = knob(
        1000.0,
        "msg/s",
        "offered load: ten times what one consumer can do, the mismatch we study; 0 or max: as fast as can be",
        word="max",
        ge=0,
        le=1e7,
    )
    strategy: Name = knob(
        "pace",
        "",
        "law, and the queue's bound that goes with it; `pace laws` lists them; package.module:Class is your own",
    )
    limit: int = knob(0, "messages", "stop after this many; 0: endless", ge=0)
    batch_size: int = knob(50, "messages", "at most this many are written in one go", ge=1, le=10_000)
    burst_ms: float = knob(
        100.0, "ms", "depth of the token bucket: what may be caught up after a stall", gt=0, le=10_000
    )
    confirm_window: int = knob(
        2000, "messages", "sent but unconfirmed at most; publishing pauses there", ge=1, le=1_000_000
    )
    on_nack: Literal["auto", "retry", "reject"] = knob(
        "auto", "", "a refused message is sent again, or given up; auto: retry where the law adapts"
    )
    nack_pause_ms: float = knob(100.0, "ms", "pause before a refused message is sent again", ge=0, le=60_000)
    arrivals: Literal["fixed", "poisson"] = knob(
        "fixed", "", "offered load comes evenly, or at random with the same mean"
    )
    payload_bytes: int = knob(0, "bytes", "pad the body to this size; 0: the text alone", ge=0, le=16_777_216)
    text: str = knob("Hello World", "", "body of each message")
    processing_time_s: float | None = knob(
        None, "s", "ask the consumer for this much work a message; None: its own", ge=0, le=3600
    )
    producer_id: str = knob("", "", "who sent it, shown by the consumer; empty: your user name")
    weight: float = knob(1.0, "", "share of the common rate against other producers", gt=0, le=1000)
    purge: bool = knob(False, "", "empty the queues before the first message")
    progress_every: int = knob(10_000, "messages", "print a line each time this many are confirmed; 0: never", ge=0)
    count: int = knob(1, "processes", "how many producers `pace run` starts", ge=0, le=1000)
    start_paused: bool = knob(False, "", "connect, then wait for POST /admin/resume")
    drain_timeout_s: float = knob(10.0, "s", "on stop, wait this long for outstanding confirms", ge=0)

    @property
    def offered_per_s(self) -> float:
        """The offered load, messages per second; infinite when it is as fast as can be."""
        return self.rate or inf

    def identity(self) -> str:
        """Return the producer id to use."""
        return self.producer_id or getpass.getuser()


class ConsumerSettings(Section):
    """The slow side."""

    rate: Rate = knob(
        100.0,
        "msg/s",
        "what one consumer can do: 10 ms of work a message; 0 or max: as fast as can be",
        word="max",
        ge=0,
        le=1e6,
    )
    distribution: Literal["fixed", "exponential", "uniform"] = knob(
        "fixed", "", "how service times vary around 1/rate (uniform: processing_min_ms … processing_max_ms)"
    )
    processing_min_ms: float = knob(5.0, "ms", "shortest work when the distribution is uniform", ge=0)
    processing_max_ms: float = knob(15.0, "ms", "longest work when the distribution is uniform", ge=0)
    prefetch: Prefetch = knob("auto", "messages", "unsettled at most; auto: rate × round trip + a few, measured")
    name: Annotated[str, octets(200)] = knob("", "", "shown in the monitor; empty: consumer-<pid>")
    failure_rate: float = knob(
        0.0, "", "share of attempts that fail on purpose, to see retry and dead letters", ge=0, le=1
    )
    poison_rate: float = knob(0.0, "", "share of messages that fail at every attempt, chosen by their ids", ge=0, le=1)
    expect: int = knob(0, "messages", "stop after this many; 0: endless", ge=0)
    progress_every: int = knob(10_000, "messages", "print a line each time this many are done; 0: never", ge=0)
    count: int = knob(1, "processes", "how many consumers `pace run` starts", ge=0, le=1000)
    verbose: bool = knob(False, "", "print a line for every message: from whom, how old")
    drain_timeout_s: float = knob(10.0, "s", "on stop, finish at most this long what has been delivered", ge=0)

    @model_validator(mode="after")
    def _ordered_range(self) -> Self:
        if self.processing_max_ms < self.processing_min_ms:
            raise ValueError("processing_max_ms must not be below processing_min_ms")
        return self

    @property
    def mean_service_s(self) -> float:
        """Mean work a message, in seconds; 0 when it is as fast as can be."""
        if self.distribution == "uniform":
            return (self.processing_min_ms + self.processing_max_ms) / 2000
        return 1 / self.rate if self.rate else 0.0


class RetrySettings(Section):
    """What happens to a message whose processing fails."""

    max_attempts: int = knob(4, "attempts", "then the message is dead-lettered with the reason", ge=1, le=1000)
    backoff_min_ms: float = knob(100.0, "ms", "pause before the second attempt", ge=0)
    backoff_max_ms: float = knob(5000.0, "ms", "longest pause between attempts", ge=0)
    multiplier: float = knob(2.0, "", "each pause is this many times the one before", ge=1, le=100)
    jitter: float = knob(0.2, "", "pauses vary by this share, so that failures do not retry in step", ge=0, le=1)


FORMER_PARAMETERS = {
    "control.rate_limit": ("rate_limited", "rate_per_s"),
    "control.reduction_factor": ("threshold", "reduction_factor"),
    "control.depth_threshold": ("threshold", "pressure_depth"),
}
"""By the dotted name it had: the law and the parameter of it that a setting has become."""


class ControlSettings(Section):
    """Back-pressure: how the producer finds the consumer's pace."""

    target_wait_ms: float = knob(
        20.0, "ms", "queue wait the law aims for; it never aims below the queue's natural spread", gt=0, le=60_000
    )
    floor_per_s: float | None = knob(
        None, "msg/s", "never slower than this; None: the law's own (threshold: 100)", gt=0
    )
    ceiling_per_s: float | None = knob(None, "msg/s", "never faster than this; None: the offered load", gt=0)
    tick_ms: float = knob(100.0, "ms", "how often the law decides", ge=10, le=10_000)
    parameters: dict[str, dict[str, float]] = knob(
        {}, "", "per law, its own parameters, e.g. {'rate_limited': {'rate_per_s': 50}}; see docs/laws.md"
    )

    @model_validator(mode="after")
    def _ordered_limits(self) -> Self:
        if self.floor_per_s is not None and self.ceiling_per_s is not None and self.floor_per_s > self.ceiling_per_s:
            raise ValueError("floor_per_s must not be above ceiling_per_s")
        return self


class FeedbackSettings(Section):
    """The counters every process reports to all others."""

    exchange: Name = knob("pace.feedback", "", "fanout on which the reports travel")
    interval_ms: float = knob(100.0, "ms", "how often each process reports: freshness matters most", ge=10, le=10_000)
    timeout_s: float = knob(2.0, "s", "a process silent for this long is taken for gone", gt=0)


class MonitorSettings(Section):
    """What is watched, and when it is worth a warning."""

    host: Host = knob("127.0.0.1", "", "address of /metrics and the page; any other than loopback needs api.token")
    port: Port = knob(8000, "", "localhost:8000/metrics is Prometheus text")
    watch_s: float = knob(3.0, "s", "redraw the cards this often; 0: once", ge=0, le=3600)
    probe_interval_ms: float = knob(
        250.0, "ms", "how often the queue depth is read; nothing is decided by it", ge=10, le=60_000
    )
    depth_threshold: int = knob(5_000, "messages", "a deeper queue is red", ge=1)
    memory_threshold_percent: float = knob(80.0, "%", "more of the broker's memory limit is red", gt=0, le=100)
    latency_threshold_ms: float = knob(1_000.0, "ms", "a longer queue wait (p99) is red", gt=0)


class ApiSettings(Section):
    """The control APIs."""

    enabled: bool = knob(True, "", "serve the control API of producer and consumer")
    host: Host = knob("127.0.0.1", "", "any other address than loopback needs a token")
    producer_port: Port = knob(5000, "", "0: any free port, shown on start")
    consumer_port: Port = knob(8001, "", "0: any free port, shown on start")
    lab_port: Port = knob(8080, "", "lab service")
    token: SecretStr = knob(
        SecretStr(""), "", "clients send Authorization: Bearer <token>, browsers give it as password; empty: none"
    )


class LabSettings(Section):
    """The lab service (`pace lab`)."""

    kafka_url: KafkaUrl = knob(
        "", "", "broker of the /kafka endpoints, e.g. kafka://localhost:9092; empty: they answer 503"
    )
    prefix: Annotated[str, Field(min_length=1), octets(100)] = knob(
        "lab", "", "first word of the lab's exchanges and queues"
    )
    kept_messages: int = knob(
        1000, "messages", "each list keeps the newest, and counts what it dropped", ge=1, le=100_000
    )
    seconds_per_complexity: float = knob(1.0, "s", "a task of complexity 3 takes three times this", gt=0, le=60)
    max_workers: int = knob(16, "processes", "task workers at most", ge=1, le=256)
    max_subscribers: int = knob(20, "subscribers", "each has a queue and a connection of its own", ge=1, le=1000)


class LogSettings(Section):
    """What is written to the terminal."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = knob("INFO", "", "how much is worth a line")
    format: Literal["text", "json"] = knob("text", "", "json: one object a line, for machines")

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class TracingSettings(Section):
    """Traces of single messages, from publishing to processed, over OTLP/HTTP; needs the extra `otel`."""

    enabled: bool = knob(False, "", "off costs nothing")
    endpoint: Annotated[str, http_url("http://localhost:4318")] = knob(
        "http://localhost:4318", "", "a collector that speaks OTLP/HTTP, e.g. Jaeger; /v1/traces is added"
    )
    sample_ratio: float = knob(
        1.0, "", "share of messages that are traced; the producer decides, consumers follow", ge=0, le=1
    )


class ProcessSettings(Section):
    """How a process stands within an experiment; `pace run` sets these, people rarely do."""

    announce_file: str = knob("", "", "write pid, addresses and readiness here as JSON")
    journal_file: str = knob("", "", "write a 64-byte record for every settled message here")
    seed: int | None = knob(None, "", "makes service times and failures repeatable; None: different each time", ge=0)
    clock_anchor_ns: int = knob(
        0, "ns", "wall minus monotonic clock, common to one run; 0: read when the process starts"
    )


class Settings(Section):
    """All sections. Constructing it reads nothing but its arguments: the environment is `backpressure.config`'s job."""

    producer: ProducerSettings = Field(default_factory=ProducerSettings)
    consumer: ConsumerSettings = Field(default_factory=ConsumerSettings)
    queue: QueueSettings = Field(default_factory=QueueSettings)
    control: ControlSettings = Field(default_factory=ControlSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    monitor: MonitorSettings = Field(default_factory=MonitorSettings)
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    lab: LabSettings = Field(default_factory=LabSettings)
    feedback: FeedbackSettings = Field(default_factory=FeedbackSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    process: ProcessSettings = Field(default_factory=ProcessSettings)


def _keys(section: str, *names: str) -> set[str]:
    return {f"{section}.{name}" for name in names}


LIVE: dict[Literal["producer", "consumer"], frozenset[str]] = {
    "producer": frozenset(
        {"control"}
        | _keys("producer", "rate", "strategy", "batch_size", "confirm_window", "on_nack")
        | _keys("producer", "payload_bytes", "text", "processing_time_s", "weight")
        | _keys("producer", "arrivals", "burst_ms", "nack_pause_ms")
        | _keys("queue", "max_length", "overflow")
    ),
    "consumer": frozenset(
        {"retry"}
        | _keys("consumer", "rate", "distribution", "processing_min_ms", "processing_max_ms", "prefetch")
        | _keys("consumer", "failure_rate", "poison_rate")
    ),
}
"""What a process changes while it runs: settings, and sections of which that is every setting."""


def is_live(key: str, live: Collection[str]) -> bool:
    """Return whether ``live`` holds the dotted ``key`` or its section."""
    return key in live or key.partition(".")[0] in live
