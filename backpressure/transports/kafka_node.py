"""A private Kafka broker: one KRaft process that is broker and controller.

It needs Java 17 and Kafka's jars, which ``make kafka`` fetches, but no service, ZooKeeper or configuration.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

from backpressure.errors import TransportError
from backpressure.transports.private_process import PREFIX, PrivateProcess, reserved_ports

__all__ = ["KafkaMissingError", "PrivateKafka", "find_kafka", "java_release", "left_over", "private_kafka"]

OLDEST_JAVA = 17
_PROPERTIES = "kafka.properties"

# $1: java, $2: configuration, $3: cluster id. The heap is small because a broker works in the page cache. The simple
# compiler and collector suit a broker that runs for minutes beside its clients on few processors: the others would use
# the first minute for themselves. One in 64 cluster ids begins with "-", hence the "=".
_JAVA = '"$1" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xms256m -Xmx512m -Dlog4j2.level=WARN'
_SCRIPT = f'{_JAVA} kafka.tools.StorageTool format --cluster-id="$3" --config "$2" && exec {_JAVA} kafka.Kafka "$2"'
_CONFIGURATION = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
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


class PrivateKafka(PrivateProcess):
    """A running broker. Starting takes 4 to 8 seconds.

    Raises `KafkaMissingError`, `ConfigError` without the client library, `PortTakenError`, or `TransportError` when it
    does not come up.
    """

    product = "Kafka broker"

    def __init__(self, port: int, advertised_port: int | None) -> None:
        super().__init__()
        self._wanted_ports = ((port, "--port"), (0, ""))
        self.advertised_port = advertised_port
        self._cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()

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
        port, controller = reserved_ports(self._wanted_ports)
        self.url = f"kafka://127.0.0.1:{port}"
        return _CONFIGURATION.format(
            port=port, controller=controller, advertised=self.advertised_port or port, data=self._directory / "data"
        )

    def _is_ready(self) -> bool:
        from backpressure.transports.kafka.client import cluster_id  # noqa: PLC0415 -- an optional library

        if cluster_id(self.url) != self._cluster_id:
            return False
        assert self._process is not None
        (java,) = psutil.Process(self._process.pid).children()
        self.pid = java.pid
        return True


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
