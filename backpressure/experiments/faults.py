"""The faults that a phase of a scenario can ask for, as data: ``fault = "consumer-kill"`` or ``"nacks:share=0.2"``.

A fault is a name and checked parameters. `parse` reads it from a scenario; `check` says whether the chosen broker
supports it. `fault_effects` applies it to a run, `simulated_faults` to a simulation. This module imports nothing that
runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backpressure.errors import ConfigError

_YEAR_S = 31_536_000


class Fault(BaseModel):
    """One kind of failure; its fields are its parameters.

    Attributes:
        name: what a scenario calls it.
        brokers: the kinds of broker that can have it; None: all.
        through_proxy: whether the processes under test must reach their broker through our proxy.
        restarts_broker: whether the broker must keep durable messages on disk.
        least_nodes: how many nodes the broker must have.
        has_model: whether a simulation can have it.
        moves_clocks: whether the processes under test must run on a wall clock that we can move.
        lasting: whether it is a state, which goes on where the next phase asks for the same, and not an event.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    brokers: ClassVar[frozenset[str] | None] = None
    through_proxy: ClassVar[bool] = False
    restarts_broker: ClassVar[bool] = False
    moves_clocks: ClassVar[bool] = False
    least_nodes: ClassVar[int] = 1
    has_model: ClassVar[bool] = True
    lasting: ClassVar[bool] = False

    for_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds until it is undone; left out: when the phase ends"
    )

    signals: ClassVar[str] = ""
    """The role whose processes get signals; "": none."""

    def goes_on_as(self, later: Fault | None) -> bool:
        """Return whether it need not be undone before the next phase, which asks for ``later``."""
        return self.lasting and self.for_s is None and self == later

    def reaches_into(self, role: str) -> bool:  # noqa: ARG002 - for those that do
        """Return whether the processes of ``role`` have to be our own: they are told to behave differently."""
        return False

    def not_on_agents(self, role: str) -> str:
        """Return why it cannot be done to processes of ``role`` on other machines; "": it can."""
        if self.through_proxy:
            return (
                "processes on agents reach the broker without our proxy; disturb their network itself, as tc netem does"
            )
        if self.moves_clocks and self.reaches_into(role):
            return "an agent's processes keep the clock of their machine"
        return ""

    def restarted(self, role: str) -> int:  # noqa: ARG002 - for those that do
        """Return how many processes of ``role`` are started to replace killed ones."""
        return 0


class ProcessKill(Fault):
    """``kill -9`` of the oldest processes of one role; as many new ones start when it is undone."""

    role: ClassVar[str]

    count: int = Field(1, ge=1, description="how many, the oldest first")

    def restarted(self, role: str) -> int:
        """See `Fault.restarted`."""
        return self.count if role == self.role else 0


class ConsumerKill(ProcessKill):
    """Consumers crash: what they held goes back to the queue, what they had done counts."""

    name: ClassVar[str] = "consumer-kill"
    role: ClassVar[str] = "consumer"
    signals: ClassVar[str] = "consumer"


class ConsumerStop(Fault):
    """Consumers hang (SIGSTOP … SIGCONT): connected, they hold their messages and do nothing."""

    name: ClassVar[str] = "consumer-stop"
    signals: ClassVar[str] = "consumer"

    count: int = Field(1, ge=1, description="how many, the oldest first")


class ConsumerSlow(Fault):
    """Consumers get slow, whatever they are: SIGSTOP and SIGCONT in turns let them run for a share of the time only."""

    name: ClassVar[str] = "consumer-slow"
    signals: ClassVar[str] = "consumer"

    def not_on_agents(self, role: str) -> str:
        """See `Fault.not_on_agents`."""
        return "its turns are too short to be told over a network" if role == self.signals else ""

    share: float = Field(0.25, gt=0, lt=1, description="share of the time in which they run")
    period_ms: float = Field(200, ge=20, le=10_000, description="length of one stop and run, milliseconds")
    count: int = Field(1, ge=1, description="how many, the oldest first")


class ConsumerChurn(Fault):
    """One consumer after another leaves in order, and a new one joins: on Kafka a rebalance each time."""

    name: ClassVar[str] = "consumer-churn"
    has_model: ClassVar[bool] = False

    every_s: float = Field(2.0, ge=0.1, le=3600, description="seconds from one to the next, at least")


class ProducerKill(ProcessKill):
    """Producers crash: what the broker had confirmed must still arrive. The new ones send what is left to send."""

    name: ClassVar[str] = "producer-kill"
    role: ClassVar[str] = "producer"
    signals: ClassVar[str] = "producer"


class _PrivateBrokerFault(Fault):
    """Needs a broker that the run has started itself."""

    brokers: ClassVar[frozenset[str] | None] = frozenset({"embedded", "rabbitmq", "kafka"})


class BrokerRestart(_PrivateBrokerFault):
    """The broker shuts down cleanly, telling its clients, and starts again with what was durable."""

    name: ClassVar[str] = "broker-restart"
    restarts_broker: ClassVar[bool] = True


class BrokerKill(_PrivateBrokerFault):
    """``kill -9`` of the broker, which starts again with what it had on disk: all confirmed persistent messages."""

    name: ClassVar[str] = "broker-kill"
    restarts_broker: ClassVar[bool] = True


class BrokerHang(_PrivateBrokerFault):
    """The broker stands still (SIGSTOP … SIGCONT): connected, it takes, confirms, delivers and answers nothing.

    A broker looks like this when its disk does not answer, in a long garbage collection, or when its virtual machine is
    paused.
    """

    name: ClassVar[str] = "broker-hang"


class MemoryAlarmFault(_PrivateBrokerFault):
    """The broker runs out of memory and blocks every connection that publishes (``connection.blocked``)."""

    name: ClassVar[str] = "memory-alarm"
    brokers: ClassVar[frozenset[str] | None] = frozenset({"embedded", "rabbitmq"})


class NodeFault(Fault):
    """Happens to one node of a private cluster; a quorum queue, or a Kafka topic, goes on with the others."""

    brokers: ClassVar[frozenset[str] | None] = frozenset({"rabbitmq", "kafka"})
    least_nodes: ClassVar[int] = 3
    has_model: ClassVar[bool] = False

    @property
    def number(self) -> int:
        """The number of the node, if it was chosen by one; else 1."""
        node = getattr(self, "node", 1)
        return node if isinstance(node, int) else 1


_WHICH = "its number, from 1, or leader or follower of the work queue"


class NodeKill(NodeFault):
    """``kill -9`` of one node, which starts again with what it had on disk and catches up."""

    name: ClassVar[str] = "node-kill"

    node: Literal["leader", "follower"] | Annotated[int, Field(ge=1)] = Field(1, description=_WHICH)


class LeaderKill(NodeFault):
    """``kill -9`` of the node that leads the work queue: the others elect another one."""

    name: ClassVar[str] = "leader-kill"


class NodeRestart(NodeFault):
    """Every node in turn hands over what it leads, shuts down and starts again, as in a rolling upgrade.

    The next one follows when the work queue has all its copies again. It goes through all of them, however long.
    """

    name: ClassVar[str] = "node-restart"


class Partition(NodeFault):
    """One node is cut off from the others, but not from its clients: it has no majority, so nothing is confirmed."""

    name: ClassVar[str] = "partition"

    node: Literal["leader", "follower"] | Annotated[int, Field(ge=1)] = Field("leader", description=_WHICH)


class DiskAlarm(NodeFault):
    """One node runs out of disk space, which blocks everybody who publishes, at whatever node."""

    name: ClassVar[str] = "disk-alarm"
    brokers: ClassVar[frozenset[str] | None] = frozenset({"rabbitmq"})

    node: Literal["leader", "follower"] | Annotated[int, Field(ge=1)] = Field(1, description=_WHICH)


class Nacks(Fault):
    """The broker refuses an evenly spread share of the publishes; only the embedded one can be told to."""

    name: ClassVar[str] = "nacks"
    brokers: ClassVar[frozenset[str] | None] = frozenset({"embedded"})

    share: float = Field(0.1, gt=0, le=1, description="share of the publishes that is refused")


class NetworkFault(Fault):
    """Something happens to the proxy between clients and broker; undone, the network is whole again."""

    brokers: ClassVar[frozenset[str] | None] = frozenset({"embedded", "rabbitmq", "kafka", "external"})
    through_proxy: ClassVar[bool] = True
    lasting: ClassVar[bool] = True


class NetworkCut(NetworkFault):
    """Every connection ends, and new ones are refused."""

    name: ClassVar[str] = "network-cut"


class NetworkHalfOpen(NetworkFault):
    """The broker's side of every connection ends; the clients' side, and every new one, stays open and silent."""

    name: ClassVar[str] = "network-half-open"


class NetworkDelay(NetworkFault):
    """Bytes take longer, in both directions."""

    name: ClassVar[str] = "network-delay"

    ms: float = Field(50.0, gt=0, le=60_000, description="delay of each direction, milliseconds")


class NetworkBandwidth(NetworkFault):
    """Each direction of each connection carries only so much."""

    name: ClassVar[str] = "network-bandwidth"

    kb_per_s: float = Field(100.0, gt=0, le=1e6, description="kilobytes a second, each direction")


class Poison(Fault):
    """A share of the messages, chosen by their ids, fails at every attempt and at every consumer.

    Each must end among the dead letters and hold up no other.
    """

    name: ClassVar[str] = "poison"

    share: float = Field(0.05, gt=0, le=1, description="share of the messages that is poisoned")

    def reaches_into(self, role: str) -> bool:
        """See `Fault.reaches_into`."""
        return role == "consumer"


class ProcessingFailures(Fault):
    """A share of the attempts fails at random, as when a database behind the consumer does; another may succeed."""

    name: ClassVar[str] = "processing-failures"

    share: float = Field(0.1, gt=0, le=1, description="share of the attempts that fails")

    def reaches_into(self, role: str) -> bool:
        """See `Fault.reaches_into`."""
        return role == "consumer"


class ClockJump(Fault):
    """The wall clock of all processes of one role jumps, as when NTP steps it: no figure, pace or order may change.

    It also applies to processes that start while it lasts.
    """

    name: ClassVar[str] = "clock-jump"
    moves_clocks: ClassVar[bool] = True

    by_s: float = Field(60.0, ge=-_YEAR_S, le=_YEAR_S, description="seconds ahead; negative: back")
    role: Literal["consumer", "producer"] = Field("consumer", description="whose clock: consumer or producer")

    def reaches_into(self, role: str) -> bool:
        """See `Fault.reaches_into`."""
        return role == self.role


_ALL: tuple[type[Fault], ...] = (
    ConsumerKill,
    ConsumerStop,
    ProducerKill,
    ConsumerSlow,
    ConsumerChurn,
    BrokerRestart,
    BrokerKill,
    BrokerHang,
    MemoryAlarmFault,
    NodeKill,
    LeaderKill,
    NodeRestart,
    Partition,
    DiskAlarm,
    Nacks,
    NetworkCut,
    NetworkHalfOpen,
    NetworkDelay,
    NetworkBandwidth,
    Poison,
    ProcessingFailures,
    ClockJump,
)
FAULTS = {fault.name: fault for fault in _ALL}
"""Every fault by the name a scenario calls it."""


def parse(text: str, key: str, source: str) -> Fault:
    """Return the fault that ``text`` asks for; ``key`` and ``source`` are for errors. Raises `ConfigError`."""
    name, _, rest = text.partition(":")
    kind = FAULTS.get(name.strip())
    if kind is None:
        near = difflib.get_close_matches(name, FAULTS, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(key, text, f"no such fault; {hint}there are {', '.join(FAULTS)}", source)
    given: dict[str, str] = {}
    for assignment in filter(None, map(str.strip, rest.split(","))):
        parameter, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ConfigError(key, text, f"expected {kind.name}:parameter=value,…; {_parameters(kind)}", source)
        if parameter not in kind.model_fields:
            raise ConfigError(key, text, f"unknown parameter {parameter}; {_parameters(kind)}", source)
        given[parameter] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = str(first["msg"])
        raise ConfigError(key, text, f"{first['loc'][0]}: {message[0].lower()}{message[1:]}", source) from None


def check(faults: Iterable[Fault], kind: str, url: str, nodes: int = 1) -> None:
    """Raise `ConfigError` when a broker cannot have one of ``faults``.

    It is of ``kind``, at ``url`` if it is external, and has that many ``nodes``.
    """
    for fault in faults:
        if fault.brokers is not None and kind not in fault.brokers:
            yours = "the broker at a URL is not ours to disturb" if kind == "external" else f"{kind} cannot do it"
            count = "" if fault.least_nodes == 1 else f":{fault.least_nodes}"
            others = " or ".join(f"{other}{count}" for other in sorted(fault.brokers))
            raise ConfigError("fault", fault.name, f"{yours}: use --broker {others}")
        if nodes < fault.least_nodes:
            allowed = f"it takes a cluster: use --broker {kind}:{fault.least_nodes} (or more)"
            raise ConfigError("fault", fault.name, allowed)
        if isinstance(fault, NodeFault) and fault.number > nodes:
            raise ConfigError("fault", f"{fault.name}:node={fault.number}", f"the cluster has {nodes} nodes")
        if fault.through_proxy and url and not url.startswith("amqp://"):
            raise ConfigError(
                "fault",
                fault.name,
                "the network can be disturbed for amqp:// only, not for TLS, and not for a Kafka that is not ours",
            )


def _parameters(kind: type[Fault]) -> str:
    return f"{kind.name} takes {', '.join(kind.model_fields)}"
