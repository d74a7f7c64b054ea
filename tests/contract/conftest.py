"""The brokers of the contract tests: started once per worker, on free ports, in their own directories.

A missing RabbitMQ skips its share, or fails it: see ``go_without`` in ``tests/conftest.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from backpressure.transports.kafka_node import PrivateKafka, find_kafka, private_kafka
from backpressure.transports.private_process import ReservedPorts
from backpressure.transports.rabbitmq_node import PrivateNode, find_rabbitmq, private_node


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running embedded broker."""

    url: str
    management_url: str


@contextmanager
def _embedded(directory: Path, *options: str) -> Iterator[EmbeddedBroker]:
    announce = directory / "broker.json"
    command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
    process = subprocess.Popen([*command, "--announce", str(announce), *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not announce.exists():
            assert process.poll() is None, "the embedded broker did not start"
            assert time.monotonic() < deadline, "the embedded broker is not ready"
            time.sleep(0.02)
        about = json.loads(announce.read_text())
        yield EmbeddedBroker(about["url"], f"http://{about['host']}:{about['management_port']}")
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The embedded broker in a process of its own, with so little memory that a test can raise the alarm."""
    with _embedded(tmp_path_factory.mktemp("embedded"), "--memory-limit-mb", "16") as broker:
        yield broker


@pytest.fixture
def start_embedded() -> Iterator[Callable[[Path, int, int], subprocess.Popen[bytes]]]:
    """Returns what starts an embedded broker on given ports, to be killed by the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(directory: Path, port: int, management_port: int) -> subprocess.Popen[bytes]:
        announce = directory / f"{port}.json"
        ports = ["--port", str(port), "--management-port", str(management_port)]
        command = [sys.executable, "-m", "backpressure.broker", *ports, "--announce", str(announce)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        started.append(process)
        deadline = time.monotonic() + 60
        while not announce.exists():
            assert process.poll() is None, "the embedded broker did not start"
            assert time.monotonic() < deadline, "the embedded broker is not ready"
            time.sleep(0.02)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def rabbitmq_node(go_without: Callable[[str, str], NoReturn]) -> Iterator[PrivateNode]:
    """A private RabbitMQ node."""
    if find_rabbitmq() is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")
    with private_node() as node:
        yield node


@pytest.fixture(scope="session")
def kafka_node(go_without: Callable[[str, str], NoReturn]) -> Iterator[PrivateKafka]:
    """A private Kafka broker that sends its clients to a port where each story puts a proxy of its own."""
    if find_kafka() is None:
        go_without("kafka", "Java 17 or the jars that `make kafka` fetches are missing")
    with ReservedPorts() as reserved:
        (port,) = reserved.reserve([(0, "")])
        with private_kafka(advertised_port=port) as node:
            yield node
