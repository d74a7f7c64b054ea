"""Programs without a configured broker find one that `pace broker` runs; entries of dead brokers are ignored."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from backpressure.cli import local_brokers
from backpressure.cli.local_brokers import LocalBroker, discovered, discovered_for_lab, listed, state_directory
from backpressure.config import load
from backpressure.settings import Settings


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own, and a usual port where nothing answers."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    tmp_path.joinpath("state").mkdir()
    monkeypatch.setattr(local_brokers, "answers", lambda _host, port: port != 5672)
    return state_directory()


def broker(port: int = 40_001, scheme: str = "amqp", management_url: str = "http://127.0.0.1:40002") -> LocalBroker:
    return LocalBroker.of_this_process("test broker", f"{scheme}://127.0.0.1:{port}", management_url)


@contextlib.contextmanager
def also_listed(directory: Path, other: LocalBroker) -> Iterator[None]:
    """Write the entry of another process."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{other.pid}-{other.port}.json").write_text(json.dumps(asdict(other)))
    yield


def test_a_listed_broker_is_found_with_its_management_api_and_forgotten_afterwards(directory: Path) -> None:
    with listed(broker()) as line:
        assert line == "producer, consumer and monitor on this machine find it without --url"
        assert discovered(Settings(), False) == {
            "broker.url": "amqp://127.0.0.1:40001",
            "broker.management_url": "http://127.0.0.1:40002",
        }
    assert discovered(Settings(), False) == {}
    assert list(directory.iterdir()) == []


def test_a_user_without_a_home_lists_nothing_and_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with listed(broker()) as line:
        assert line.startswith("other programs need --url amqp://127.0.0.1:40001: cannot list it")
        assert discovered(Settings(), False) == {}


def test_a_program_with_a_configured_broker_looks_for_no_other() -> None:
    with listed(broker()):
        assert discovered(Settings(), True) == {}


def test_a_broker_on_the_usual_port_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_brokers, "answers", lambda _host, _port: True)
    with listed(broker()) as line:
        assert "port 5672 has a broker too" in line
        assert discovered(Settings(), False) == {}


def test_the_management_api_of_a_listed_broker_on_the_usual_port_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_brokers, "answers", lambda _host, _port: True)
    with listed(broker(port=5672)):
        assert discovered(Settings(), False) == {"broker.management_url": "http://127.0.0.1:40002"}


def test_a_management_url_of_the_users_own_stays() -> None:
    settings = load({"broker.management_url": "http://elsewhere:1"}, environ={"PACE_CONFIG": ""})
    with listed(broker()):
        assert discovered(settings, False) == {"broker.url": "amqp://127.0.0.1:40001"}


def test_the_search_can_be_switched_off() -> None:
    settings = load(environ={"PACE_CONFIG": "", "PACE_BROKER__DISCOVER": "false"})
    with listed(broker()):
        assert discovered(settings, False) == {}
        assert discovered_for_lab(settings, False) == {}


def test_the_newest_of_several_is_taken(directory: Path) -> None:
    older = replace(broker(port=40_009), started_at=0.0)
    with listed(broker()), pytest.MonkeyPatch.context() as patch, also_listed(directory, older):
        patch.setattr(LocalBroker, "is_running", lambda _self: True)
        assert discovered(Settings(), False)["broker.url"] == "amqp://127.0.0.1:40001"


@pytest.mark.parametrize(
    "stale",
    [
        replace(broker(), pid=2**22 + 1),
        replace(broker(), started_at=1.0),
        replace(broker(), machine="another machine"),
        replace(broker(), url="amqp://127.0.0.1:5672"),
    ],
    ids=["no such process", "another process with its number", "another machine", "does not answer"],
)
def test_a_stale_entry_is_ignored(directory: Path, stale: LocalBroker) -> None:
    with also_listed(directory, stale):
        assert discovered(Settings(), False) == {}


def test_entries_of_killed_brokers_go_when_the_next_one_starts(directory: Path) -> None:
    killed, elsewhere = replace(broker(), pid=2**22 + 1), replace(broker(), machine="another", pid=2**22 + 2)
    with also_listed(directory, killed), also_listed(directory, elsewhere), listed(broker()):
        left = {int(path.stem.partition("-")[0]) for path in directory.glob("*.json")}
        assert left == {os.getpid(), elsewhere.pid}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "amqp://x"}', '{"pid": "\\ud800"}'])
def test_an_unreadable_entry_is_ignored(directory: Path, text: str) -> None:
    directory.mkdir(parents=True)
    (directory / "1.json").write_text(text)
    assert discovered(Settings(), False) == {}


def test_an_entry_with_an_address_that_is_not_a_broker_is_ignored(directory: Path) -> None:
    with also_listed(directory, replace(broker(), url="file:///etc/passwd")):
        assert discovered(Settings(), False) == {}


def test_only_the_user_may_read_the_entry_for_it_holds_a_password(directory: Path) -> None:
    with listed(broker()):
        (entry,) = directory.iterdir()
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_written_costs_the_entry_and_not_the_broker(directory: Path) -> None:
    directory.parent.mkdir(parents=True)
    directory.write_text("a file where the directory should be")
    with listed(broker()) as line:
        assert line.startswith("other programs need --url amqp://127.0.0.1:40001")


def test_the_lab_takes_an_amqp_and_a_kafka_broker_side_by_side(directory: Path) -> None:
    with listed(broker()), also_listed(directory, broker(port=40_003, scheme="kafka", management_url="")):
        assert discovered_for_lab(Settings(), False) == {
            "broker.url": "amqp://127.0.0.1:40001",
            "broker.management_url": "http://127.0.0.1:40002",
            "lab.kafka_url": "kafka://127.0.0.1:40003",
        }
        assert discovered_for_lab(Settings(), True) == {"lab.kafka_url": "kafka://127.0.0.1:40003"}


def test_a_port_that_accepts_connections_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert _answers("127.0.0.1", port)
    assert not _answers("127.0.0.1", port)


_answers = local_brokers.answers
