"""Where the broker of a run comes from: started for it alone, or one that is there already.

On a private broker the queues have their usual names. On one that others use too, every name is the run's own, and the
runner removes what it created there.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backpressure.config import replaced
from backpressure.errors import ConfigError
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.supervisor import Supervisor
from backpressure.settings import BrokerSettings, Settings
from backpressure.transports.kafka_node import private_kafka
from backpressure.transports.private_process import PrivateProcess
from backpressure.transports.rabbitmq_node import private_node

__all__ = ["BrokerChoice", "RunBroker", "open_broker", "parse_choice"]

_PRIVATE: dict[str, Callable[[], PrivateProcess]] = {"rabbitmq": private_node, "kafka": private_kafka}
_KINDS = ("embedded", *_PRIVATE)
_SCHEMES = ("amqp://", "amqps://", "kafka://", "kafka+ssl://")
_ALLOWED = (
    "expected embedded, rabbitmq (a private node, where rabbitmq-server is installed), kafka (the same, after "
    f"make kafka) or a URL {' '.join(scheme + '…' for scheme in _SCHEMES)}"
)


@dataclass(frozen=True, slots=True)
class BrokerChoice:
    """``kind`` is "embedded", "rabbitmq", "kafka" or "external"; ``url`` belongs to the last."""

    kind: str
    url: str = ""

    @property
    def label(self) -> str:
        """What to show: never a password."""
        return BrokerSettings(url=self.url).address() if self.url else self.kind


@dataclass(frozen=True, slots=True)
class RunBroker:
    """A broker that is ready. ``pid`` is 0 when it is not ours to measure."""

    url: str
    management_url: str
    private: bool
    pid: int = 0

    def settings(self, run_name: str) -> dict[str, object]:
        """Return the settings, by dotted key, with which a process of the run ``run_name`` uses it."""
        keys: dict[str, object] = {"broker.url": self.url, "broker.management_url": self.management_url}
        if not self.private:
            name = f"pace.{run_name}"
            keys |= {
                "queue.exchange": name,
                "queue.work": f"{name}.work",
                "queue.dead_letter": f"{name}.work.dlq",
                "queue.audit": f"{name}.audit",
                "feedback.exchange": f"{name}.feedback",
            }
        return keys


def parse_choice(text: str) -> BrokerChoice:
    """Return what ``--broker`` asks for; raises `ConfigError`."""
    if text in _KINDS:
        return BrokerChoice(text)
    if "://" not in text:
        near = difflib.get_close_matches(text, _KINDS, n=1)
        raise ConfigError("--broker", text, f"did you mean {near[0]}? {_ALLOWED}" if near else _ALLOWED)
    if not text.startswith(_SCHEMES):
        raise ConfigError("--broker", text.partition("://")[0] + "://…", _ALLOWED)
    replaced(Settings(), {"broker.url": text}, "--broker")
    return BrokerChoice("external", text)


@asynccontextmanager
async def open_broker(
    choice: BrokerChoice, supervisor: Supervisor, directory: RunDirectory
) -> AsyncIterator[RunBroker]:
    """Provide the broker; a private one is gone afterwards. Raises `ExperimentError`, `TransportError`."""
    if choice.kind == "embedded":
        announce = str(directory.announcement("broker"))
        command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
        child = await supervisor.start("broker", "broker", [*command, "--announce", announce], {})
        management_url = f"http://127.0.0.1:{child.announced['management_port']}"
        yield RunBroker(str(child.announced["url"]), management_url, private=True, pid=child.pid)
    elif choice.kind in _PRIVATE:
        async with _PRIVATE[choice.kind]() as node:
            yield RunBroker(node.url, node.management_url, private=True, pid=node.pid)
    else:
        yield RunBroker(choice.url, "", private=False)
