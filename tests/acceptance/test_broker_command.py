"""`pace broker`: each kind runs in the foreground, is found by other programs, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
import pytest

from backpressure.cli.local_brokers import answers
from backpressure.transports.private_process import PREFIX, ReservedPorts
from backpressure.transports.rabbitmq_node import find_rabbitmq

FOUND = "find it without --url"
BESIDE = "port 5672 has a broker too"


def _entries(directory: Path) -> list[Path]:
    return list((directory / "state" / "pace-matching" / "brokers").glob("*"))


def test_a_broker_on_a_free_port_is_used_by_a_program_that_has_none_configured(pace: Any, tmp_path: Path) -> None:
    broker = pace("broker", "--port", "0", "--management-port", "0")
    address = broker.says(r"ready on amqp://guest:guest@(127\.0\.0\.1:\d+), management on (\S+);")
    if answers("localhost", 5672):  # somebody works on this machine with a broker on the usual port
        broker.says(BESIDE)
    else:
        broker.says(FOUND)
        producer = pace("producer", "--count", "3", "--no-wait", "--no-api")
        producer.says(f"using the broker that pace broker started at amqp://{address[1]}")
        producer.says("confirmed=3")
        assert producer.ends() == 0
    broker.signal(signal.SIGINT)
    assert broker.ends() == 0
    assert _entries(tmp_path) == []


def test_an_unlisted_broker_is_not_found(pace: Any, tmp_path: Path) -> None:
    broker = pace("broker", "--port", "0", "--management-port", "0", "--unlisted")
    broker.says("ready on amqp")
    assert _entries(tmp_path) == []


def test_options_of_the_embedded_broker_before_another_kind_are_refused(pace: Any) -> None:
    refused = pace("broker", "--port", "5700", "rabbitmq")
    refused.says("--port before rabbitmq belongs to the embedded broker: see pace broker rabbitmq --help")
    assert refused.ends() == 2


@pytest.mark.rabbitmq
def test_a_taken_port_is_named_with_its_flag(
    pace: Any, go_without: Callable[[str, str], NoReturn], tmp_path: Path
) -> None:
    _needs_rabbitmq(go_without)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        refused = pace("broker", "rabbitmq", "--port", str(port))
        refused.says(f"port {port} on 127.0.0.1 is taken: choose another one with --port")
        assert refused.ends() == 3
    assert list((tmp_path / "temporary").glob(f"{PREFIX}*")) == []


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_a_rabbitmq_node_listens_on_the_ports_asked_for_and_ctrl_c_removes_it(
    pace: Any, go_without: Callable[[str, str], NoReturn], tmp_path: Path
) -> None:
    _needs_rabbitmq(go_without)
    with ReservedPorts() as reserved:
        port, management_port = reserved.reserve([(0, ""), (0, "")])
    node = pace("broker", "rabbitmq", "--port", str(port), "--management-port", str(management_port))
    node.says(
        f"RabbitMQ is ready on amqp://guest:guest@127.0.0.1:{port}, management on http://127.0.0.1:{management_port};"
    )
    overview = httpx.get(
        f"http://127.0.0.1:{management_port}/api/overview", auth=("guest", "guest"), trust_env=False, timeout=60
    )
    assert overview.json()["product_name"] == "RabbitMQ"
    assert len(_entries(tmp_path)) == 1
    administer = node.says("to administer it: (.*) COMMAND")[1]
    listed = subprocess.run(f"{administer} list_users --quiet", shell=True, capture_output=True, text=True, check=True)
    assert "guest\t[administrator]" in listed.stdout
    node.signal(signal.SIGINT)
    assert node.ends() == 0
    assert "Traceback" not in node.text
    assert _entries(tmp_path) == []
    assert list((tmp_path / "temporary").glob(f"{PREFIX}*")) == []


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_a_node_that_dies_ends_the_command_with_an_error(pace: Any, go_without: Callable[[str, str], NoReturn]) -> None:
    _needs_rabbitmq(go_without)
    command = pace("broker", "rabbitmq")
    command.says("RabbitMQ is ready")
    (node,) = [child for child in psutil.Process(command.pid).children(recursive=True) if child.name() == "beam.smp"]
    os.kill(node.pid, signal.SIGKILL)
    command.says("RabbitMQ has ended unexpectedly")
    assert command.ends() == 3


@pytest.mark.rabbitmq
def test_ctrl_c_while_it_starts_ends_it_at_once(
    pace: Any, go_without: Callable[[str, str], NoReturn], wait_until: Any, tmp_path: Path
) -> None:
    _needs_rabbitmq(go_without)
    command = pace("broker", "rabbitmq")
    wait_until(lambda: list((tmp_path / "temporary").glob(f"{PREFIX}*/output")), "the node is being started")
    command.signal(signal.SIGINT)
    assert command.ends() == 0
    assert "Traceback" not in command.text
    assert list((tmp_path / "temporary").glob(f"{PREFIX}*")) == []


def _needs_rabbitmq(go_without: Callable[[str, str], NoReturn]) -> None:
    if find_rabbitmq() is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")
