"""Every knob: its name, unit, default, allowed range and reason, once.

`config.py`, the command-line help, ``docs/configuration.md`` and the scenario files are all views of these models.
Values come, in rising strength, from the defaults here, ``config.py``, the environment (``RABBITMQ_…``, ``LOG_LEVEL``,
then ``PACE_SECTION__KEY``, each also from ``.env``) and command-line flags; `load` puts them together.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Collection
from math import inf
from typing import Annotated, Literal, Self
from urllib.parse import quote, unquote

from pydantic import Field, SecretStr, field_validator, model_validator

from backpressure.core.addresses import BrokerAddress, bracketed, server_list
from backpressure.core.fields import MessageField
from backpressure.core.profiles import parse_profile
from backpressure.core.templates import Template
from backpressure.knobs import (
    MOST_NAME_OCTETS,
    BrokerUrl,
    Host,
    Hosts,
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


_PORTS = {"amqp": 5672, "amqps": 5671, "kafka": 9092, "kafka+ssl": 9092}


class BrokerSettings(Section):
    """Where the broker is and how patiently to look for it."""

    url: BrokerUrl = knob(
        "",
        "",
        "full URL (amqp[s]:// or kafka[+ssl]://), instead of host, port and user; empty: those are used; the servers "
        "of a cluster have commas between them: amqp://one,two:5673/",
    )
    host: Hosts = knob("localhost", "", "host name or address of the broker; of several with commas, any that answers")
    port: Port = knob(5672, "", "AMQP port of every host that names none")
    username: str = knob("guest", "", "user name; RabbitMQ accepts guest from localhost only")
    password: SecretStr = knob(SecretStr("guest"), "", "password of the user; never shown in logs, reports or /status")
    virtual_host: Annotated[str, octets(MOST_NAME_OCTETS)] = knob("/", "", "namespace of queues and exchanges")
    management_url: Annotated[str, http_url("http://localhost:15672", optional=True, several=True)] = knob(
        "", "", "URL of the management API, e.g. http://localhost:15672 or http://one:15672,two:15672; empty: derived"
    )
    prometheus_url: Annotated[str, http_url("http://localhost:15692", optional=True)] = knob(
        "",
        "",
        "URL of the plugin rabbitmq_prometheus, which tells at once what consumers of quorum queues hold, e.g. "
        "http://localhost:15692; empty: derived from the host",
    )
    heartbeat_s: int = knob(30, "s", "a dead connection is detected after about two heartbeats", ge=0, le=600)
    connect_timeout_s: float = knob(5.0, "s", "time limit for one connection attempt", gt=0, le=120)
    blocked_timeout_s: float = knob(300.0, "s", "close a connection that the broker has blocked for this long", gt=0)
    reconnect_min_s: float = knob(0.2, "s", "first pause before reconnecting; doubles with each attempt", gt=0)
    reconnect_max_s: float = knob(3.0, "s", "longest pause before reconnecting", gt=0)
    discover: bool = knob(
        True, "", "if no broker is configured and none answers on the port, use one that `pace broker` started here"
    )
    wait: bool = knob(True, "", "wait for a broker that is not available yet; off: fail at once")
    ca_file: str = knob("", "", "certificate authority for amqps://; empty: those of the system")
    cert_file: str = knob("", "", "client certificate for amqps://")
    key_file: str = knob("", "", "private key of the client certificate")

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
        servers = ((host, port or self.port) for host, port in server_list(self.host))
        names = ",".join(f"{bracketed(host)}:{port}" for host, port in servers)
        return f"amqp://{user}:{password}@{names}/{quote(self.virtual_host, safe='')}"

    def address(self) -> str:
        """Return the URL without user and password, fit to be shown."""
        names = ",".join(f"{bracketed(host)}:{port}" for host, port in self.servers())
        return self._shown(names)

    def address_of(self, server: tuple[str, int]) -> str:
        """Return `address` with only one of the `servers`."""
        host, port = server
        return self._shown(f"{bracketed(host)}:{port}")

    def _shown(self, names: str) -> str:
        url = self.parts()
        path = "" if url.scheme.startswith("kafka") or unquote(url.path) in {"/", "//", ""} else url.path
        return f"{url.scheme}://{names}{path}"

    def servers(self) -> list[tuple[str, int]]:
        """Return host and port of every server of the broker."""
        url = self.parts()
        return url.hosts(self.host, _PORTS.get(url.scheme, _PORTS["amqp"]))

    def parts(self) -> BrokerAddress:
        """Return the parts of the URL to connect to."""
        return BrokerAddress.parse(self.full_url())


class QueueSettings(Section):
    """The work queue, its exchange, and the dead-letter and audit queues."""

    exchange: Annotated[str, octets(200)] = knob(
        "direct.exchange",
        "",
        "durable direct exchange that producers publish to; empty (predeclared only): the default exchange",
    )
    routing_key: Annotated[str, octets(200)] = knob(
        "work", "", "binds the work queue and the audit queue to the exchange"
    )
    routing_keys: dict[str, Annotated[float, Field(gt=0)]] = knob(
        {}, "", "routing keys by their shares of the messages, in place of routing_key; all lead to the work queue"
    )
    predeclared: bool = knob(
        False, "", "use a queue that somebody else has declared as it is: declare, bind and limit nothing"
    )
    work: Name = knob("work.queue", "", "queue that producers and consumers share")
    dead_letter: Name = knob("work.queue.dlq", "", "queue for messages that failed too often or were dropped")
    give_up: Literal["auto", "reject", "publish"] = knob(
        "auto",
        "",
        "a message that failed too often on a predeclared queue: reject it to that queue's dead-letter exchange, or "
        "publish it to dead_letter; auto: reject if the queue is known to have such an exchange",
    )
    audit: Name = knob("audit.queue", "", "queue that receives a copy of every message if auditing is on")
    auditing: bool = knob(False, "", "copy every message to the audit queue, which nothing consumes")
    audit_max_length: int = knob(1_000_000, "messages", "the audit queue drops its oldest messages beyond this", ge=1)
    type: Literal["classic", "quorum", "lazy"] = knob(
        "classic", "", "quorum: replicated; lazy: on disk (from RabbitMQ 3.12 on classic queues are, too)"
    )
    durable: bool = knob(True, "", "the queue and its persistent messages survive a restart of the broker")
    max_length: int | None = knob(10_000, "messages", "maximum length of the work queue; None: unbounded", ge=1)
    max_length_bytes: int | None = knob(None, "bytes", "maximum size of the work queue; None: unbounded", ge=1)
    overflow: Literal["reject-publish", "drop-head", "reject-publish-dlx"] = knob(
        "reject-publish", "", "a full queue refuses new messages (nack) or drops its oldest"
    )
    message_ttl_ms: int | None = knob(None, "ms", "dead-letter messages older than this; None: never", ge=0)
    max_priority: int | None = knob(
        None,
        "",
        "classic queues: messages up to this priority overtake others; None: first in, first out",
        ge=1,
        le=255,
    )
    partitions: int = knob(
        1,
        "",
        "Kafka only: at most this many consumers share the topic; order holds within a partition",
        ge=1,
        le=10_000,
    )
    consumer_group: Annotated[str, octets(249)] = knob(
        "",
        "",
        "Kafka only: group of somebody else's consumers, whose commits producer and monitor follow; empty: ours",
    )

    @model_validator(mode="after")
    def _quorum_is_durable(self) -> Self:
        if self.type == "quorum" and not self.durable:
            raise ValueError("a quorum queue is always durable: set durable = True or another type")
        return self

    @model_validator(mode="after")
    def _only_what_is_there(self) -> Self:
        if self.predeclared and self.auditing:
            raise ValueError("auditing declares a queue, and predeclared declares nothing: leave one of them out")
        if not self.exchange and not self.predeclared:
            raise ValueError("exchange may be empty only with predeclared: no queue can be bound to the default one")
        return self

    @property
    def key(self) -> str:
        """Routing key to publish with; the default exchange takes the queue's name."""
        return self.routing_key if self.exchange else self.work

    @property
    def bindings(self) -> list[str]:
        """The routing keys that lead to the work queue."""
        return [*self.routing_keys] or [self.routing_key]


class ProducerSettings(Section):
    """The producer, the fast side."""

    rate: Rate = knob(
        1000.0,
        "msg/s",
        "offered load: ten times what one consumer can do; 0 or max: as fast as possible",
        word="max",
        ge=0,
        le=1e7,
    )
    strategy: Name = knob(
        "pace",
        "",
        "rate-control law and its queue bound: one of `pace laws`, or package.module:Class of your own",
    )
    limit: int = knob(0, "messages", "stop after this many; 0: endless", ge=0)
    batch_size: int = knob(50, "messages", "maximum number of messages written at once", ge=1, le=10_000)
    burst_ms: float = knob(
        100.0, "ms", "depth of the token bucket: how much can be caught up after a stall", gt=0, le=10_000
    )
    confirm_window: int = knob(
        2000, "messages", "maximum number of unconfirmed messages; publishing pauses there", ge=1, le=1_000_000
    )
    on_nack: Literal["auto", "retry", "reject"] = knob(
        "auto", "", "send a refused message again, or give it up; auto: retry if the law adapts"
    )
    nack_pause_ms: float = knob(100.0, "ms", "pause before a refused message is sent again", ge=0, le=60_000)
    arrivals: Literal["fixed", "poisson"] = knob(
        "fixed", "", "fixed: evenly spaced; poisson: at random with the same mean"
    )
    payload_bytes: int = knob(0, "bytes", "pad the body to this size; 0: only the text", ge=0, le=16_777_216)
    text: str = knob("Hello World", "", "body of each message")
    template: str = knob(
        "",
        "",
        'body with fields in place of text, e.g. {"id": "{uuid}", "n": {counter}}; docs/scenarios.md has them all',
    )
    handler: str = knob(
        "",
        "",
        "package.module:function of your own that makes body and headers of each message; sync, async or a generator",
    )
    samples: str = knob("", "", "file whose lines are the bodies, in place of text")
    samples_order: Literal["file", "random"] = knob(
        "file", "", "file: one line after the other, from the beginning again at the end; random: any line"
    )
    recorded_at: str = knob("", "", "json:KEY.KEY of samples: send each at its recorded time, and stop at the last")
    recorded_speed: float = knob(1.0, "", "how many times faster than recorded", gt=0, le=1e6)
    headers: dict[str, str | int | float | bool] = knob({}, "", "headers of each message; texts may have fields")
    content_type: str = knob("", "", "content type of each message")
    priority: str = knob("", "", "priority of each message, 0 to 255; may have fields, e.g. {choice:0*9|5}")
    ttl_ms: int | None = knob(None, "ms", "each message expires after this long in the queue; None: never", ge=0)
    reply_to: Annotated[str, octets(255)] = knob(
        "", "", "queue for replies, sent with the message id as correlation id"
    )
    profile: str = knob(
        "steady",
        "",
        "how the rate varies below producer.rate: steady, bursts:on_s=1,off_s=4, day:length_s=60 or "
        "table:file=rates.csv,speed=60",
    )
    processing_time_s: float | None = knob(
        None, "s", "work per message that the consumer is asked for; None: its own", ge=0, le=3600
    )
    producer_id: str = knob("", "", "sender, as the consumer shows it; empty: your user name")
    weight: float = knob(1.0, "", "share of the total rate, relative to other producers", gt=0, le=1000)
    purge: bool = knob(False, "", "empty the queues before the first message")
    progress_every: int = knob(10_000, "messages", "print a line each time this many are confirmed; 0: never", ge=0)
    count: int = knob(1, "processes", "number of producers that `pace run` starts", ge=0, le=1000)
    start_paused: bool = knob(False, "", "connect, then wait for POST /admin/resume")
    drain_timeout_s: float = knob(10.0, "s", "when stopped, wait at most this long for outstanding confirms", ge=0)

    @field_validator("template", "priority")
    @classmethod
    def _is_template(cls, text: str) -> str:
        Template(text)
        return text

    @field_validator("priority")
    @classmethod
    def _is_priority(cls, text: str) -> str:
        constant = Template(text).constant
        if constant and not (constant.isdecimal() and int(constant) <= 255):
            raise ValueError("expected a whole number from 0 to 255, or fields that give one")
        return text

    @field_validator("headers")
    @classmethod
    def _are_templates(cls, headers: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        for text in headers.values():
            if isinstance(text, str):
                Template(text)
        return headers

    @field_validator("profile")
    @classmethod
    def _is_profile(cls, text: str) -> str:
        parse_profile(text, 1.0)
        return text

    @field_validator("recorded_at")
    @classmethod
    def _is_place(cls, text: str) -> str:
        if text and MessageField.parse(text).kind != "json":
            raise ValueError("expected json:KEY.KEY")
        return text

    @model_validator(mode="after")
    def _bodies_agree(self) -> Self:
        if self.template and self.samples:
            raise ValueError("template and samples both give the body: leave one of them out")
        if self.handler and (self.template or self.samples):
            raise ValueError("handler gives the body, and so do template and samples: leave one of them out")
        if self.recorded_at and (not self.samples or self.samples_order != "file"):
            raise ValueError("recorded_at needs samples, in the order of the file")
        return self

    @property
    def composed(self) -> bool:
        """Whether each message has a payload of its own."""
        return bool(self.template or self.samples or self.headers or self.priority)

    @property
    def offered_per_s(self) -> float:
        """Offered load in messages per second; infinite for as fast as possible."""
        return self.rate or inf

    def identity(self) -> str:
        """Return the producer id to use."""
        if self.producer_id:
            return self.producer_id
        try:
            return getpass.getuser()
        except (KeyError, ImportError, OSError):  # a container's user may have a number and no name
            return f"user-{os.getuid()}" if hasattr(os, "getuid") else "user"


class ConsumerSettings(Section):
    """The consumer, the slow side."""

    rate: Rate = knob(
        100.0,
        "msg/s",
        "capacity of one consumer: 10 ms of work per message; 0 or max: as fast as possible",
        word="max",
        ge=0,
        le=1e6,
    )
    distribution: Literal["fixed", "exponential", "uniform"] = knob(
        "fixed", "", "how service times vary around 1/rate (uniform: from processing_min_ms to processing_max_ms)"
    )
    processing_min_ms: float = knob(5.0, "ms", "shortest service time of the uniform distribution", ge=0)
    processing_max_ms: float = knob(15.0, "ms", "longest service time of the uniform distribution", ge=0)
    prefetch: Prefetch = knob(
        "auto", "messages", "maximum number of unacknowledged messages; auto: measured rate × round trip + a few"
    )
    name: Annotated[str, octets(200)] = knob("", "", "shown in the monitor; empty: consumer-<host>-<pid>")
    handler: str = knob(
        "",
        "",
        "package.module:function of your own that does the work, sync or async; empty: work is simulated at rate",
    )
    failure_rate: float = knob(
        0.0, "", "share of attempts that fail on purpose, to show retries and dead letters", ge=0, le=1
    )
    poison_rate: float = knob(0.0, "", "share of messages that fail at every attempt, selected by id", ge=0, le=1)
    expect: int = knob(0, "messages", "stop after this many; 0: endless", ge=0)
    progress_every: int = knob(10_000, "messages", "print a line each time this many are done; 0: never", ge=0)
    count: int = knob(1, "processes", "number of consumers that `pace run` starts", ge=0, le=1000)
    verbose: bool = knob(False, "", "print a line for every message, with its sender and age")
    drain_timeout_s: float = knob(10.0, "s", "when stopped, work at most this long on messages already delivered", ge=0)

    @model_validator(mode="after")
    def _ordered_range(self) -> Self:
        if self.processing_max_ms < self.processing_min_ms:
            raise ValueError("processing_max_ms must not be below processing_min_ms")
        return self

    def identity(self) -> str:
        """Return the name to use; in containers every process has the number 1, so the host is part of it."""
        return self.name or f"consumer-{socket.gethostname()}-{os.getpid()}"

    @property
    def mean_service_s(self) -> float:
        """Mean service time in seconds; 0 for as fast as possible."""
        if self.distribution == "uniform":
            return (self.processing_min_ms + self.processing_max_ms) / 2000
        return 1 / self.rate if self.rate else 0.0


class RetrySettings(Section):
    """Retries of messages whose processing fails."""

    max_attempts: int = knob(
        4, "attempts", "after this many the message is dead-lettered with the reason", ge=1, le=1000
    )
    backoff_min_ms: float = knob(100.0, "ms", "pause before the second attempt", ge=0)
    backoff_max_ms: float = knob(5000.0, "ms", "longest pause between attempts", ge=0)
    multiplier: float = knob(2.0, "", "factor from one pause to the next", ge=1, le=100)
    jitter: float = knob(0.2, "", "random share of each pause, so that failures are not retried in step", ge=0, le=1)


FORMER_PARAMETERS = {
    "control.rate_limit": ("rate_limited", "rate_per_s"),
    "control.reduction_factor": ("threshold", "reduction_factor"),
    "control.depth_threshold": ("threshold", "pressure_depth"),
}
"""By the dotted name it had: the law and the parameter of it that a setting has become."""


class ControlSettings(Section):
    """Rate control: how the producer finds the consumer's pace."""

    target_wait_ms: float = knob(
        20.0, "ms", "queue wait the law aims for, but never below the natural variation of the queue", gt=0, le=60_000
    )
    floor_per_s: float | None = knob(
        None, "msg/s", "lower limit of the rate; None: that of the law (threshold: 100)", gt=0
    )
    ceiling_per_s: float | None = knob(None, "msg/s", "upper limit of the rate; None: the offered load", gt=0)
    tick_ms: float = knob(100.0, "ms", "interval between two decisions of the law", ge=10, le=10_000)
    parameters: dict[str, dict[str, float]] = knob(
        {}, "", "parameters of the laws, e.g. {'rate_limited': {'rate_per_s': 50}}; see docs/laws.md"
    )

    @model_validator(mode="after")
    def _ordered_limits(self) -> Self:
        if self.floor_per_s is not None and self.ceiling_per_s is not None and self.floor_per_s > self.ceiling_per_s:
            raise ValueError("floor_per_s must not be above ceiling_per_s")
        return self


class FeedbackSettings(Section):
    """The reports in which every process publishes its counters."""

    exchange: Name = knob("pace.feedback", "", "fanout exchange of the reports")
    interval_ms: float = knob(
        100.0, "ms", "interval between two reports of a process; old reports slow the control down", ge=10, le=10_000
    )
    timeout_s: float = knob(2.0, "s", "a process without a report for this long counts as gone", gt=0)


class MonitorSettings(Section):
    """What the monitor shows, and its warning thresholds."""

    host: Host = knob("127.0.0.1", "", "address of /metrics and the live page; any but loopback needs api.token")
    port: Port = knob(8000, "", "port of /metrics and the live page; 0: any free one")
    watch_s: float = knob(3.0, "s", "interval between two redraws of the cards; 0: one frame, then end", ge=0, le=3600)
    queues: str = knob(
        "",
        "",
        "watch these queues as they are: names and patterns (* and ?), with commas between; empty: the work queue and "
        "those of the processes that report",
    )
    probe_interval_ms: float = knob(
        250.0, "ms", "how often the queue depth is read, for display only", ge=10, le=60_000
    )
    depth_threshold: int = knob(5_000, "messages", "a deeper queue is shown in red", ge=1)
    memory_threshold_percent: float = knob(
        80.0, "%", "a larger share of the broker's memory limit is shown in red", gt=0, le=100
    )
    latency_threshold_ms: float = knob(1_000.0, "ms", "a longer queue wait (p99) is shown in red", gt=0)


class ApiSettings(Section):
    """The HTTP control APIs."""

    enabled: bool = knob(True, "", "serve the control API of producer and consumer")
    host: Host = knob("127.0.0.1", "", "address of the control APIs; any but loopback needs a token")
    producer_port: Port = knob(5000, "", "0: any free port, printed at the start")
    consumer_port: Port = knob(8001, "", "0: any free port, printed at the start")
    lab_port: Port = knob(8080, "", "port of the lab service; 0: any free one")
    token: SecretStr = knob(
        SecretStr(""), "", "sent as Authorization: Bearer <token>, by browsers as the password; empty: none needed"
    )


class LabSettings(Section):
    """The lab service (`pace lab`)."""

    kafka_url: KafkaUrl = knob(
        "", "", "broker of the /kafka endpoints, e.g. kafka://localhost:9092; empty: they answer 503"
    )
    prefix: Annotated[str, Field(min_length=1), octets(100)] = knob(
        "lab", "", "prefix of the lab's exchanges and queues"
    )
    kept_messages: int = knob(
        1000, "messages", "each list keeps this many of the newest messages, and counts the others", ge=1, le=100_000
    )
    seconds_per_complexity: float = knob(
        1.0, "s", "duration of a task of complexity 1; one of complexity 3 takes three times as long", gt=0, le=60
    )
    max_workers: int = knob(16, "processes", "maximum number of task workers", ge=1, le=256)
    max_subscribers: int = knob(
        20, "subscribers", "maximum number of subscribers; each has its own queue and connection", ge=1, le=1000
    )


class LogSettings(Section):
    """Logging to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = knob("INFO", "", "least severe level that is logged")
    format: Literal["text", "json"] = knob("text", "", "text for people, or one JSON object per line for machines")

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class TracingSettings(Section):
    """Traces of single messages, from publishing to the end of processing, over OTLP/HTTP; needs the extra `otel`."""

    enabled: bool = knob(False, "", "record traces; no cost while off")
    endpoint: Annotated[str, http_url("http://localhost:4318")] = knob(
        "http://localhost:4318", "", "OTLP/HTTP collector, e.g. Jaeger; /v1/traces is appended"
    )
    sample_ratio: float = knob(1.0, "", "share of messages that are traced; the producer decides for each", ge=0, le=1)


class ProcessSettings(Section):
    """The part of a process in an experiment; set by `pace run`, rarely by people."""

    announce_file: str = knob("", "", "file for pid and addresses as JSON, written when the process is ready")
    journal_file: str = knob("", "", "file for a 64-byte record of every settled message")
    ids_file: str = knob("", "", "file for the id of each message that is sent, where the ledger of a run needs it")
    folder: str = knob("", "", "folder that files of samples and rates are looked for in; empty: the current one")
    id_field: str = knob("", "", "where that id stands: header:NAME or json:KEY.KEY")
    seed: int | None = knob(None, "", "makes service times and failures repeatable; None: different each time", ge=0)
    clock_anchor_ns: int = knob(
        0, "ns", "wall clock minus monotonic clock, the same for a whole run; 0: read at the start"
    )


class AgentSettings(Section):
    """Processes of a run on other machines (`pace agent`): what an agent and the runs that it takes part in share."""

    token: SecretStr = knob(
        SecretStr(""), "", "secret of at least 16 characters that an agent and its runs share; it is never sent"
    )
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"), octets(100)] = knob(
        "pace", "", "a run looks for agents of its group only"
    )
    name: Annotated[str, octets(100)] = knob("", "", "how a run calls the agent; empty: the name of its host")
    patience_s: float = knob(
        10.0, "s", "an agent or a run that gives no sign of life for this long is lost to the other", ge=2, le=600
    )


class Settings(Section):
    """All sections. Creating it reads only its arguments: other sources are read by `backpressure.config`."""

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
    agent: AgentSettings = Field(default_factory=AgentSettings)


def _keys(section: str, *names: str) -> set[str]:
    return {f"{section}.{name}" for name in names}


LIVE: dict[Literal["producer", "consumer"], frozenset[str]] = {
    "producer": frozenset(
        {"control"}
        | _keys("producer", "rate", "strategy", "batch_size", "confirm_window", "on_nack")
        | _keys("producer", "payload_bytes", "text", "processing_time_s", "weight")
        | _keys("producer", "arrivals", "burst_ms", "nack_pause_ms", "profile")
        | _keys("producer", "template", "headers", "content_type", "priority", "ttl_ms")
        | _keys("queue", "max_length", "overflow")
    ),
    "consumer": frozenset(
        {"retry"}
        | _keys("consumer", "rate", "distribution", "processing_min_ms", "processing_max_ms", "prefetch")
        | _keys("consumer", "failure_rate", "poison_rate")
    ),
}
"""What can be changed while a process runs: settings, and sections all of whose settings can."""


def is_live(key: str, live: Collection[str]) -> bool:
    """Return whether ``live`` contains the dotted ``key`` or its section."""
    return key in live or key.partition(".")[0] in live
