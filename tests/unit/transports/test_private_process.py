"""The ports of private brokers, and what happens when one is lost."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import psutil
import pytest

from backpressure.errors import PortTakenError, TransportError
from backpressure.transports import private_process
from backpressure.transports.private_process import PrivateProcess, ReservedPorts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="private brokers need POSIX")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port cannot be kept for another process")


class Script(PrivateProcess):
    """A shell script in place of a broker: it is ready when it has made the file ``ready``."""

    product = "script"

    def __init__(self, *scripts: str) -> None:
        super().__init__()
        self.scripts = list(scripts)
        self.ports: list[int] = []

    @property
    def shell_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _launch(self) -> None:
        self.ports += self._ports.reserve([(0, "")])
        self._spawn(self.scripts.pop(0), environment={"PATH": "/usr/bin:/bin"})

    def _is_ready(self) -> bool:
        return (self._directory / "ready").exists()


READY = "touch ready; exec sleep 60"
LOST = "echo 'listen_error,{acceptor,{127,0,0,1},28496},eaddrinuse' >&2"


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_process, "_POLL_S", 0.01)


def test_a_broker_that_lost_a_port_is_started_again_with_others() -> None:
    with Script(LOST, LOST, READY) as script:
        assert not script.scripts
        assert len(set(script.ports)) == 3

    async def start() -> None:
        async with Script(LOST, READY) as again:
            assert not again.scripts

    asyncio.run(start())


def test_one_that_always_loses_its_port_says_so() -> None:
    with pytest.raises(TransportError, match=r"the private script did not start: .*eaddrinuse"), Script(*[LOST] * 3):
        pass


def test_one_that_ends_for_another_reason_is_told_at_once_and_not_started_again() -> None:
    script = Script("echo no cookie; exit 1", READY)
    with pytest.raises(TransportError, match="the private script did not start: no cookie"), script:
        pass
    assert script.scripts == [READY]


def test_one_that_still_runs_when_it_is_started_again_ends_before() -> None:
    async def story() -> None:
        async with Script(f"{READY}") as script:
            first = psutil.Process(script.shell_pid)
            await script.revive()
            assert not first.is_running()
            assert psutil.pid_exists(script.shell_pid)
            assert script.tail() == ""  # its directory is still there

    asyncio.run(story())


@on_linux
def test_a_reserved_port_goes_to_its_server_only() -> None:
    with ReservedPorts() as ports, ReservedPorts() as others:
        (port,) = ports.reserve([(0, "")])
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        for _server in "started", "restarted":
            with (
                socket.create_server(("127.0.0.1", port)),
                pytest.raises(PortTakenError, match=str(port)),
            ):
                others.reserve([(port, "--port")])
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))


@on_linux
def test_two_reservations_never_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_process, "_server_ports", lambda: range(23_000, 23_100))
    with ReservedPorts() as ports, ReservedPorts() as others:
        taken = ports.reserve([(0, "")] * 40) + others.reserve([(0, "")] * 40)
        assert len(set(taken)) == 80


@pytest.mark.parametrize(
    ("connections", "apart"),
    [
        pytest.param("32768\t60999\n", True, id="usual"),
        pytest.param("16000\t65535\n", True, id="wide"),
        pytest.param("1024\t65535\n", False, id="all"),
        pytest.param(None, True, id="unknown"),
    ],
)
def test_ports_are_chosen_where_no_connection_gets_one_if_there_are_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, connections: str | None, apart: bool
) -> None:
    told = tmp_path / "range"
    if connections is not None:
        told.write_text(connections)
    monkeypatch.setattr(private_process, "_CONNECTION_PORTS", told)
    first, last = map(int, (connections or "32768 65535").split())
    ports = private_process._server_ports()
    assert len(ports) > 2000
    assert bool(set(ports) & set(range(first, last + 1))) is not apart
