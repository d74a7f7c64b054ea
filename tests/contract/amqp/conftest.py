"""One suite, two brokers: every test here runs on the embedded broker and on a real RabbitMQ.

Where the two differ on purpose, the difference has a name and a reason in ``DIFFERENCES`` and is taken from there. The
embedded broker behaves as RabbitMQ 4.0; what 3.10 does otherwise has a name and a reason in ``SINCE_4``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pika
import pytest
from pamqp import commands
from pamqp import frame as pamqp_frame
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DIFFERENCES = {
    "dead-letter names that do not fit": "RabbitMQ takes a dead-letter key of any length, and closes the connection of "
    "whoever consumes what was dead-lettered with it (541); the embedded broker refuses it when it is declared",
    "policies that do not fit": "RabbitMQ takes any number and any text in a policy; the embedded broker refuses what "
    "could not work later",
    "a client of another protocol": "RabbitMQ 4 speaks AMQP 1.0 too, and names it to clients that do not begin with "
    "AMQP and 0; the embedded broker and 3.10 speak 0-9-1 only",
    "expiry behind a priority": "RabbitMQ looks at the heads when it comes to it, 4 at that of every priority but "
    "once: which one leaves is chance; the embedded broker looks at the next one whenever one is taken",
    "a default queue type that does not exist": "RabbitMQ 4.0 takes any text, and ends every connection that declares "
    "a queue from then on (541); the embedded broker refuses it (400)",
}
SINCE_4 = {
    "x-death of a client": "4 keeps the history beside the message, where no client can write; 3.10 reads the header",
    "the last death": "4 writes x-last-death-reason, -queue and -exchange beside those of the first",
    "CC of a dead letter": "4 changes no header that a client sent; 3.10 removes it for a dead letter with another key",
    "an unknown exchange type": "4 closes the channel (406); 3.10 the connection (503)",
    "priorities without a highest": "4 compares them if x-max-priority is 0, too",
    "the queue's type": "4 makes x-queue-type an argument of every queue, shows it, and names the type in refusals",
    "the default queue type": "4 has one for each virtual host, for queues that every type can be; 3.10 ignores it",
    "the delivery limit": "a quorum queue of 4 has one of 20 if none is set, and -1 is none; on 3.10 -1 is less than 0",
    "priorities of quorum queues": "4 has two, normal up to 4 and high from 5, of which two go for each normal one",
    "what a quorum queue takes back": "without a limit of deliveries it goes behind all others: the usual case on "
    "3.10, with x-delivery-limit = -1 on 4",
    "the single active consumer": "in quorum queues of 4 one of a higher priority takes over",
    "the largest message": "16 MiB on 4, 128 MiB on 3.10",
    "mirrored queues": "4 has none, and refuses policies of ha-mode; 3.10 takes them",
    "what a policy applies to": "4 has policies for queues of one type",
    "x-delivery-count": "3.10 sends a count of 0 with the first delivery, 4 no count",
    "where a classic queue's leader is": "4 takes x-queue-leader-locator, which 3.10 refuses for classic queues",
}

_numbers = count(1)


@dataclass(frozen=True)
class BrokerUnderTest:
    """A running broker."""

    kind: str
    url: str
    management_url: str
    version: tuple[int, ...]
    proxied: bool = False

    @property
    def address(self) -> tuple[str, int]:
        parameters = pika.URLParameters(self.url)
        return parameters.host, parameters.port

    def by_kind(self, difference: str, *, embedded: Any, rabbitmq: Any) -> Any:
        """What to expect where the two brokers differ by declaration."""
        assert difference in DIFFERENCES
        return {"embedded": embedded, "rabbitmq": rabbitmq}[self.kind]

    def since_4(self, difference: str, expected: Any, *, before: Any) -> Any:
        """What to expect where RabbitMQ 4, whose behaviour the embedded broker has, differs from 3.10."""
        assert difference in SINCE_4
        return expected if self.version >= (4,) else before


@pytest.fixture(scope="session", params=["embedded", "rabbitmq", "embedded-proxied", "rabbitmq-proxied"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerUnderTest]:
    """A broker as its clients see it: reached directly, or through `pace proxy`, which no client may notice.

    In a dry run, which holds nothing: clients here publish while they are the consumer that does not acknowledge yet.
    """
    kind, _, proxied = request.param.partition("-")
    running = request.getfixturevalue({"embedded": "embedded_broker", "rabbitmq": "rabbitmq_node"}[kind])
    found = _found(kind, running)
    if not proxied:
        yield found
        return
    with running_proxy(tmp_path_factory.mktemp("proxy"), found.url, found.management_url, "--dry-run") as url:
        yield replace(found, url=url, proxied=True)


@pytest.fixture
def direct(broker: BrokerUnderTest) -> None:
    """Skip a test of addresses behind a proxy: the broker sees those of the proxy, not the client's."""
    if broker.proxied:
        pytest.skip("the broker sees the proxy's address")


@contextlib.contextmanager
def running_proxy(directory: Path, broker_url: str, management_url: str, *options: str) -> Iterator[str]:
    """Run `pace proxy` in front of a broker; the URL of the proxy with the broker's login and virtual host."""
    announcement = directory / "proxy.json"
    command = [sys.executable, "-m", "backpressure", "proxy", "--listen", "127.0.0.1:0", "--no-api"]
    process = subprocess.Popen(
        [*command, "--upstream", broker_url, "--management-url", management_url, "--log-level", "WARNING", *options],
        env=os.environ | {"PACE_CONFIG": "", "PACE_PROCESS__ANNOUNCE_FILE": str(announcement)},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not announcement.exists():
            assert process.poll() is None, "the proxy did not start"
            assert time.monotonic() < deadline, "the proxy is not ready"
            time.sleep(0.02)
        port = urlsplit(json.loads(announcement.read_text())["url"]).port
        before = urlsplit(broker_url)
        yield before._replace(netloc=f"{before.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
        assert process.poll() is None, "the proxy has ended by itself"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _found(kind: str, running: Any) -> BrokerUnderTest:
    overview = httpx.get(
        f"{running.management_url}/api/overview", auth=("guest", "guest"), trust_env=False, timeout=60
    ).json()
    version = tuple(int(part) for part in overview["rabbitmq_version"].split(".")[:2])
    return BrokerUnderTest(kind, running.url, running.management_url, version)


@pytest.fixture(scope="session")
def janitor(broker: BrokerUnderTest) -> Iterator[httpx.Client]:
    """The management API, to look and to clean up with."""
    with httpx.Client(
        base_url=f"{broker.management_url}/api", auth=("guest", "guest"), trust_env=False, timeout=60
    ) as client:
        yield client


@pytest.fixture
def connect(broker: BrokerUnderTest) -> Iterator[Callable[..., pika.BlockingConnection]]:
    """Opens connections, and closes them after the test."""
    opened: list[pika.BlockingConnection] = []

    def _connect(**overrides: Any) -> pika.BlockingConnection:
        parameters = pika.URLParameters(broker.url)
        for name, value in overrides.items():
            setattr(parameters, name, value)
        connection = pika.BlockingConnection(parameters)
        opened.append(connection)
        return connection

    yield _connect
    for connection in opened:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()


@pytest.fixture
def connection(connect: Callable[..., pika.BlockingConnection]) -> pika.BlockingConnection:
    return connect()


@pytest.fixture(scope="session")
def local_address() -> Callable[[pika.BlockingConnection], tuple[str, int]]:
    """Where a connection of pika begins, which brokers name it by. Only these tests ask, and pika does not say."""

    def _local_address(connection: pika.BlockingConnection) -> tuple[str, int]:
        host, port = connection._impl._transport._sock.getsockname()
        return host, port

    return _local_address


@pytest.fixture
def channel(connection: pika.BlockingConnection) -> Any:
    """A channel in confirm mode: a publish is done when it returns."""
    opened = connection.channel()
    opened.confirm_delivery()
    return opened


@pytest.fixture(scope="session")
def sweeper(broker: BrokerUnderTest) -> Iterator[Any]:
    """The channel that deletes what tests leave."""
    connection = pika.BlockingConnection(pika.URLParameters(f"{broker.url}?heartbeat=0"))
    yield connection.channel()
    with contextlib.suppress(pika.exceptions.AMQPError):  # a test of faults may have cut it
        connection.close()


@pytest.fixture
def name(sweeper: Any) -> Iterator[Callable[[], str]]:
    """Fresh names; queues and exchanges that bear one are deleted after the test."""
    given: list[str] = []

    def _name() -> str:
        given.append(f"contract.{next(_numbers)}")
        return given[-1]

    yield _name
    for used in given:
        sweeper.queue_delete(used)
        sweeper.exchange_delete(used)


@pytest.fixture
def queue(channel: Any, name: Callable[[], str]) -> str:
    """An empty, durable queue without arguments."""
    queue = name()
    channel.queue_declare(queue, durable=True)
    return queue


@pytest.fixture
def refused() -> Callable[..., Any]:
    """``with refused(code, text):`` the broker closes the channel with exactly this reply."""

    @contextlib.contextmanager
    def _refused(code: int, text: str) -> Iterator[None]:
        with pytest.raises(ChannelClosedByBroker) as caught:
            yield
        assert (caught.value.reply_code, caught.value.reply_text) == (code, text)

    return _refused


@pytest.fixture
def kicked() -> Callable[..., Any]:
    """``with kicked(code, text):`` the broker closes the connection with exactly this reply."""

    @contextlib.contextmanager
    def _kicked(code: int, text: str) -> Iterator[None]:
        with pytest.raises(ConnectionClosedByBroker) as caught:
            yield
        assert (caught.value.reply_code, caught.value.reply_text) == (code, text)

    return _kicked


@pytest.fixture
def collect() -> Callable[..., Any]:
    """Let the broker deliver until the inbox (or several, in a list or tuple of them) holds ``expected`` messages.

    Then a moment longer: whatever comes beyond is a failure to see.
    """

    def _collect(channel: Any, inbox: Any, expected: int) -> Any:
        inboxes = inbox if inbox and isinstance(inbox[0], list) else [inbox]
        deadline = time.monotonic() + 60
        while sum(map(len, inboxes)) < expected and time.monotonic() < deadline:
            channel.connection.process_data_events(time_limit=0.02)
        channel.connection.process_data_events(time_limit=0.03)
        return inbox

    return _collect


@pytest.fixture
def subscribe() -> Callable[..., list[Any]]:
    """Start a consumer; the list it returns fills with ``(method, properties, body)``."""

    def _subscribe(channel: Any, queue: str, **arguments: Any) -> list[Any]:
        inbox: list[Any] = []
        channel.basic_consume(queue, lambda _channel, *delivery: inbox.append(delivery), **arguments)
        return inbox

    return _subscribe


@pytest.fixture
def until() -> Callable[..., Any]:
    """Poll ``read`` until it returns ``expected``; the last reading, for the assertion."""

    def _until(read: Callable[[], Any], expected: Any) -> Any:
        deadline = time.monotonic() + 60
        while (found := read()) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    return _until


class RawClient:
    """A plain AMQP client: it sends what it is given, and shows every frame that comes back."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=60)
        self._buffer = b""

    def send(self, *parts: Any, channel: int = 0) -> None:
        """Methods of ``pamqp``, or raw bytes."""
        encoded = (p if isinstance(p, bytes) else pamqp_frame.marshal(p, channel) for p in parts)
        self.socket.sendall(b"".join(encoded))

    def receive(self) -> Any:
        """The next frame but heartbeats; None when the broker has closed the connection."""
        while True:
            if len(self._buffer) >= 7:
                (size,) = struct.unpack_from(">I", self._buffer, 3)
                if len(self._buffer) >= size + 8:
                    raw, self._buffer = self._buffer[: size + 8], self._buffer[size + 8 :]
                    if raw[0] == 8:
                        continue
                    return pamqp_frame.unmarshal(raw)[2]
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._buffer += data

    def expect(self, kind: type) -> Any:
        """The next frame, which must be of this kind."""
        received = self.receive()
        assert isinstance(received, kind), received and dict(received)
        return received

    def handshake(self, **tune: int) -> None:
        """Log in as guest and open the virtual host."""
        self.send(b"AMQP\x00\x00\x09\x01")
        self.expect(commands.Connection.Start)
        self.send(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"))
        offer = self.expect(commands.Connection.Tune)
        self.send(
            commands.Connection.TuneOk(
                tune.get("channel_max", offer.channel_max),
                tune.get("frame_max", offer.frame_max),
                tune.get("heartbeat", 0),
            ),
            commands.Connection.Open("/"),
        )
        self.expect(commands.Connection.OpenOk)

    def open_channel(self, number: int = 1) -> None:
        self.send(commands.Channel.Open(), channel=number)
        self.expect(commands.Channel.OpenOk)


@pytest.fixture
def new_raw(broker: BrokerUnderTest) -> Iterator[Callable[[], RawClient]]:
    """Opens TCP connections on which nothing was said yet."""
    clients: list[RawClient] = []

    def _new_raw() -> RawClient:
        clients.append(RawClient(broker.address))
        return clients[-1]

    yield _new_raw
    for client in clients:
        client.socket.close()


@pytest.fixture
def raw(new_raw: Callable[[], RawClient]) -> RawClient:
    """One such connection."""
    return new_raw()


@pytest.fixture
def raw_open(raw: RawClient) -> RawClient:
    """A connection with channel 1 open."""
    raw.handshake()
    raw.open_channel(1)
    return raw
