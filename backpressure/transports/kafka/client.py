"""librdkafka clients: how they are configured and connected, how an outage shows, and requests to the cluster.

librdkafka connects, reconnects and resends by itself, with the pauses from our settings. It reports failures to
``error_cb``, in the thread that polls the client. The admin client polls itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata

from backpressure.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    ConfigError,
    NotConnectedError,
    TransportError,
)
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage, pauses, tls_context
from backpressure.transports.kafka.failures import dial_error, kafka_error, reason_of
from backpressure.transports.kafka.records import topic_name

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_REFRESH_METADATA_MS = 1000  # how soon a topic is noticed that is deleted or created again
_LOOK_S = 0.5


class PolledClient(Protocol):
    """What producers, consumers and admin clients of confluent-kafka have in common."""

    def list_topics(self, topic: str = ..., timeout: float = ...) -> ClusterMetadata:
        """Ask any broker for the cluster's metadata."""

    def poll(self, timeout: float = ...) -> Any:
        """Call back for what has happened."""


def client_configuration(broker: BrokerSettings, name: str) -> dict[str, Any]:
    """Return the configuration of every librdkafka client of ours; raises `ConfigError`.

    ``kafka+ssl://`` encrypts. A user in the URL logs in by SASL PLAIN, or by the mechanism in ``?sasl=SCRAM-SHA-512``,
    with the password in the URL, or else that of the settings, where it is less visible.
    """
    url = broker.parts()
    encrypted, login = url.scheme == "kafka+ssl", bool(url.username)
    configuration: dict[str, Any] = {
        "bootstrap.servers": broker.address().partition("://")[2],
        "client.id": name,
        "security.protocol": ("SASL_" if login else "") + ("SSL" if encrypted else "PLAINTEXT"),
        "reconnect.backoff.ms": int(broker.reconnect_min_s * 1000),
        "reconnect.backoff.max.ms": int(broker.reconnect_max_s * 1000),
        "socket.connection.setup.timeout.ms": max(1000, int(broker.connect_timeout_s * 1000)),
        "topic.metadata.refresh.interval.ms": _REFRESH_METADATA_MS,
        "topic.metadata.propagation.max.ms": _REFRESH_METADATA_MS,
        "allow.auto.create.topics": False,  # producers would create a deleted topic again, with other properties
        "log_level": 0,  # errors that matter reach `error_cb`, and are logged once
    }
    if login:
        mechanism = parse_qs(url.query).get("sasl", [_MECHANISMS[0]])[0]
        if mechanism not in _MECHANISMS:
            raise ConfigError("broker.url", f"…?sasl={mechanism}", f"expected {' or '.join(_MECHANISMS)}")
        configuration["sasl.mechanism"] = mechanism
        configuration["sasl.username"] = url.username
        configuration["sasl.password"] = url.password or broker.password.get_secret_value()
    if encrypted:
        tls_context(broker)  # unlike librdkafka it names the file that cannot be used
        files = {"ca": broker.ca_file, "certificate": broker.cert_file, "key": broker.key_file}
        configuration |= {f"ssl.{kind}.location": path for kind, path in files.items() if path}
    return configuration


def cluster_id(url: str) -> str | None:
    """Return the id of the cluster at ``url``, or None when none answers within a second."""
    client = AdminClient(client_configuration(BrokerSettings(url=url), "ready"))
    try:
        return client.list_topics(timeout=1.0).cluster_id
    except KafkaException:
        return None


def broker_count(url: str) -> int:
    """Return how many brokers the cluster at ``url`` has; 0 when none answers within a second. Blocks."""
    client = AdminClient(client_configuration(BrokerSettings(url=url), "joined"))
    try:
        return len(client.list_topics(timeout=1.0).brokers)
    except KafkaException:
        return 0


@dataclass(frozen=True, slots=True)
class Copies:
    """Where the first partition of a topic is: its leader (-1: none), all replicas, and those in sync."""

    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class CopiesReader:
    """Tells where a queue's topic is, again and again."""

    def __init__(self, url: str) -> None:
        """``url`` names brokers that are running."""
        self._client = AdminClient(client_configuration(BrokerSettings(url=url), "copies"))

    def read(self, queue: str) -> Copies | None:
        """Return where it is; None when nobody tells within a second. Blocks."""
        name = topic_name(queue)
        try:
            topic = self._client.list_topics(name, timeout=1.0).topics[name]
        except KafkaException:
            return None
        if not topic.partitions:
            return None
        first = topic.partitions[min(topic.partitions)]
        return Copies(first.leader, tuple(first.replicas), tuple(first.isrs))


class KafkaLink:
    """Whether the broker answers one client: dials it, and calls back when it is lost and when it is back.

    Give `on_error` to the client as its ``error_cb``. A client that is polled in a thread calls `look_again` there
    while `down`; both callbacks run on the event loop.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        outage: Outage,
        *,
        on_down: Callable[[str], None] = lambda _reason: None,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = broker.address()
        self.down = False
        self._broker = broker
        self._outage = outage
        self._on_down = on_down
        self._on_up = on_up
        self._error: KafkaError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def on_error(self, error: KafkaError) -> None:
        """Handle an error that librdkafka reports, in any thread."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 -- librdkafka's own codes begin so
            self._error = error
        else:
            self._lost()

    def on_silence(self) -> None:
        """Handle that nobody answers, though librdkafka reports no error; in any thread."""
        if not self.down:
            self._error = None
            self._lost()

    def look_again(self, client: PolledClient) -> None:
        """Check whether the broker is back; blocks for half a second at most. For the thread that polls ``client``."""
        try:
            client.list_topics(timeout=_LOOK_S)
        except KafkaException:
            return
        self.down = False
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._came_up)

    async def dial(self, client: PolledClient) -> ClusterMetadata:
        """Connect, and return the cluster's metadata.

        Raises `TransportError` when that failed and waiting does not help, or is not wanted.
        """
        pause_s = pauses(self._broker.reconnect_min_s, self._broker.reconnect_max_s)
        while True:
            try:
                metadata = await self._attempt(client)
            except TransportError as error:
                if not self._broker.wait or not isinstance(error, BrokerUnavailableError):
                    raise
                self._outage.begin(error)
            else:
                self._outage.end()
                self._loop = asyncio.get_running_loop()
                return metadata
            await asyncio.sleep(next(pause_s))

    async def _attempt(self, client: PolledClient) -> ClusterMetadata:
        await self._knock()
        deadline = time.monotonic() + self._broker.connect_timeout_s
        patience_s = _LOOK_S  # in growing portions: a refusal is final, and is noticed only between them
        while True:
            try:
                return await asyncio.to_thread(client.list_topics, timeout=patience_s)
            except KafkaException as error:
                await asyncio.to_thread(client.poll, 0)  # polls for the errors that say why
                failure = dial_error(self._error, self.address)
                left_s = deadline - time.monotonic()
                if left_s <= 0 or isinstance(failure, AccessRefusedError):
                    raise failure from error
            patience_s = min(2 * patience_s, left_s)

    async def _knock(self) -> None:
        """Check that the port is open: librdkafka keeps trying until its timeout, even when the port is closed."""
        failure: OSError | None = None
        for server in self.address.partition("://")[2].split(","):
            host, _, port = server.rpartition(":")
            try:
                async with asyncio.timeout(self._broker.connect_timeout_s):
                    _reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            except OSError as error:
                failure = error
            else:
                writer.close()
                return
        raise BrokerUnavailableError(self.address, _refusal(failure))

    def _lost(self) -> None:
        if not self.down and self._loop is not None:
            self.down = True
            self._loop.call_soon_threadsafe(self._went_down)

    def _went_down(self) -> None:
        reason = reason_of(self._error)
        self._outage.begin(NotConnectedError(f"lost the broker at {self.address} ({reason})"))
        self._on_down(reason)

    def _came_up(self) -> None:
        self._outage.end()
        self._on_up()


def _refusal(failure: OSError | None) -> str:
    """Return why nothing answered. For a name with several addresses asyncio has the system's error as text only."""
    if isinstance(failure, socket.gaierror):
        return "host name unknown"
    number = re.search(r"\[Errno (\d+)\]", str(failure))
    return os.strerror(int(number[1])).lower() if number else "no answer in time"


Result = TypeVar("Result")


class KafkaRequests:
    """One admin client."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self.address = broker.address()
        self.timeout_s = broker.connect_timeout_s
        self._link = KafkaLink(broker, outage)
        self._configuration = client_configuration(broker, name) | {"error_cb": self._link.on_error}
        self._client: AdminClient | None = None

    @property
    def client(self) -> AdminClient:
        """The client; raises `NotConnectedError` before `start` and after `stop`."""
        if self._client is None:
            raise NotConnectedError(f"not connected to the broker at {self.address}")
        return self._client

    async def start(self) -> None:
        """Connect; raises `TransportError`."""
        client = AdminClient(self._configuration)
        await self._link.dial(client)
        self._client = client

    async def stop(self) -> None:
        """Close."""
        await asyncio.to_thread(self._release)

    async def answer(self, future: Future[Result], queue: str = "") -> Result:
        """Return the cluster's answer about ``queue``; raises `TransportError` with its reason."""
        try:
            return await asyncio.wrap_future(future)
        except KafkaException as error:
            raise kafka_error(error.args[0], self.address, queue) from error

    async def partitions(self, queue: str) -> list[TopicPartition]:
        """Return the partitions of the queue's topic; raises `QueueNotFoundError`."""
        topic = topic_name(queue)
        asked = self.client.describe_topics(TopicCollection([topic]), request_timeout=self.timeout_s)
        described: Any = await self.answer(asked[topic], queue)
        return [TopicPartition(topic, partition.id) for partition in described.partitions]

    def _release(self) -> None:
        self._client = None  # its destructor joins its threads
