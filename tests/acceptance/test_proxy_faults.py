"""`pace proxy` with TLS, and when the broker, the network or a client fails: nothing confirmed is lost."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pika
import pytest
from pamqp import commands
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError
from proxied import PATIENCE_S, Broker, Running, proxying, send_with_pika, silent_network, started, until

from backpressure.amqp.methods import method_frame

LOST = (AMQPError, AMQPConnectorException, OSError)
HEADER = b"AMQP\x00\x00\x09\x01"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.fixture
def secured(certificate: tuple[Path, Path], tmp_path: Path) -> Iterator[Running]:
    """Both sides speak TLS."""
    pem = [str(path) for path in certificate]
    tls = ["--tls-cert", pem[0], "--tls-key", pem[1]]
    broker = Broker(tmp_path, [*tls, "--tls-port", "0", "--management-tls-port", "0"])
    broker.start()
    try:
        upstream = f"amqps://guest:guest@127.0.0.1:{broker.at['tls_port']}/"
        trust = {"PACE_BROKER__CA_FILE": pem[0]}
        with proxying(tmp_path, upstream, "--queue", "orders", *tls, environment=trust) as running:
            yield running
    finally:
        broker.stop()


def port_of(running: Running) -> int:
    return urlsplit(running.url).port or 0


def at(running: Running, **more: Any) -> pika.ConnectionParameters:
    return pika.ConnectionParameters("127.0.0.1", port_of(running), **more)


def publish_until_lost(url: str, confirmed: set[int], ended: threading.Event) -> None:
    """Publish with confirms, connect again whenever the connection is lost, and note what was confirmed."""
    number = 0
    while not ended.is_set():
        with contextlib.suppress(*LOST), pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.queue_declare("orders", durable=True)
            channel.confirm_delivery()
            while not ended.is_set():
                number += 1
                persistent = pika.BasicProperties(delivery_mode=2)
                channel.basic_publish("", "orders", b"%d" % number, persistent, mandatory=True)
                confirmed.add(number)
        time.sleep(0.05)


def work_until_lost(url: str, done: set[int], ended: threading.Event) -> None:
    """Consume, connect again whenever the connection is lost, and note what was worked on; in the end, all of it."""
    while not ended.is_set():
        with contextlib.suppress(*LOST), pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.queue_declare("orders", durable=True)
            channel.basic_qos(prefetch_count=5)
            for method, _, body in channel.consume("orders", inactivity_timeout=0.1):
                if method is None:
                    if ended.is_set():
                        return
                    continue
                time.sleep(0.005)
                channel.basic_ack(method.delivery_tag)
                done.add(int(body))
        time.sleep(0.05)


@contextlib.contextmanager
def at_work(url: str) -> Iterator[set[int]]:
    """A producer with confirms and a consumer; what the consumer has worked on, in the end all that was confirmed."""
    confirmed, done = set[int](), set[int]()
    sending, working = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=publish_until_lost, args=(url, confirmed, sending)),
        threading.Thread(target=work_until_lost, args=(url, done, working)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield done
        sending.set()
        threads[0].join(60)
        assert until(lambda: confirmed <= done), "a message that was confirmed is lost"
    finally:
        sending.set()
        working.set()
        for thread in threads:
            thread.join(60)


def goes_on(done: set[int], count: int = 20) -> bool:
    """Return whether more is done soon."""
    before = len(done)
    return until(lambda: len(done) >= before + count)


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_tls_on_both_sides_carries_messages_and_paces_them(secured: Running, trusting: ssl.SSLContext) -> None:
    assert secured.url.startswith("amqps://")
    with pika.BlockingConnection(at(secured, ssl_options=pika.SSLOptions(trusting))) as connection:
        channel = connection.channel()
        channel.queue_declare("orders", durable=True)
        channel.confirm_delivery()
        large = b"x" * 1_000_000
        for body in (b"small", large):
            channel.basic_publish("", "orders", body, mandatory=True)
        got = [channel.basic_get("orders", auto_ack=True)[2] for _ in range(2)]
        assert got == [b"small", large]
    assert secured.paced()["confirmed"] == 2


def test_who_speaks_no_tls_or_does_not_trust_the_certificate_gets_one_line_and_harms_nobody(
    secured: Running, trusting: ssl.SSLContext
) -> None:
    with pytest.raises(AMQPError):
        pika.BlockingConnection(at(secured))
    with pytest.raises(ssl.SSLCertVerificationError):
        pika.BlockingConnection(at(secured, ssl_options=pika.SSLOptions(ssl.create_default_context())))
    with socket.create_connection(("127.0.0.1", port_of(secured))):
        pass
    with pika.BlockingConnection(at(secured, ssl_options=pika.SSLOptions(trusting))) as connection:
        connection.channel().queue_declare("orders", durable=True)

    def warnings() -> list[str]:
        return [line for line in secured.log.read_text().splitlines() if "no TLS with" in line and "WARN" in line]

    assert until(lambda: len(warnings()) >= 2)
    told = warnings()
    assert len(told) == 2
    assert "it speaks no TLS: its URL needs amqps://" in told[0]
    assert "unknown ca" in told[1]


def test_a_broker_with_a_certificate_that_is_not_trusted_is_one_clear_line(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    tls = ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    broker = Broker(tmp_path, [*tls, "--tls-port", "0", "--management-tls-port", "0"])
    broker.start()
    try:
        upstream = f"amqps://127.0.0.1:{broker.at['tls_port']}/"
        command = [sys.executable, "-m", "backpressure", "proxy", "--listen", "127.0.0.1:0", "--no-api", "--no-wait"]
        finished = subprocess.run(
            [*command, "--upstream", upstream], capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        broker.stop()
    assert finished.returncode != 0
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "certificate" in errors[0]
    assert "Traceback" not in finished.stderr


# --- the broker -------------------------------------------------------------------------------------------------------


def test_what_was_confirmed_survives_a_broker_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with started(tmp_path, "--queue", "orders", broker_options=["--data-dir", data]) as running:
        with at_work(running.url) as done:
            for _ in range(2):
                assert goes_on(done)
                running.broker.stop()
                running.broker.start()
            assert goes_on(done)
        assert running.status()["obstacle"] == ""
        assert running.paced()["state"] == "pacing"


def test_a_broker_that_hangs_for_a_while_loses_nothing_and_the_proxy_goes_on(tmp_path: Path) -> None:
    with started(tmp_path, "--queue", "orders") as running, at_work(running.url) as done:
        assert goes_on(done)
        running.broker.process.send_signal(signal.SIGSTOP)
        late: list[str] = []
        joining = threading.Thread(target=lambda: late.append(connect_once(running.url)))
        joining.start()
        assert until(lambda: running.status()["connections"] == 3)  # the proxy answers, and takes in others
        before = len(done)
        time.sleep(1.0)
        assert len(done) <= before + 5
        running.broker.process.send_signal(signal.SIGCONT)
        joining.join(60)
        assert late == ["open"]
        assert goes_on(done)


def test_what_was_confirmed_survives_a_proxy_that_is_killed_in_the_middle(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.start()
    try:
        with contextlib.ExitStack() as proxies:
            running = proxies.enter_context(proxying(tmp_path / "1", broker.url, "--queue", "orders", broker=broker))
            listen = ("--queue", "orders", "--listen", f"127.0.0.1:{port_of(running)}")
            with at_work(running.url) as done:
                for turn in ("2", "3"):
                    assert goes_on(done)
                    running.process.kill()
                    running.process.wait(60)
                    following = proxying(tmp_path / turn, broker.url, *listen, broker=broker)
                    running = proxies.enter_context(following)
                assert goes_on(done)
    finally:
        broker.stop()


def test_what_was_confirmed_survives_a_network_before_the_broker_that_goes_silent(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.start()
    try:
        with silent_network(broker.at["port"]) as network:
            upstream = f"amqp://guest:guest@127.0.0.1:{network.port}/"
            soon = {"PACE_BROKER__HEARTBEAT_S": "1", "PACE_BROKER__CONNECT_TIMEOUT_S": "1"}
            proxy = proxying(tmp_path / "proxy", upstream, "--queue", "orders", broker=broker, environment=soon)
            with proxy as running, at_work(f"{running.url}?heartbeat=1&stack_timeout=2") as done:
                assert goes_on(done)
                network.silence()
                with contextlib.suppress(*LOST):  # a client that comes now is turned away in the end
                    connect_once(f"{running.url}?stack_timeout=2")
                network.mend()
                assert goes_on(done)
                assert running.process.poll() is None
    finally:
        broker.stop()


def test_what_a_client_held_goes_to_another_when_its_network_goes_silent(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(started(tmp_path, "--queue", "orders"))
        send_with_pika(running.broker_url, 10)
        vanished_later = stack.enter_context(contextlib.ExitStack())
        network = stack.enter_context(silent_network(port_of(running)))
        vanished = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", network.port, heartbeat=1))
        vanished_later.callback(closed, vanished)  # after its network has ended
        bodies = [vanished.channel().basic_get("orders")[2] for _ in range(5)]
        network.silence()
        with pika.BlockingConnection(at(running)) as other:
            channel = other.channel()
            while len(bodies) < 15:  # five of them for the second time
                method, _, body = channel.basic_get("orders")
                if method is None:
                    other.process_data_events(0.05)
                else:
                    bodies.append(body)
                    channel.basic_ack(method.delivery_tag)
            assert set(bodies[5:]) == {b"%d" % number for number in range(10)}
            assert until(lambda: running.status()["connections"] == 1)


def closed(connection: pika.BlockingConnection) -> None:
    with contextlib.suppress(*LOST):
        connection.close()


def connect_once(url: str) -> str:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return "open" if connection.is_open else "closed"


@contextlib.contextmanager
def fake_broker(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen, and ``talk`` with each connection in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=shielded, args=(connection,), daemon=True).start()

        def shielded(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_a_broker_that_never_answers_costs_a_client_its_connection_after_a_while(tmp_path: Path) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    limits = {"PACE_BROKER__CONNECT_TIMEOUT_S": "0.3"}
    with (
        fake_broker(silent) as port,
        proxying(tmp_path, f"amqp://127.0.0.1:{port}/", environment=limits) as running,
        socket.create_connection(("127.0.0.1", port_of(running)), timeout=60) as client,
    ):
        client.sendall(HEADER)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
        assert until(lambda: "did not agree within 0.9 s: closed" in running.log.read_text())
        assert running.process.poll() is None


def test_nonsense_from_a_broker_reaches_its_client_alone(tmp_path: Path) -> None:
    """Each connection gets the start of a handshake, and then noise."""
    chance = random.Random(16)
    start = method_frame(0, commands.Connection.Start(0, 9, {}, "PLAIN", "en_US"))
    tune = method_frame(0, commands.Connection.Tune(2047, 131072, 0)) + method_frame(0, commands.Connection.OpenOk())
    sane = threading.Event()

    def noisy(connection: socket.socket) -> None:
        connection.recv(8)
        kinds = [start + tune, start, b"", tune]
        noise = b"".join(
            chance.choice(
                [
                    chance.randbytes(chance.randrange(60)),
                    bytes([chance.choice([1, 2, 3, 8])]) + chance.randbytes(chance.randrange(1, 40)),
                    method_frame(1, commands.Basic.Deliver("c", chance.randrange(1 << 63), False, "", "orders")),
                ]
            )
            for _ in range(20)
        )
        connection.sendall(chance.choice(kinds) + noise)
        connection.recv(1000)
        sane.set()

    limits = {"PACE_BROKER__CONNECT_TIMEOUT_S": "2"}
    with (
        fake_broker(noisy) as port,
        proxying(tmp_path, f"amqp://127.0.0.1:{port}/", environment=limits) as running,
    ):
        for _ in range(150):
            with (
                socket.create_connection(("127.0.0.1", port_of(running)), timeout=60) as client,
                contextlib.suppress(OSError),
            ):
                client.sendall(HEADER)
                assert client.recv(10_000) is not None
                client.sendall(b"\x01\x00\x01\x00\x00\x00\x05\x00\x14\x00\x0a\x00\xce" + chance.randbytes(30))
        assert sane.is_set()
        assert running.process.poll() is None
        assert until(lambda: running.status()["connections"] == 0)


# --- clients ----------------------------------------------------------------------------------------------------------


def test_a_held_client_that_asks_for_heartbeats_stays_connected(tmp_path: Path) -> None:
    with started(tmp_path, "--queue", "orders") as running:
        httpx.post(f"{running.api_url}/admin/config", json={"paused": True}, trust_env=False, timeout=PATIENCE_S)
        with pika.BlockingConnection(at(running, heartbeat=1)) as connection:
            channel = connection.channel()
            channel.queue_declare("orders", durable=True)
            for _ in range(16):  # four times what the broker would wait for
                channel.basic_publish("", "orders", b"x")
                connection.process_data_events(0.25)
            assert running.status()["held_messages"] == 16
            httpx.post(
                f"{running.api_url}/admin/config",
                json={"paused": False, "dry_run": True},
                trust_env=False,
                timeout=PATIENCE_S,
            )
            assert until(lambda: connection.process_data_events(0) or running.paced()["published"] == 16)  # type: ignore[func-returns-value]


def test_each_protocol_is_refused_in_its_own_words_where_it_has_some(tmp_path: Path) -> None:
    mqtt_4 = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
    mqtt_5 = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00"
    stream = b"\x00\x00\x00\x0c\x00\x11\x00\x01\x00\x00\x00\x07\x00\x00\x00\x00"
    expected = {
        b"AMQP\x00\x01\x00\x00": HEADER,
        mqtt_4: b"\x20\x02\x00\x01",
        mqtt_5: b"\x20\x03\x00\x84\x00",
        stream: b"\x00\x00\x00\x0a\x80\x11\x00\x01\x00\x00\x00\x07\x00\x0d",
        b"CONNECT\naccept-version:1.2\n\n\x00": HEADER,
    }
    with started(tmp_path) as running:
        for first, answer in expected.items():
            with socket.create_connection(("127.0.0.1", port_of(running)), timeout=60) as client:
                client.sendall(first)
                assert client.recv(100) == answer
                assert client.recv(100) == b""
        text = running.log.read_text()
        for name in ("AMQP 1.0", "MQTT", "RabbitMQ's stream protocol", "STOMP"):
            assert f"speaks {name}: the proxy understands AMQP 0-9-1 only" in text
