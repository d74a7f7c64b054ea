"""What `pace doctor` says about Java, Kafka's jars, leftover private brokers, and who is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
from click.testing import CliRunner

from backpressure.cli import doctor
from backpressure.cli.commands import pace
from backpressure.errors import AccessRefusedError
from backpressure.transports import kafka_node
from backpressure.transports.management_models import Overview


def said(*flags: str) -> str:
    command = ["doctor", "--url", "memory://nowhere", *flags]
    return CliRunner().invoke(pace, command, env={"COLUMNS": "300"}).output


def line(subject: str) -> str:
    (found,) = [line for line in said().splitlines() if f" {subject} " in line]
    return " ".join(found.split())


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "left_over", dict)


def test_java_is_named_with_its_release_and_what_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "java_release", lambda: None)
    assert "note Java not installed for --broker kafka: apt-get install openjdk-17" in line("Java")
    monkeypatch.setattr(doctor, "java_release", lambda: 11)
    assert line("Java") == "note Java 11 Kafka needs 17 or later"
    monkeypatch.setattr(doctor, "java_release", lambda: 21)
    assert line("Java") == "ok Java 21"


def test_the_jars_are_named_with_their_release_and_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "java_release", lambda: 21)
    monkeypatch.setattr(doctor, "find_kafka", lambda: None)
    assert "note Kafka's jars missing for --broker kafka: make kafka, or KAFKA_HOME" in line("Kafka's jars")
    (tmp_path / "kafka_2.13-4.1.1.jar").touch()
    monkeypatch.setattr(doctor, "find_kafka", lambda: tmp_path)
    assert line("Kafka's jars") == f"ok Kafka's jars kafka_2.13-4.1.1 in {tmp_path}"


def test_a_private_broker_that_was_left_over_is_named_with_the_way_to_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "left_over", lambda: {Path("/tmp/pace-x"): [7, 8], Path("/tmp/pace-y"): []})
    first, second = [" ".join(line.split()) for line in said().splitlines() if "left over" in line]
    assert first == "note private Kafka left over in /tmp/pace-x kill 7 8; rm -r /tmp/pace-x"
    assert second == "note private Kafka left over in /tmp/pace-y rm -r /tmp/pace-y"


@pytest.mark.parametrize(
    ("text", "release"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_401"', 8), ("no such thing", None)],
)
def test_the_release_of_java_is_what_it_says_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, release: int | None
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho '{text}' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert kafka_node.java_release() == release


def test_left_over_is_what_runs_without_its_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("backpressure.transports.kafka_node.tempfile.gettempdir", lambda: str(tmp_path))
    for name in ("pace-dead", "pace-orphan", "pace-alive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kafka.properties").touch()
    (tmp_path / "pace-something-else").mkdir()
    waiting = "import sys; sys.stdin.read()"
    orphan = subprocess.Popen([sys.executable, "-c", waiting], stdin=subprocess.PIPE, cwd=tmp_path / "pace-orphan")
    shell = subprocess.Popen(["/bin/sh", "-c", "read _"], stdin=subprocess.PIPE, cwd=tmp_path / "pace-alive")
    with orphan, shell:
        assert kafka_node.left_over() == {tmp_path / "pace-dead": [], tmp_path / "pace-orphan": [orphan.pid]}


def test_a_broker_that_refuses_the_user_is_not_told_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        async def start(self) -> None:
            raise AccessRefusedError("amqp://there/nowhere", "vhost nowhere not found")

    monkeypatch.setattr(doctor, "connect", lambda _: SimpleNamespace(admin=Refusing))
    found = line("broker")
    assert found.startswith("failed broker access to amqp://there/nowhere refused: vhost nowhere not found")
    assert found.endswith("see its user, its rights and the virtual host")
    assert "start one" not in said()


def test_an_existing_queue_is_looked_at_as_the_producer_would_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []

    class Admin:
        async def start(self) -> None: ...

        async def stop(self) -> None: ...

        async def identity(self) -> SimpleNamespace:
            return SimpleNamespace(product="a broker", version="1", address="there")

        async def look(self, queue: str, *, exchange: str, keys: object, dead_letter: str) -> None:
            looked.append((queue, exchange, keys, dead_letter))

    monkeypatch.setattr(doctor, "connect", lambda _: SimpleNamespace(admin=Admin))
    flags = ("--queue", "orders", "--predeclared", "--exchange", "shop", "--routing-key", "order.new")
    assert "orders exists, and is used as it is" in said(*flags)
    assert looked == [("orders", "shop", ["order.new"], "orders.dlq")]


class Api:
    """A management API that answers one question, or refuses to."""

    url = "http://there:15672"

    def __init__(self, answer: Overview | Exception) -> None:
        self._answer = answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def overview(self) -> Overview:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    async def check_owner(self, _: object) -> None:
        pass


def test_an_api_that_refuses_the_user_is_not_told_to_be_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = AccessRefusedError(Api.url, "Not management user")
    monkeypatch.setattr(doctor.ManagementClient, "of", lambda _: Api(refusal))
    assert line("management API").endswith("refused: Not management user rabbitmqctl set_user_tags USER monitoring")


def test_a_broker_that_keeps_no_statistics_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.ManagementClient, "of", lambda _: Api(Overview(disable_stats=True)))
    found = line("management API")
    assert found.startswith("note management API")
    assert "without statistics: the monitor knows no rates and no prefetch" in found
