"""A private RabbitMQ node: started in a temporary directory on free loopback ports, and removed completely.

It needs an installed ``rabbitmq-server``, but no service, configuration or special user, and does not conflict with a
node that runs already. It may be the member of a cluster: see `rabbitmq_cluster`.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from backpressure.errors import TransportError
from backpressure.transports.private_process import PrivateProcess

_INSTALLATIONS = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/opt/rabbitmq*/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)
# $1: epmd, $2: rabbitmq-server. A node that finds no port mapper yet starts another one, which outlives it.
_SCRIPT = """"$1" -address 127.0.0.1 &
tries=100
while [ $tries -gt 0 ] && ! "$1" -names >/dev/null 2>&1; do tries=$((tries - 1)); sleep 0.1; done
"$2"
"""
_MEMBER_SCRIPT = '"$2"'
DISK_LIMIT = "50MB"
"""How much room the disk must have, or else the node raises its alarm."""
_CTL_S = 240  # its tools need two seconds of a processor to start, which on a busy machine is a minute
_ANSWER_S = 5.0
_opener = build_opener(ProxyHandler({}))  # a proxy for the web must not come between us and the node
_numbers = itertools.count(1)


class RabbitMQMissingError(TransportError):
    """``rabbitmq-server`` is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "rabbitmq-server is not installed: apt-get install rabbitmq-server (Debian, Ubuntu), "
            "brew install rabbitmq (macOS). The embedded broker needs no installation: pace broker, or pace run "
            "--broker embedded"
        )


def find_rabbitmq() -> Path | None:
    """Return the inner start script, or None when RabbitMQ (with Erlang) is not installed.

    The one on ``PATH`` is often a wrapper that must run as root or as the user rabbitmq. ``RABBITMQ_HOME`` comes first;
    a home with Erlang's ``epmd`` beside the script brings an Erlang of its own, as one of ``make rabbitmq4`` does.
    """
    home = os.environ.get("RABBITMQ_HOME")
    found = [Path(home, "sbin")] if home else []
    for pattern in _INSTALLATIONS:
        found += sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    scripts = (sbin / "rabbitmq-server" for sbin in found)
    return next((script for script in scripts if script.exists() and port_mapper(script) is not None), None)


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """What the nodes of a cluster have in common.

    Attributes:
        epmd_port: where their port mapper listens; a node alone has one of its own.
        cookie: the secret by which they let each other in.
        joins: the node that this one joins when it starts; "" for the first.
        partitions: what a node does when it loses the others; "" for RabbitMQ's default.
    """

    epmd_port: int
    cookie: str
    joins: str = ""
    partitions: str = ""


def private_node(
    port: int = 0, management_port: int = 0, *, statistics_interval_ms: int = 1000, prometheus: bool = False
) -> PrivateNode:
    """Return a node, to be started by ``with`` or ``async with``; a port of 0 is any free one.

    It renews its statistics every ``statistics_interval_ms``; RabbitMQ's default is 5000. With ``prometheus`` it has
    the plugin rabbitmq_prometheus too.
    """
    return PrivateNode(port, management_port, statistics_interval_ms, prometheus=prometheus)


class PrivateNode(PrivateProcess):
    """A running node: its addresses, its Erlang machine and its command line.

    Starting takes 5 to 12 seconds. Raises `RabbitMQMissingError`, `PortTakenError`, or `TransportError` when it does
    not come up.
    """

    product = "RabbitMQ node"

    def __init__(
        self,
        port: int,
        management_port: int,
        statistics_interval_ms: int,
        membership: ClusterMember | None = None,
        *,
        prometheus: bool = False,
    ) -> None:
        super().__init__()
        self.prometheus_url = ""
        self._statistics_interval_ms = statistics_interval_ms
        self._prometheus = prometheus
        self._membership = membership
        self._script = _SCRIPT if membership is None else _MEMBER_SCRIPT
        self._wanted_ports = ((port, "--port"), (management_port, "--management-port"), (0, ""), (0, ""), (0, ""))
        self.node_name = f"pace-{os.getpid()}-{next(_numbers)}@localhost"
        self._sbin = Path()
        self._environment: dict[str, str] = {}

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` against this node and return what it prints; raises `TransportError` when it fails.

        For example ``ctl("set_vm_memory_high_watermark", "absolute", "1MB")`` raises the memory alarm. It blocks for
        about a second, so call it in a thread from a coroutine.
        """
        return self._tool("rabbitmqctl", *arguments)

    def upgrade(self, command: str) -> str:
        """Run ``rabbitmq-upgrade``, for example ``drain`` before the node is stopped, as `ctl` does."""
        return self._tool("rabbitmq-upgrade", command)

    def _tool(self, tool: str, *arguments: str) -> str:
        command = [str(self._sbin / tool), "--quiet", "-n", self.node_name, *arguments]
        try:
            done = subprocess.run(  # noqa: S603 -- an installed program, no shell
                command, env=self._environment, capture_output=True, text=True, check=False, timeout=_CTL_S
            )
        except subprocess.TimeoutExpired as error:
            raise TransportError(f"{tool} {' '.join(arguments)}: no answer within {_CTL_S} s") from error
        except OSError as error:
            raise TransportError(f"{tool} cannot be run, from {self._sbin}: {error.strerror}") from error
        if done.returncode:
            raise TransportError(f"{tool} {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _launch(self) -> None:
        script = find_rabbitmq()
        epmd = None if script is None else port_mapper(script)
        if script is None or epmd is None:
            raise RabbitMQMissingError
        self._sbin = script.parent
        amqp, management, distribution, epmd_port, prometheus = self._ports.reserve(self._wanted_ports)
        self.url = f"amqp://guest:guest@127.0.0.1:{amqp}/"
        self.management_url = f"http://127.0.0.1:{management}"
        self.prometheus_url = f"http://127.0.0.1:{prometheus}" if self._prometheus else ""
        self._environment = self._configure(amqp, management, distribution, epmd_port, prometheus)
        variables = " ".join(f"{name}={self._environment[name]}" for name in ("HOME", "ERL_EPMD_PORT"))
        self.control_command = f"{variables} {self._sbin / 'rabbitmqctl'} -n {self.node_name}"
        self._spawn(self._script, str(epmd), str(script), environment=self._environment)

    @property
    def logs(self) -> list[Path]:
        """The files that it logs to."""
        return sorted((self._directory / "log").glob("*.log"))

    def _configure(
        self, amqp: int, management: int, distribution: int, epmd_port: int, prometheus: int
    ) -> dict[str, str]:
        directory = self._directory
        extra = f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {prometheus}\n" if self._prometheus else ""
        plugins = "rabbitmq_management" + (",rabbitmq_prometheus" if self._prometheus else "")
        if (member := self._membership) is not None:
            epmd_port = member.epmd_port
            cookie = directory / ".erlang.cookie"
            cookie.write_text(member.cookie, encoding="ascii")
            cookie.chmod(0o400)
            extra += self._clustering(member)
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {management}\n"
            f"collect_statistics_interval = {self._statistics_interval_ms}\n"
            f"disk_free_limit.absolute = {DISK_LIMIT}\n{extra}",
            encoding="utf-8",
        )
        (directory / "rabbitmq-env.conf").touch()  # an empty file, so that the one of the machine is not read
        (directory / "enabled_plugins").write_text(f"[{plugins}].\n", encoding="utf-8")
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

    def _clustering(self, member: ClusterMember) -> str:
        lines = []
        if member.joins:
            lines += [
                "cluster_formation.peer_discovery_backend = classic_config",
                f"cluster_formation.classic_config.nodes.1 = {member.joins}",
                f"cluster_formation.classic_config.nodes.2 = {self.node_name}",
            ]
        if member.partitions:
            lines.append(f"cluster_partition_handling = {member.partitions}")
        return "".join(f"{line}\n" for line in lines)

    def _is_ready(self) -> bool:
        try:
            about = self.told("/api/overview")
            if about["node"] != self.node_name or not any(
                listener["protocol"] == "amqp" for listener in about.get("listeners", [])
            ):
                return False
            self.pid = int(self.told(f"/api/nodes/{self.node_name}")["os_pid"])
        except (OSError, HTTPException, KeyError, ValueError):
            return False
        return True

    def told(self, path: str) -> Any:
        """Return what the management API tells at ``path``."""
        login = b64encode(b"guest:guest").decode()
        request = Request(f"{self.management_url}{path}", headers={"Authorization": f"Basic {login}"})  # noqa: S310 - http
        with _opener.open(request, timeout=_ANSWER_S) as answer:
            return json.load(answer)


def port_mapper(script: Path) -> str | None:
    """Return the port mapper of the Erlang that ``script`` runs on, or None without one.

    We run our own in our process group: one started by the node would outlive it.
    """
    beside = script.with_name("epmd")
    if beside.exists():
        return str(beside)
    return shutil.which("epmd") if shutil.which("erl") else None
