"""The embedded broker as a process: options, announcement, signals, and faults over HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pika
import pytest
from pika.exceptions import AMQPConnectionError, ConnectionClosedByBroker, NackError, ProbableAuthenticationError

from backpressure.broker.__main__ import main
from backpressure.broker.handshake import RABBITMQ_VERSION
from backpressure.transports.rabbitmq.wire import WireConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "backpressure.broker"]
ANY_PORTS = ["--port", "0", "--management-port", "0"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict[str, Any]]]]:
    """Start a broker with options; its process and its announcement."""
    processes = []

    def _start(*options: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        announce = tmp_path / "broker.json"
        command = [*COMMAND, *ANY_PORTS, "--announce", str(announce), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        deadline = time.monotonic() + 60
        while not announce.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process, json.loads(announce.read_text())

    yield _start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def faults(embedded_broker: Any) -> Iterator[httpx.Client]:
    """The management API of the shared broker, which is healthy again after the test."""
    with httpx.Client(
        base_url=f"{embedded_broker.management_url}/api", auth=("guest", "guest"), trust_env=False, timeout=60
    ) as client:
        yield client
        client.delete("/faults")


def connect(url: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(url))


def listen(connection: pika.BlockingConnection) -> None:
    """Until the connection ends, which is an error."""
    while True:
        connection.process_data_events(time_limit=0.05)


def test_the_announcement_says_where_the_broker_is(start: Any) -> None:
    process, about = start()
    assert about["role"] == "broker"
    assert about["pid"] == process.pid
    assert about["url"] == f"amqp://guest:guest@127.0.0.1:{about['port']}/"
    connect(about["url"]).close()
    with httpx.Client(auth=("guest", "guest"), trust_env=False, timeout=60) as client:
        answer = client.get(f"http://127.0.0.1:{about['management_port']}/api/overview")
    assert (answer.json()["product_name"], answer.json()["rabbitmq_version"]) == ("RabbitMQ", RABBITMQ_VERSION)
    assert answer.json()["implementation"] == "Pace Matching embedded broker"
    assert answer.json()["implementation_version"] == about["version"]


def test_it_gives_its_own_name_when_configured(start: Any) -> None:
    _, about = start("--own-name")

    async def server_properties() -> dict[str, Any]:
        connection = await WireConnection.dial(pika.URLParameters(about["url"]))
        properties = dict(connection.server_properties)
        await connection.shut()
        return properties

    properties = asyncio.run(server_properties())
    assert (properties["product"], properties["version"]) == ("Pace Matching embedded broker", about["version"])


def test_a_denied_prefetch_of_a_channel_counts_for_each_consumer(start: Any) -> None:
    _, about = start("--deny", "global_qos")
    with connect(about["url"]) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        for _ in range(8):
            channel.basic_publish("", queue, b"")
        channel.basic_qos(prefetch_count=2, global_qos=True)
        tags: list[str] = []
        for _ in range(2):
            channel.basic_consume(queue, lambda _channel, method, *_: tags.append(method.consumer_tag))
        while len(tags) < 4:
            connection.process_data_events(time_limit=1)
        assert channel.queue_declare(queue, passive=True).method.message_count == 4
        assert sorted(map(tags.count, set(tags))) == [2, 2]


def test_a_denied_kind_of_queue_ends_the_connection(start: Any) -> None:
    _, about = start("--deny", "transient_nonexcl_queues")
    with connect(about["url"]) as connection:
        channel = connection.channel()
        channel.queue_declare("kept", durable=True)
        channel.queue_declare("own", exclusive=True)
    answer = httpx.put(
        f"http://127.0.0.1:{about['management_port']}/api/queues/%2F/q",
        auth=("guest", "guest"),
        json={},
        trust_env=False,
        timeout=60,
    )
    assert (answer.status_code, "`transient_nonexcl_queues`" in answer.text) == (400, True)
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match=r"541.*`transient_nonexcl_queues`"):
        connect(about["url"]).channel().queue_declare("lost")


def test_a_user_of_ones_own_logs_in_to_both_ports(start: Any) -> None:
    _, about = start("--user", "ana:s3cret:word")
    connect(about["url"].replace("guest:guest", "ana:s3cret%3Aword")).close()
    answer = httpx.get(
        f"http://127.0.0.1:{about['management_port']}/api/whoami",
        auth=("ana", "s3cret:word"),
        trust_env=False,
        timeout=60,
    )
    assert answer.json()["name"] == "ana"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return certificate, key


def test_both_ports_speak_tls_with_a_certificate(start: Any, certificate: tuple[Path, Path]) -> None:
    paths = ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    _, about = start(*paths, "--tls-port", "0", "--management-tls-port", "0")
    context = ssl.create_default_context(cafile=str(certificate[0]))
    parameters = pika.ConnectionParameters("127.0.0.1", about["tls_port"], ssl_options=pika.SSLOptions(context))
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"x" * 500_000)
    assert channel.basic_get(queue)[2] == b"x" * 500_000
    url = f"https://127.0.0.1:{about['management_tls_port']}/api"
    with httpx.Client(auth=("guest", "guest"), verify=context, trust_env=False, timeout=60) as client:
        assert client.get(f"{url}/overview").json()["object_totals"]["connections"] == 1
        assert client.get(f"{url}/health/checks/protocol-listener/https").status_code == 200
        too_long = client.put(f"{url}/faults", content=bytes((8 << 20) + 1))
    assert too_long.status_code == 413
    connection.close()
    connect(about["url"]).close()


def test_a_certificate_that_cannot_be_used_says_why(
    certificate: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, reason in ((tmp_path / "missing.pem", "No such file"), (certificate[1], "PEM form")):
        assert main([*ANY_PORTS, "--tls-cert", str(path), "--tls-port", "0", "--management-tls-port", "0"]) == 2
        assert reason in capsys.readouterr().err


DEFINITIONS = {
    "rabbit_version": "3.13.7",
    "users": [{"name": "ops", "password_hash": "x", "tags": ["administrator"]}],
    "vhosts": [{"name": "shop"}],
    "queues": [{"name": "orders", "vhost": "shop", "durable": True, "arguments": {"x-max-length": 3}}],
    "exchanges": [{"name": "events", "vhost": "shop", "type": "topic", "durable": True}],
    "bindings": [
        {"source": "events", "vhost": "shop", "destination": "orders", "destination_type": "queue", "routing_key": "#"}
    ],
    "policies": [{"name": "ttl", "vhost": "shop", "pattern": "^orders$", "definition": {"message-ttl": 60000}}],
}


def test_the_topology_of_another_broker_is_taken_over_from_its_definitions(start: Any, tmp_path: Path) -> None:
    definitions = tmp_path / "definitions.json"
    definitions.write_text(json.dumps(DEFINITIONS))
    _, about = start("--definitions", str(definitions))
    connection = connect(about["url"])
    channel = connection.channel()
    channel.basic_publish("events", "order.placed", b"x")
    assert channel.queue_declare("orders", durable=True, arguments={"x-max-length": 3}).method.message_count == 1
    answer = httpx.get(
        f"http://127.0.0.1:{about['management_port']}/api/policies",
        auth=("guest", "guest"),
        trust_env=False,
        timeout=60,
    )
    assert answer.json()[0]["definition"] == {"message-ttl": 60000}
    connection.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("{", "cannot be used"),
        ("[]", "is not a JSON object"),
        ('{"queues": [{"name": "q", "vhost": "a"}, {"name": "q", "vhost": "b"}]}', "one virtual host"),
        ('{"queues": [{"name": "q", "arguments": {"x-max-length": -1}}]}', "value_negative"),
        ('{"bindings": [{"source": "amq.topic", "destination": "q"}]}', "no queue 'q'"),
        ('{"queues": 5}', "must be a list"),
    ],
)
def test_definitions_that_cannot_be_used_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, reason: str
) -> None:
    definitions = tmp_path / "definitions.json"
    if text is not None:
        definitions.write_text(text)
    assert main([*ANY_PORTS, "--definitions", str(definitions)]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--port", "65536"), ("--max-connections", "0"), ("--memory-limit-mb", "nan")])
def test_a_number_beyond_its_limits_is_a_usage_error(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*option])
    assert ended.value.code == 2
    assert f"argument {option[0]}: expected " in capsys.readouterr().err


def test_a_user_without_a_password_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--user", "ana"]) == 2
    assert "NAME:PASSWORD" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_connections_and_ends_the_broker_cleanly(start: Any, number: signal.Signals) -> None:
    process, about = start()
    connection = connect(about["url"])
    process.send_signal(number)
    with pytest.raises(ConnectionClosedByBroker, match=r"320.*CONNECTION_FORCED"):
        listen(connection)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.startswith(f"embedded broker ready on {about['url'].rstrip('/')}, management on http://127.0.0.1:")
    assert "for experiments on this machine only, nothing survives a restart" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("flag", ["--port", "--management-port"])
def test_a_taken_port_is_named_with_its_flag(start: Any, flag: str) -> None:
    _, about = start()
    port = str(about["port"])
    options = {"--port": "0", "--management-port": "0", flag: port}
    second = subprocess.run(
        [*COMMAND, *(word for pair in options.items() for word in pair)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 3
    assert f"port {port} on 127.0.0.1 is taken" in second.stderr
    assert flag in second.stderr


def test_connections_beyond_the_limit_are_closed_at_once(start: Any) -> None:
    _, about = start("--max-connections", "1")
    first = connect(about["url"])
    with pytest.raises(AMQPConnectionError):
        connect(about["url"])
    first.close()
    connect(about["url"]).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "example.org"])
@pytest.mark.parametrize("users", [[], ["--user", "guest:guest"]])
def test_it_listens_beyond_loopback_for_users_of_ones_own_only(host: str, users: list[str]) -> None:
    done = subprocess.run([*COMMAND, *ANY_PORTS, "--host", host, *users], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--host" in done.stderr


def test_beyond_loopback_guest_is_unknown_and_the_management_api_stays_here(start: Any) -> None:
    _, about = start("--host", "0.0.0.0", "--user", "me:secret")
    assert about["management_host"] == "127.0.0.1"
    connect(f"amqp://me:secret@127.0.0.1:{about['port']}/").close()
    with pytest.raises(ProbableAuthenticationError):
        connect(f"amqp://guest:guest@127.0.0.1:{about['port']}/")


def test_a_client_that_does_not_read_is_held_and_then_served_in_full(start: Any) -> None:
    _, about = start()
    connection, size, count = connect(about["url"]), 100_000, 300
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("q")
    reader = connect(about["url"])
    inbox: list[int] = []
    reader.channel().basic_consume("q", lambda *delivery: inbox.append(len(delivery[3])), auto_ack=True)
    for _ in range(count):
        channel.basic_publish("", "q", b"x" * size)
    waiting = channel.queue_declare("q", passive=True).method.message_count
    assert waiting > count / 3  # the rest is in the sockets of both sides
    while len(inbox) < count:
        reader.process_data_events(time_limit=0.05)
    assert inbox == [size] * count
    reader.close()
    connection.close()


@pytest.mark.parametrize("option", [("--fault", "nack_share=2"), ("--deny", "nack_share")])
def test_a_fault_or_a_feature_that_is_none_is_a_usage_error(option: tuple[str, str]) -> None:
    done = subprocess.run([*COMMAND, *option], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nack_share" in done.stderr


def test_a_broker_can_start_with_a_fault(start: Any) -> None:
    _, about = start("--fault", "nack-share=1")
    connection = connect(about["url"])
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(NackError):
        channel.basic_publish("", "anywhere", b"x")
    connection.close()


def test_faults_come_and_go_over_http(embedded_broker: Any, faults: httpx.Client) -> None:
    connection = connect(embedded_broker.url)
    channel = connection.channel()
    channel.confirm_delivery()
    assert faults.put("/faults", json={"nack_share": 1}).json()["nack_share"] == 1
    with pytest.raises(NackError):
        channel.basic_publish("", "anywhere", b"x")
    assert faults.delete("/faults").status_code == 204
    channel.basic_publish("", "anywhere", b"x")
    assert faults.get("/faults").json()["nack_share"] == 0
    connection.close()


def test_a_fault_that_makes_no_sense_changes_nothing(faults: httpx.Client) -> None:
    answer = faults.put("/faults", json={"confirm_delay_ms": 5, "nack_share": 7})
    assert answer.status_code == 400
    assert "nack_share" in answer.json()["reason"]
    assert faults.get("/faults").json()["confirm_delay_ms"] == 0


def test_connections_can_be_dropped(embedded_broker: Any, faults: httpx.Client) -> None:
    connection = connect(embedded_broker.url)
    assert faults.post("/faults/drop-connections").json()["dropped"] >= 1
    with pytest.raises(AMQPConnectionError):
        listen(connection)


def test_a_forced_memory_alarm_is_seen_by_the_node_and_the_publisher(
    embedded_broker: Any, faults: httpx.Client
) -> None:
    blocked: list[str] = []
    connection = connect(embedded_broker.url)
    connection.add_on_connection_blocked_callback(lambda _connection, frame: blocked.append(frame.method.reason))
    connection.add_on_connection_unblocked_callback(lambda _connection, _frame: blocked.append("unblocked"))
    channel = connection.channel()
    faults.put("/faults", json={"memory_alarm": True})
    assert faults.get("/nodes").json()[0]["mem_alarm"] is True
    channel.basic_publish("", "anywhere", b"x")
    while not blocked:
        connection.process_data_events(time_limit=0.05)
    faults.delete("/faults")
    while len(blocked) < 2:
        connection.process_data_events(time_limit=0.05)
    assert blocked == ["low on memory", "unblocked"]
    connection.close()


def test_idle_connections_beyond_the_limit_on_open_files_lock_out_no_client(tmp_path: Path) -> None:
    announce, said = tmp_path / "broker.json", tmp_path / "stderr"
    limited = "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)); "
    module = "runpy.run_module('backpressure.broker', run_name='__main__')"
    command = [sys.executable, "-c", limited + module, *ANY_PORTS, "--announce", str(announce)]
    with said.open("w") as stderr, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr) as process:
        idle: list[socket.socket] = []
        try:
            deadline = time.monotonic() + 60
            while not announce.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            about = json.loads(announce.read_text())
            client = connect(about["url"])
            for port in (about["management_port"], about["port"]):
                idle += [socket.create_connection(("127.0.0.1", port)) for _ in range(350)]
            client.process_data_events(time_limit=0.1)
            with httpx.Client(auth=("guest", "guest"), trust_env=False, timeout=60) as http:
                overview = http.get(f"http://127.0.0.1:{about['management_port']}/api/overview").json()
            assert 1 < overview["object_totals"]["connections"] <= 80
            for connection in idle:
                connection.close()
            connect(about["url"]).close()
            client.close()
        finally:
            for connection in idle:
                connection.close()
            process.kill()
    assert len(said.read_text().splitlines()) == 1, said.read_text()[:1000]
    assert "at most 80 AMQP connections instead of 1000" in said.read_text()
