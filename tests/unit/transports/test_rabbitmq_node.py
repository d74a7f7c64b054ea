"""A private node on a machine without RabbitMQ."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backpressure.errors import TransportError
from backpressure.transports import rabbitmq_node
from backpressure.transports.rabbitmq_node import RabbitMQMissingError, find_rabbitmq, private_node


def test_without_an_installation_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_node, "_INSTALLATIONS", ())
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)
    assert find_rabbitmq() is None
    with pytest.raises(RabbitMQMissingError, match="apt-get install rabbitmq-server"), private_node():
        pass

    async def start() -> None:
        async with private_node():
            pass

    with pytest.raises(RabbitMQMissingError, match="--broker embedded"):
        asyncio.run(start())


def test_without_erlang_there_is_no_rabbitmq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)
    assert find_rabbitmq() is None


def test_a_home_that_brings_erlang_needs_none_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("RABBITMQ_HOME", str(tmp_path))
    sbin = tmp_path / "sbin"
    sbin.mkdir()
    (sbin / "rabbitmq-server").touch()
    assert find_rabbitmq() is None
    (sbin / "epmd").touch()
    assert find_rabbitmq() == sbin / "rabbitmq-server"


def test_a_rabbitmqctl_that_hangs_is_an_error_of_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = tmp_path / "rabbitmqctl"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(rabbitmq_node, "_CTL_S", 0.05)
    node = private_node()
    monkeypatch.setattr(node, "_sbin", tmp_path)
    monkeypatch.setattr(node, "_environment", {"PATH": "/usr/bin:/bin"})
    with pytest.raises(TransportError, match=r"rabbitmqctl stop_app: no answer within 0\.05 s"):
        node.ctl("stop_app")
