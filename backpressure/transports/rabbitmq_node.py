"""A RabbitMQ node of one's own: started in a temporary directory on free loopback ports, and removed without a trace.

It needs an installed ``rabbitmq-server`` but no service, no configuration and no special user, and collides with
nothing that runs already. A shell stands between us and the node: it ends the node when our end of its pipe closes, so
even a killed parent leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import httpx

from backpressure.errors import TransportError

__all__ = ["PrivateNode", "RabbitMQMissingError", "find_rabbitmq", "private_node"]

_INSTALLATIONS = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/opt/rabbitmq*/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)
# $1: epmd, $2: rabbitmq-server. `read` returns when the pipe from our process closes, however that came about;
# then the whole process group goes, this shell included. The data is temporary: nothing is worth an orderly stop.
_LIFELINE = '"$1" -address 127.0.0.1 & "$2" & read _; kill -KILL 0'
_READY_TIMEOUT_S = 90.0
_POLL_S = 0.2
_numbers = itertools.count(1)


class RabbitMQMissingError(TransportError):
    """``rabbitmq-server`` is not installed here."""

    def __init__(self) -> None:
        super().__init__(
            "rabbitmq-server is not installed: apt-get install rabbitmq-server (Debian, Ubuntu), "
            "brew install rabbitmq (macOS), or use --broker embedded, or a URL with --broker amqp://…"
        )


def find_rabbitmq() -> Path | None:
    """Return the inner start script, or None when RabbitMQ (with Erlang) is not installed.

    The one on ``PATH`` is often a wrapper that insists on being root or the user rabbitmq.
    """
    if shutil.which("erl") is None or _epmd() is None:
        return None
    home = os.environ.get("RABBITMQ_HOME")
    found = [Path(home, "sbin")] if home else []
    for pattern in _INSTALLATIONS:
        found += sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    return next((script for sbin in found if (script := sbin / "rabbitmq-server").exists()), None)


def private_node() -> PrivateNode:
    """Return a node, to be started by ``with`` or ``async with``."""
    return PrivateNode()


class PrivateNode:
    """A running node: its addresses, its process and its command line.

    Starting takes 5 to 12 seconds. Raises `RabbitMQMissingError`, or `TransportError` when it does not come up.
    """

    def __init__(self) -> None:
        self.node_name = f"pace-{os.getpid()}-{next(_numbers)}@localhost"
        self.url = ""
        self.management_url = ""
        self.pid = 0
        """Process id of the Erlang machine, whose memory and CPU time are the broker's."""
        self._sbin = Path()
        self._directory = Path()
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._launch()
            deadline = time.monotonic() + _READY_TIMEOUT_S
            while not self._is_ready():
                self._check(deadline)
                time.sleep(_POLL_S)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._remove()

    async def __aenter__(self) -> Self:
        try:
            self._launch()
            deadline = time.monotonic() + _READY_TIMEOUT_S
            while not await asyncio.to_thread(self._is_ready):
                self._check(deadline)
                await asyncio.sleep(_POLL_S)
        except BaseException:
            self._remove()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.to_thread(self._remove)

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` against this node and return what it prints; raises `TransportError` when it fails.

        For example ``ctl("set_vm_memory_high_watermark", "absolute", "1MB")`` raises the memory alarm. Blocks for about
        a second: from a coroutine call it in a thread.
        """
        command = [str(self._sbin / "rabbitmqctl"), "--quiet", "-n", self.node_name, *arguments]
        done = subprocess.run(  # noqa: S603 -- an installed program, no shell
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise TransportError(f"rabbitmqctl {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _launch(self) -> None:
        script, epmd = find_rabbitmq(), _epmd()
        if script is None or epmd is None:
            raise RabbitMQMissingError
        self._sbin = script.parent
        self._directory = Path(tempfile.mkdtemp(prefix="pace-rabbitmq-"))
        amqp, management, distribution, epmd_port = _free_ports(4)
        self.url = f"amqp://guest:guest@127.0.0.1:{amqp}/"
        self.management_url = f"http://127.0.0.1:{management}"
        self._environment = self._configure(amqp, management, distribution, epmd_port)
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 -- an installed program; the shell script is a constant
                ["/bin/sh", "-c", _LIFELINE, "pace-rabbitmq", str(epmd), str(script)],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _configure(self, amqp: int, management: int, distribution: int, epmd_port: int) -> dict[str, str]:
        directory = self._directory
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {management}\n"
            "collect_statistics_interval = 1000\n"
            "disk_free_limit.absolute = 50MB\n",
            encoding="utf-8",
        )
        (directory / "rabbitmq-env.conf").touch()  # an empty one keeps the machine's own from being read
        (directory / "enabled_plugins").write_text("[rabbitmq_management].\n", encoding="utf-8")
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return inherited | {
            "HOME": str(directory),  # holds the Erlang cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CTL_DIST_PORT_MIN": "32768",  # by default 10 000 above the node's, which may not exist
            "RABBITMQ_CTL_DIST_PORT_MAX": "60999",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"  # two cores, no busy waiting
            ),
        }

    def _is_ready(self) -> bool:
        """Ask who listens: an open port alone may be another process that was faster."""
        with httpx.Client(base_url=self.management_url, auth=("guest", "guest"), trust_env=False) as client:
            try:
                overview = client.get("/api/overview")
                overview.raise_for_status()
                about = overview.json()
                if about["node"] != self.node_name or not any(
                    listener["protocol"] == "amqp" for listener in about.get("listeners", [])
                ):
                    return False
                self.pid = int(client.get(f"/api/nodes/{self.node_name}").json()["os_pid"])
            except (httpx.HTTPError, KeyError, ValueError):
                return False
        return True

    def _check(self, deadline: float) -> None:
        assert self._process is not None
        if self._process.poll() is None and time.monotonic() < deadline:
            return
        said = (self._directory / "output").read_text(encoding="utf-8", errors="replace").strip()
        raise TransportError(f"the private RabbitMQ node did not start: {said[-1000:] or 'it said nothing'}")

    def _remove(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process.stdin.close()
            self._process = None
        if self._directory.name:
            shutil.rmtree(self._directory, ignore_errors=True)


def _epmd() -> str | None:
    """Return Erlang's port mapper: we run our own, in our process group, because the node's would outlive it."""
    return shutil.which("epmd")


def _free_ports(count: int) -> list[int]:
    """Return distinct ports that are free now: all are held until the last is found."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(listener.getsockname()[1]) for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()
