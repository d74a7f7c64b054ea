"""The broker of a run: a private one, started for it, or one that runs already; and whether it fits the scenario.

On a private broker the queues have their usual names. On a shared broker every name is unique to the run, and the
runner removes what it created.
"""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Any, Protocol

import httpx
import psutil

from backpressure.config import replaced
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.agents.orders import check_orders
from backpressure.experiments.agents.pool import AgentTerms
from backpressure.experiments.cluster import ClusterOperator, KafkaBrokers, RabbitMQCluster
from backpressure.experiments.faults import check as check_faults
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.scenario import Scenario
from backpressure.experiments.supervisor import Child, Supervisor
from backpressure.experiments.tcp_proxy import Proxy
from backpressure.program import require_posix
from backpressure.settings import BrokerSettings, QueueSettings, Settings
from backpressure.transports.kafka_node import Relayed, inner_ports, private_kafka_cluster
from backpressure.transports.management_client import management_url
from backpressure.transports.private_process import MOST_NODES, PrivateProcess, ReservedPorts
from backpressure.transports.rabbitmq_cluster import private_cluster
from backpressure.transports.rabbitmq_node import PrivateNode, private_node

_POLL_S = 0.1

_CLUSTERS = ("rabbitmq", "kafka")
_KINDS = ("embedded", *_CLUSTERS)
_SCHEMES = ("amqp://", "amqps://", "kafka://", "kafka+ssl://")
_ALLOWED = (
    "expected embedded, rabbitmq (a private node, where rabbitmq-server is installed), kafka (a private broker, after "
    "make kafka), a cluster of them (rabbitmq:3, kafka:3) or a URL "
    f"{' '.join(scheme + '…' for scheme in _SCHEMES)}"
)


@dataclass(frozen=True, slots=True)
class BrokerChoice:
    """``kind`` is "embedded", "rabbitmq", "kafka" or "external"; ``url`` belongs to the last.

    ``nodes``: how many a private cluster has; 1: a node alone. ``agents``: how many take part there; None: none can.
    """

    kind: str
    url: str = ""
    nodes: int = 1
    agents: AgentTerms | None = None

    def defaults(self, scenario: Scenario) -> list[tuple[str, Any]]:
        """Return settings for a scenario that does not state them.

        On a RabbitMQ cluster a queue has a copy on several nodes. On Kafka as many consumers can share a queue as the
        scenario has at once.
        """
        if self.kind == "rabbitmq" and self.nodes > 1:
            return [("queue.type", "quorum")]
        if self.on_kafka:
            return [("queue.partitions", max(1, *(phase.settings.consumer.count for phase in scenario.phases)))]
        return []

    @property
    def on_kafka(self) -> bool:
        """Whether it is a Kafka."""
        return self.kind == "kafka" or self.url.startswith("kafka")

    @property
    def label(self) -> str:
        """What to show: never a password."""
        if self.url:
            return BrokerSettings(url=self.url).address()
        return self.kind if self.nodes == 1 else f"{self.kind}:{self.nodes}"


@dataclass(frozen=True, slots=True)
class RunBroker:
    """A broker that is ready.

    Attributes:
        operator: controls a private one.
        proxied: where a proxy that disturbs the network connects; empty: to ``url``.
        proxy_ports: where that proxy must listen, because the broker sends its clients there; empty: anywhere.
    """

    url: str
    management_url: str
    private: bool
    operator: BrokerOperator | None = None
    proxied: str = ""
    proxy_ports: tuple[int, ...] = ()

    async def check_copies(self, queue: QueueSettings) -> None:
        """Return when a quorum queue on a private cluster has all its members; raises `ExperimentError`."""
        if isinstance(self.operator, ClusterOperator):
            await self.operator.until_in_sync(queue.work)

    def settings(self, run_name: str, *, predeclared: bool = False) -> dict[str, object]:
        """Return the settings, by dotted key, with which a process of the run ``run_name`` uses it.

        A ``predeclared`` queue keeps its names.

        The address of the management API is always given, because it cannot be guessed behind our proxy. Run folders on
        other machines may have the same name, so the queue names also get some random letters.
        """
        address = self.management_url
        if self.url.startswith("amqp"):
            address = management_url(BrokerSettings(url=self.url, management_url=address))
        keys: dict[str, object] = {"broker.url": self.url, "broker.management_url": address}
        if not self.private:
            name = f"pace.{run_name}.{token_hex(3)}"
            keys["feedback.exchange"] = f"{name}.feedback"
            if not predeclared:
                keys |= {
                    "queue.exchange": name,
                    "queue.work": f"{name}.work",
                    "queue.dead_letter": f"{name}.work.dlq",
                    "queue.audit": f"{name}.audit",
                }
        return keys


def parse_choice(text: str) -> BrokerChoice:
    """Return what ``--broker`` asks for; raises `ConfigError`."""
    if text in _KINDS:
        return BrokerChoice(text)
    kind, colon, count = text.partition(":")
    if colon and kind in _KINDS and not count.startswith("//"):
        return BrokerChoice(kind, nodes=_node_count(text, kind, count))
    if "://" not in text:
        near = difflib.get_close_matches(text, _KINDS, n=1)
        raise ConfigError("--broker", text, f"did you mean {near[0]}? {_ALLOWED}" if near else _ALLOWED)
    if not text.startswith(_SCHEMES):
        raise ConfigError("--broker", text.partition("://")[0] + "://…", _ALLOWED)
    replaced(Settings(), {"broker.url": text}, "--broker")
    return BrokerChoice("external", text)


def _node_count(text: str, kind: str, count: str) -> int:
    if kind not in _CLUSTERS:
        raise ConfigError("--broker", text, f"{kind} has no cluster: use {' or '.join(_CLUSTERS)}")
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MOST_NODES):
        raise ConfigError("--broker", text, f"expected {kind}:3, with 1 to {MOST_NODES} nodes")
    return int(count)


@asynccontextmanager
async def open_broker(
    choice: BrokerChoice,
    supervisor: Supervisor,
    directory: RunDirectory,
    *,
    durable: bool = False,
    proxied: bool = False,
    partitioned: bool = False,
) -> AsyncIterator[RunBroker]:
    """Provide the broker; a private one is stopped afterwards. Raises `ExperimentError`, `TransportError`.

    ``durable``: durable messages must survive a restart. The embedded broker stores nothing on disk unless told to.
    ``proxied``: clients will connect through a proxy. ``partitioned``: a node will be cut off from the others.
    """
    if choice.kind == "embedded":
        options = ["--data-dir", str(directory.broker_data)] if durable else []
        with ReservedPorts() as reserved:  # also for the time between its end and its restart
            port, management_port = reserved.reserve([(0, ""), (0, "")])
            start = partial(_start_embedded, supervisor, directory, port, management_port, options)
            child = await start()
            url, management_url = str(child.announced["url"]), f"http://127.0.0.1:{child.announced['management_port']}"
            try:
                operator = EmbeddedOperator(supervisor, management_url, start)
                yield RunBroker(url, management_url, private=True, operator=operator)
            finally:
                await supervisor.stop(supervisor.of("broker"))  # before its data is removed
                directory.remove_broker_data()
    elif choice.kind == "kafka":
        async with AsyncExitStack() as stack:
            reserved = stack.enter_context(ReservedPorts())
            ports = tuple(reserved.reserve([(0, "")] * choice.nodes)) if proxied else ()
            relayed = between = None
            if partitioned:
                relayed = Relayed(inner_ports(reserved, choice.nodes), inner_ports(reserved, choice.nodes))
                between = await stack.enter_async_context(_proxy_between(relayed))
            cluster = private_kafka_cluster(choice.nodes, advertised_ports=ports, relayed=relayed)
            kafka = await stack.enter_async_context(cluster)
            await stack.enter_async_context(_watching_all(kafka.nodes, supervisor))
            url = kafka.internal_url if proxied else kafka.url
            brokers = KafkaBrokers(kafka.nodes, between)
            yield RunBroker(url, "", private=True, operator=brokers, proxied=kafka.url, proxy_ports=ports)
    elif choice.nodes > 1:
        async with private_cluster(choice.nodes) as nodes, _watching_all(nodes.nodes, supervisor):
            yield RunBroker(nodes.url, nodes.management_url, private=True, operator=RabbitMQCluster(nodes))
    elif choice.kind == "rabbitmq":
        async with private_node() as node, watching(node, supervisor):
            yield RunBroker(node.url, node.management_url, private=True, operator=RabbitMQOperator(node))
    else:
        yield RunBroker(choice.url, "", private=False)


def _proxy_between(relayed: Relayed) -> Proxy:
    listening = [f"127.0.0.1:{port}" for broker in relayed.listening for port in broker]
    return Proxy(f"kafka://{','.join(listening)}", [port for broker in relayed.reached for port in broker])


async def _start_embedded(
    supervisor: Supervisor, directory: RunDirectory, port: int, management_port: int, options: Sequence[str]
) -> Child:
    process_id = supervisor.next_id("broker")
    ports = ["--port", str(port), "--management-port", str(management_port)]
    command = [sys.executable, "-m", "backpressure.broker", *ports, *options]
    announce = ["--announce", str(directory.announcement(process_id))]
    return await supervisor.start("broker", process_id, [*command, *announce], {})


def check_broker(scenario: Scenario, choice: BrokerChoice) -> None:
    """Raise `ConfigError` when the broker cannot do what a phase needs."""
    ours = not scenario.roles["consumer"].is_stranger
    if scenario.strangers.count and ours:
        allowed = "only simulations have consumers that report nothing: use pace simulate, or pace compare --simulate"
        raise ConfigError("strangers.count", scenario.strangers.count, allowed)
    require_posix("a run of real processes", "POSIX signals and process groups")
    check_faults(scenario.faults, choice.kind, choice.url, choice.nodes)
    _check_agents(scenario, choice)
    if scenario.proxy and choice.on_kafka:
        raise ConfigError("proxy", True, "Kafka has no such proxy: leave it out, or use an AMQP broker")
    for role, player in scenario.roles.items():
        if player.external and not scenario.settings.queue.predeclared:
            allowed = "it has to know the queue: give its broker and queue, --broker amqp://… --predeclared QUEUE"
            raise ConfigError(f"{role}.external", True, allowed)
    if scenario.settings.queue.predeclared:
        _check_predeclared(scenario, choice)
    if choice.on_kafka:
        for phase in scenario.phases[1:]:
            bound = next((key for key in phase.changes if key.startswith("queue.")), None)
            if bound is not None:
                allowed = "Kafka's topics have no such bound, so it cannot change: leave it out, or use another broker"
                raise ConfigError(f"phase.{phase.name}.{bound}", phase.changes[bound], allowed)


def _check_agents(scenario: Scenario, choice: BrokerChoice) -> None:
    for role in sorted(scenario.on_agents):
        key = f"{role}.on"
        if choice.agents is None:
            raise ConfigError(key, "agents", "only pace run looks for agents: use that, or leave it out")
        if choice.kind != "external" or choice.on_kafka:
            allowed = "agents join a broker that runs already and speaks AMQP: give its URL, --broker amqp://…"
            raise ConfigError(key, "agents", f"{allowed} (pace broker starts one)")
        if scenario.proxy:
            raise ConfigError(
                "proxy", True, "the proxy of a run listens on this machine only: leave it out with agents"
            )
        for phase in scenario.phases:
            check_orders(role, phase.settings)


def _check_predeclared(scenario: Scenario, choice: BrokerChoice) -> None:
    if not choice.url.startswith("amqp"):
        allowed = "only a RabbitMQ that runs already has queues of others: give its URL, --broker amqp://…"
        raise ConfigError("queue.predeclared", True, allowed)
    if scenario.settings.producer.purge:
        raise ConfigError("producer.purge", True, "a predeclared queue is not ours, so no run empties it")
    for phase in scenario.phases[1:]:
        if key := next((key for key in phase.changes if key.startswith("queue.")), None):
            allowed = "a predeclared queue is used as it is: leave it out"
            raise ConfigError(f"phase.{phase.name}.{key}", phase.changes[key], allowed)


@asynccontextmanager
async def _watching_all(nodes: Sequence[PrivateProcess], supervisor: Supervisor) -> AsyncIterator[None]:
    async with AsyncExitStack() as watches:
        for node in nodes:
            await watches.enter_async_context(watching(node, supervisor))
        yield


@asynccontextmanager
async def watching(broker: PrivateProcess, supervisor: Supervisor) -> AsyncIterator[None]:
    """Report the processes of ``broker`` to ``supervisor``, and fail it when one dies that no fault has killed.

    Such a process is not a child of the supervisor, so its end has to be polled for. ``broker.pid`` is 0 while it is
    meant to be down.
    """
    watch = asyncio.create_task(_watch(broker, supervisor), name="broker watch")
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch(broker: PrivateProcess, supervisor: Supervisor) -> None:
    process_id, pid = "", 0
    try:
        while True:
            if broker.pid != pid:
                if pid:
                    supervisor.on_exit(process_id, None)
                pid = broker.pid
                if pid:
                    process_id = supervisor.next_id("broker")
                    supervisor.on_ready("broker", process_id, pid)
            elif pid and _has_ended(pid):
                said = broker.tail() or "  (it wrote nothing)"
                supervisor.fail(f"the {broker.product} died, though no fault had killed it; its last output:\n{said}")
                return
            await asyncio.sleep(_POLL_S)
    finally:
        if pid:
            supervisor.on_exit(process_id, None)


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class BrokerOperator(Protocol):
    """What an operator can do to a private broker. One that was there before the run has none.

    All methods return when the work is done, and raise `PaceError` when it fails.
    """

    async def stop(self) -> None:
        """Shut it down cleanly."""

    async def start(self) -> None:
        """Start it after `stop`, on the same ports."""

    async def kill(self) -> None:
        """End it as a crash would."""

    async def revive(self) -> None:
        """Start it after `kill`, on the same ports."""

    def suspend(self) -> None:
        """Let it stand still, with all its connections."""

    def go_on(self) -> None:
        """Let it continue after `suspend`."""

    async def set_alarm(self, *, raised: bool) -> None:
        """Raise or clear the memory alarm."""


class EmbeddedOperator:
    """A `BrokerOperator` of the embedded broker, which is a child process of ours."""

    def __init__(self, supervisor: Supervisor, management_url: str, launch: Callable[[], Awaitable[object]]) -> None:
        """``launch`` starts it again, on the same ports as before."""
        self._supervisor = supervisor
        self._management_url = management_url
        self._launch = launch

    async def stop(self) -> None:
        """See `BrokerOperator.stop`."""
        await self._supervisor.stop(self._supervisor.of("broker"))

    async def start(self) -> None:
        """See `BrokerOperator.start`."""
        await self._launch()

    async def kill(self) -> None:
        """See `BrokerOperator.kill`."""
        await self._supervisor.kill_now(self._supervisor.of("broker"))

    async def revive(self) -> None:
        """See `BrokerOperator.revive`."""
        await self._launch()

    def suspend(self) -> None:
        """See `BrokerOperator.suspend`."""
        for child in self._supervisor.of("broker"):
            self._supervisor.suspend(child)

    def go_on(self) -> None:
        """See `BrokerOperator.go_on`."""
        for child in self._supervisor.of("broker"):
            self._supervisor.go_on(child)

    async def set_alarm(self, *, raised: bool) -> None:
        """See `BrokerOperator.set_alarm`."""
        await self.misbehave(memory_alarm=raised)

    async def misbehave(self, **faults: object) -> None:
        """Change the broker's own faults; ``docs/embedded-broker.md`` lists them."""
        async with httpx.AsyncClient(auth=("guest", "guest"), timeout=10.0, trust_env=False) as client:
            try:
                response = await client.put(f"{self._management_url}/api/faults", json=faults)
                response.raise_for_status()
            except httpx.HTTPError as error:
                raise ExperimentError(f"the broker cannot be told to misbehave ({faults}): {error!r}") from None


class RabbitMQOperator:
    """A `BrokerOperator` of a private node; the first four take seconds."""

    def __init__(self, node: PrivateNode) -> None:
        """``node`` is running."""
        self._node = node

    async def stop(self) -> None:
        """See `BrokerOperator.stop`; the Erlang machine stays, as with ``rabbitmqctl stop_app`` by hand."""
        await self._ctl("stop_app")

    async def start(self) -> None:
        """See `BrokerOperator.start`."""
        await self._ctl("start_app")

    async def kill(self) -> None:
        """See `BrokerOperator.kill`."""
        await asyncio.to_thread(self._node.kill)

    async def revive(self) -> None:
        """See `BrokerOperator.revive`."""
        await self._node.revive()

    def suspend(self) -> None:
        """See `BrokerOperator.suspend`."""
        self._node.suspend()

    def go_on(self) -> None:
        """See `BrokerOperator.go_on`."""
        self._node.go_on()

    async def set_alarm(self, *, raised: bool) -> None:
        """See `BrokerOperator.set_alarm`."""
        await self._ctl("set_vm_memory_high_watermark", *(("absolute", "1MB") if raised else ("0.4",)))

    async def _ctl(self, *arguments: str) -> None:
        await asyncio.to_thread(self._node.ctl, *arguments)
