"""A private node on a machine without RabbitMQ."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backpressure.errors import TransportError
from backpressure.transports import rabbitmq_node
from backpressure.transports.rabbitmq_node import PrivateNode, RabbitMQMissingError, find_rabbitmq, private_node

ROOT = Path(__file__).parents[3]


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


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = PrivateNode(0, 0, 1000)
    monkeypatch.setattr(node, "_sbin", tmp_path)
    with pytest.raises(TransportError, match=f"^rabbitmq-upgrade cannot be run, from {tmp_path}: No such file"):
        node.upgrade("drain")


@pytest.mark.skipif(sys.platform == "win32", reason="a script for Debian")
def test_debian_13s_rabbitmq_has_every_program_that_a_node_runs_also_where_it_was_installed_before(
    tmp_path: Path,
) -> None:
    script = ROOT / "tools/debian13/install"
    release, packages = re.findall(r'^(?:release|packages)="?([^"\n]+)', script.read_text("utf-8"), re.MULTILINE)
    (tmp_path / "complete").write_text(f"{release} {packages}\n", encoding="utf-8")
    (tmp_path / "root/usr/lib/rabbitmq/lib/rabbitmq_server-4.0.5/sbin").mkdir(parents=True)
    subprocess.run([script, tmp_path], check=True, timeout=30)
    source = Path(inspect.getfile(PrivateNode)).read_text("utf-8")
    for program in ("rabbitmq-server", "epmd", *re.findall(r'self\._tool\("([\w-]+)"', source)):
        assert os.access(tmp_path / "rabbitmq/sbin" / program, os.X_OK)


@pytest.mark.skipif(sys.platform == "win32", reason="a script for a POSIX shell")
def test_a_node_starts_when_its_port_mapper_answers_and_so_starts_no_other(tmp_path: Path) -> None:
    """The mapper here answers from the third question on."""
    programs = {
        "epmd": 'if [ "$1" != -names ]; then exit; fi\necho asked >>log\n[ "$(grep -c asked log)" -ge 3 ]',
        "server": "echo started >>log",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    command = ["sh", "-c", rabbitmq_node._SCRIPT, "sh", tmp_path / "epmd", tmp_path / "server"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=30)
    assert (tmp_path / "log").read_text(encoding="utf-8").split() == ["asked"] * 3 + ["started"]
