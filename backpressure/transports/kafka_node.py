"""A private Kafka broker, or a cluster of them: KRaft processes that are broker and controller.

A cluster keeps each topic on three brokers, and a message is confirmed when two have it. It needs Java 17 and Kafka's
jars, which ``make kafka`` fetches, but no service, ZooKeeper or configuration.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from backpressure.core.addresses import BrokerAddress
from backpressure.errors import TransportError
from backpressure.transports.private_process import PREFIX, PrivateNodes, PrivateProcess, ReservedPorts

OLDEST_JAVA = 17
_MOST_COPIES = 3
_JOINED_WITHIN_S = 240.0
_POLL_S = 0.2
_PROPERTIES = "kafka.properties"

# $1: java, $2: configuration, $3: cluster id. The heap is small because a broker works in the page cache. The simple
# compiler and collector suit a broker that runs for minutes beside its clients on few processors: the others would use
# the first minute for themselves. One in 64 cluster ids begins with "-", hence the "=".
_JAVA = '"$1" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xms256m -Xmx512m -Dlog4j2.level=WARN'
_FORMAT = f'{_JAVA} kafka.tools.StorageTool format -g --cluster-id="$3" --config "$2"'
_SCRIPT = f'{_FORMAT} && exec {_JAVA} kafka.Kafka "$2"'
_CONFIGURATION = """\
process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised},INTERNAL://127.0.0.1:{reached.internal},\
CONTROLLER://127.0.0.1:{reached.controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={least}
offsets.topic.num.partitions=1
offsets.topic.replication.factor={copies}
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
controller.quorum.fetch.timeout.ms=1000
controller.quorum.election.timeout.ms=500
group.initial.rebalance.delay.ms=0
replica.fetch.backoff.ms=100
log.cleaner.dedupe.buffer.size=4194304
"""


class KafkaMissingError(TransportError):
    """Java or Kafka's jars are missing."""

    def __init__(self) -> None:
        super().__init__(
            "Kafka is not here: it needs Java 17 (apt-get install openjdk-17-jre-headless) and its jars "
            "(make kafka fetches them; KAFKA_HOME names an installation). A Kafka elsewhere is used by its URL, kafka://…"
        )


def find_kafka() -> Path | None:
    """Return the directory of Kafka's jars, or None when they or Java are missing.

    ``KAFKA_HOME`` comes first, then what ``make kafka`` fetched, here or beside this package.
    """
    if _java() is None:
        return None
    home = os.environ.get("KAFKA_HOME")
    homes = [Path(home)] if home else [Path.cwd() / ".kafka", Path(__file__).parents[2] / ".kafka"]
    return next((path / "libs" for path in homes if any((path / "libs").glob("kafka_2.*.jar"))), None)


def java_release() -> int | None:
    """Return the release of Java (such as 17), or None when there is none. Blocks for a moment."""
    java = _java()
    if java is None:
        return None
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603 -- an installed program
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None


def left_over() -> dict[Path, list[int]]:
    """Return the directories of private brokers whose shell has ended, with the processes that still run in them.

    The shell removes both however our process ends, unless it is killed itself.
    """
    inhabitants: dict[Path, list[psutil.Process]] = {
        path.parent: [] for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_PROPERTIES}")
    }
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or belongs to another user
            if (directory := Path(process.cwd())) in inhabitants:
                inhabitants[directory].append(process)
    return {
        directory: [process.pid for process in processes]
        for directory, processes in inhabitants.items()
        if not any(process.name() == "sh" for process in processes)
    }


def private_kafka(port: int = 0, *, advertised_port: int | None = None) -> PrivateKafka:
    """Return a broker, to be started by ``with`` or ``async with``; a port of 0 is any free one.

    The broker tells its clients to connect to ``advertised_port``, if given: to a proxy in front of it.
    """
    return PrivateKafka(port, advertised_port)


def private_kafka_cluster(
    size: int, port: int = 0, *, advertised_ports: Sequence[int | None] = (), relayed: Relayed | None = None
) -> PrivateKafkaCluster:
    """Return a cluster of ``size`` brokers, to be started by ``async with``.

    The first listens on ``port`` and the others on the next ones; 0: free ones. Each tells its clients to connect to
    its advertised port, if there is one. ``relayed``: the brokers reach each other through a proxy.
    """
    return PrivateKafkaCluster(size, port, advertised_ports, relayed)


class InnerPorts(NamedTuple):
    """Where a broker is reached by others: for their messages, and for their agreement about who leads what."""

    internal: int
    controller: int


class Relayed(NamedTuple):
    """Where each broker of a cluster listens to others, and where those connect to: a proxy forwards from there."""

    listening: Sequence[InnerPorts]
    reached: Sequence[InnerPorts]


@dataclass(frozen=True, slots=True)
class KafkaVoter:
    """A broker's place in its cluster: its number, from 1, where it listens to others, and where all are reached."""

    number: int
    cluster_id: str
    listening: InnerPorts
    reached: Sequence[InnerPorts]


class PrivateKafka(PrivateProcess):
    """A running broker. Starting takes 4 to 8 seconds.

    Raises `KafkaMissingError`, `ConfigError` without the client library, `PortTakenError`, or `TransportError` when it
    does not come up.
    """

    product = "Kafka broker"

    def __init__(self, port: int, advertised_port: int | None, voter: KafkaVoter | None = None) -> None:
        super().__init__()
        self._port = port
        self.advertised_port = advertised_port
        self.internal_url = ""
        """Where brokers, and clients that no proxy must disturb, connect."""
        self.listening = InnerPorts(0, 0)
        """Where it listens to other brokers."""
        self._voter = voter
        self._cluster_id = voter.cluster_id if voter else _new_cluster_id()

    def _launch(self) -> None:
        libraries, java = find_kafka(), _java()
        if libraries is None or java is None:
            raise KafkaMissingError
        configuration = self._directory / _PROPERTIES
        configuration.write_text(self._configuration(), encoding="utf-8")
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        self._spawn(
            _SCRIPT,
            java,
            str(configuration),
            self._cluster_id,
            environment=inherited | {"HOME": str(self._directory), "CLASSPATH": f"{libraries}/*"},
        )

    def _configuration(self) -> str:
        """Choose ports and return the broker's properties; of two with the same name the last one counts."""
        port, *alone = self._ports.reserve([(self._port, "--port"), *([] if self._voter else [(0, ""), (0, "")])])
        voter = self._voter or KafkaVoter(1, self._cluster_id, InnerPorts(*alone), [InnerPorts(*alone)])
        self.listening = voter.listening
        self.url = f"kafka://127.0.0.1:{port}"
        self.internal_url = f"kafka://127.0.0.1:{self.listening.internal}"
        copies = min(len(voter.reached), _MOST_COPIES)
        return _CONFIGURATION.format(
            id=voter.number,
            voters=",".join(f"{number}@127.0.0.1:{at.controller}" for number, at in enumerate(voter.reached, start=1)),
            port=port,
            internal=self.listening.internal,
            reached=voter.reached[voter.number - 1],
            controller=self.listening.controller,
            advertised=self.advertised_port or port,
            data=self._directory / "data",
            copies=copies,
            least=max(1, copies - 1),
        )

    def _is_ready(self) -> bool:
        from backpressure.transports.kafka.client import cluster_id  # noqa: PLC0415 -- an optional library

        if cluster_id(self.internal_url) != self._cluster_id:
            return False
        assert self._process is not None
        started = psutil.Process(self._process.pid).children(recursive=True)
        (self.pid,) = (process.pid for process in started if process.name() == "java")
        return True


class PrivateKafkaCluster(PrivateNodes[PrivateKafka]):
    """Running brokers. Starting takes as long as one broker does, on as many free processors."""

    product = "Kafka cluster"

    def __init__(self, size: int, port: int, advertised_ports: Sequence[int | None], relayed: Relayed | None) -> None:
        super().__init__()
        self._port = port
        self._advertised_ports = advertised_ports or [None] * size
        self._relayed = relayed

    @property
    def internal_url(self) -> str:
        """Where the brokers connect to each other."""
        addresses = [BrokerAddress.parse(node.internal_url) for node in self.nodes]
        return addresses[0].at([server for address in addresses for server in address.servers])

    async def _begin(self) -> None:
        from backpressure.transports.kafka.client import broker_count  # noqa: PLC0415 -- an optional library

        cluster = _new_cluster_id()
        if (relayed := self._relayed) is None:
            ports = inner_ports(self._ports, len(self._advertised_ports))
            relayed = Relayed(ports, ports)
        self.nodes = [
            PrivateKafka(
                self._port and self._port + index,
                advertised,
                KafkaVoter(index + 1, cluster, relayed.listening[index], relayed.reached),
            )
            for index, advertised in enumerate(self._advertised_ports)
        ]
        await self._start(*self.nodes)
        deadline = time.monotonic() + _JOINED_WITHIN_S
        while await asyncio.to_thread(broker_count, self.internal_url) < len(self.nodes):
            if time.monotonic() > deadline:
                raise TransportError(f"not all brokers of the private {self.product} joined it")
            await asyncio.sleep(_POLL_S)


def inner_ports(ports: ReservedPorts, size: int) -> list[InnerPorts]:
    """Reserve what ``size`` brokers need to listen to each other."""
    free = ports.reserve([(0, "")] * (2 * size))
    return [InnerPorts(*pair) for pair in zip(free[::2], free[1::2], strict=True)]


def _new_cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
