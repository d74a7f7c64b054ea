"""How programs on this machine find a broker that `pace broker` started, without copying its URL.

`pace broker` writes a small file per broker into a directory of the user, and removes it at the end. A program for
which no broker is configured uses the default port, 5672, if a broker answers there, and otherwise the newest listed
broker. A file counts only while the process that wrote it lives and the port answers, so a killed broker does no harm.
``broker.discover = False`` disables the search, ``pace broker --unlisted`` the entry.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from backpressure.core.addresses import BrokerAddress
from backpressure.settings import BrokerSettings, Settings

log = logging.getLogger(__name__)

_CONNECT_S = 0.3
_DEFAULT_PORT = int(BrokerSettings.model_fields["port"].default)


@dataclass(frozen=True, slots=True)
class LocalBroker:
    """A broker and its process; ``started_at`` distinguishes that from a later process with the same ``pid``."""

    product: str
    url: str
    management_url: str
    """Empty where there is none."""
    machine: str
    pid: int
    started_at: float

    @classmethod
    def of_this_process(cls, product: str, url: str, management_url: str) -> LocalBroker:
        """Return the entry of a broker that lives as long as this process."""
        started_at = psutil.Process().create_time()
        return cls(product, url, management_url, socket.gethostname(), os.getpid(), started_at)

    @property
    def is_kafka(self) -> bool:
        """Whether it speaks Kafka's protocol instead of AMQP."""
        return self.url.startswith("kafka")

    @property
    def port(self) -> int:
        """Where clients connect, to the first server of a cluster."""
        return self._servers()[0][1]

    def _servers(self) -> list[tuple[str, int]]:
        return BrokerAddress.parse(self.url).hosts("localhost", _DEFAULT_PORT)

    def is_here(self) -> bool:
        """Return whether it was started on this machine; others may share the home directory."""
        return self.machine == socket.gethostname()

    def is_running(self) -> bool:
        """Return whether its process, and no later one with the same number, runs on this machine."""
        try:
            return self.is_here() and psutil.Process(self.pid).create_time() == self.started_at
        except psutil.Error:
            return False

    def is_alive(self) -> bool:
        """Return whether clients can connect to it."""
        return self.is_running() and _any_answers(self._servers())


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the user's directory of listed brokers; raises `OSError` if the user has no home."""
    name, below = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_STATE_HOME", ".local/state")
    try:
        base = Path(environ.get(name) or Path.home() / below)
    except RuntimeError as error:  # a container's user may have a number and nothing else
        raise OSError(str(error)) from None
    return base / "pace-matching" / "brokers"


def answers(host: str, port: int) -> bool:
    """Return whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def _any_answers(servers: Iterable[tuple[str, int]]) -> bool:
    return any(answers(host, port) for host, port in servers)


@contextmanager
def listed(broker: LocalBroker) -> Iterator[str]:
    """List ``broker`` for other programs meanwhile; yields a line that says which of them find it.

    Only this user may read the entry, as it contains a password. The broker also works if it cannot be written.
    """
    try:
        entry = state_directory() / f"{broker.pid}.json"
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, other in _entries(entry.parent):
            if other.is_here() and not other.is_running():  # it was killed
                path.unlink(missing_ok=True)
        draft = entry.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        with open(draft, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(asdict(broker), file)
        draft.replace(entry)
    except OSError as error:
        yield f"other programs need --url {broker.url.rstrip('/')}: cannot list it for them ({error})"
        return
    try:
        yield _who_finds(broker)
    finally:
        with suppress(OSError):
            entry.unlink(missing_ok=True)


def discovered(settings: Settings, named: bool) -> dict[str, Any]:
    """Return the settings (by dotted key) that lead to a listed broker, and log which one it is.

    There are none if a broker is ``named`` in the settings, or one answers on the default port.
    """
    return {} if named else _broker(settings, _living(settings))


def discovered_for_lab(settings: Settings, named: bool) -> dict[str, Any]:
    """Do the same for the lab, which uses an AMQP broker and a Kafka broker side by side."""
    brokers = _living(settings)
    kafka = [broker for broker in brokers if broker.is_kafka]
    found = {} if named else _broker(settings, [broker for broker in brokers if not broker.is_kafka])
    if kafka and not settings.lab.kafka_url:
        found["lab.kafka_url"] = _newest(kafka).url
    return found


def _living(settings: Settings) -> list[LocalBroker]:
    if not settings.broker.discover:
        return []
    try:
        return [broker for _, broker in _entries(state_directory()) if broker.is_alive()]
    except OSError:
        return []


def _broker(settings: Settings, brokers: Sequence[LocalBroker]) -> dict[str, Any]:
    if not brokers:
        return {}
    usual = [broker for broker in brokers if not broker.is_kafka and broker.port == settings.broker.port]
    if usual:
        return _management(usual[0], settings)
    if _any_answers(settings.broker.servers()):
        return {}
    broker = _newest(brokers)
    address = BrokerSettings(url=broker.url).address()
    log.info("using the broker that pace broker started at %s (--url names another; broker.discover = False)", address)
    return {"broker.url": broker.url} | _management(broker, settings)


def _newest(brokers: Sequence[LocalBroker]) -> LocalBroker:
    return max(brokers, key=lambda broker: broker.started_at)


def _management(broker: LocalBroker, settings: Settings) -> dict[str, Any]:
    known = settings.broker.management_url or not broker.management_url
    return {} if known else {"broker.management_url": broker.management_url}


def _entries(directory: Path) -> Iterator[tuple[Path, LocalBroker]]:
    for path in directory.glob("*.json"):
        with suppress(OSError, ValueError, TypeError):  # removed meanwhile, or written by another version
            entry = LocalBroker(**json.loads(path.read_text(encoding="utf-8")))
            BrokerSettings(url=entry.url, management_url=entry.management_url)
            yield path, entry


def _who_finds(broker: LocalBroker) -> str:
    if not broker.is_kafka and broker.port == _DEFAULT_PORT:
        return "producer, consumer and monitor on this machine use it unless another broker is configured"
    if answers("localhost", _DEFAULT_PORT):
        url = broker.url.rstrip("/")
        return f"port {_DEFAULT_PORT} has a broker too, which the other programs prefer: give them --url {url}"
    return "producer, consumer and monitor on this machine find it without --url"
