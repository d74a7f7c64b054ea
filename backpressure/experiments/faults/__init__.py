"""Faults that a phase of a scenario injects: ``fault = "consumer-kill"`` or ``fault = "nacks:share=0.2,for_s=5"``.

One file each. `parse` reads what a scenario says, `check` whether it can be done to the broker that was chosen.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from backpressure.errors import ConfigError
from backpressure.experiments.faults.base import Fault, Stage
from backpressure.experiments.faults.broker_hang import BrokerHang
from backpressure.experiments.faults.broker_kill import BrokerKill
from backpressure.experiments.faults.broker_restart import BrokerRestart
from backpressure.experiments.faults.clock_jump import ClockJump
from backpressure.experiments.faults.consumer_kill import ConsumerKill
from backpressure.experiments.faults.consumer_stop import ConsumerStop
from backpressure.experiments.faults.injection import Injection
from backpressure.experiments.faults.memory_alarm import MemoryAlarm
from backpressure.experiments.faults.nacks import Nacks
from backpressure.experiments.faults.network_bandwidth import NetworkBandwidth
from backpressure.experiments.faults.network_cut import NetworkCut
from backpressure.experiments.faults.network_delay import NetworkDelay
from backpressure.experiments.faults.network_half_open import NetworkHalfOpen
from backpressure.experiments.faults.poison import Poison
from backpressure.experiments.faults.processing_failures import ProcessingFailures
from backpressure.experiments.faults.producer_kill import ProducerKill

__all__ = ["FAULTS", "Fault", "Injection", "Stage", "check", "parse"]

_ALL: tuple[type[Fault], ...] = (
    ConsumerKill,
    ConsumerStop,
    ProducerKill,
    BrokerRestart,
    BrokerKill,
    BrokerHang,
    MemoryAlarm,
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


def check(faults: Iterable[Fault], kind: str, url: str) -> None:
    """Raise `ConfigError` when one of ``faults`` cannot be done to a broker of ``kind`` (at ``url``, if external)."""
    for fault in faults:
        if fault.brokers is not None and kind not in fault.brokers:
            yours = "the broker at a URL is not ours to disturb" if kind == "external" else f"{kind} cannot do it"
            raise ConfigError("fault", fault.name, f"{yours}: use --broker {' or '.join(sorted(fault.brokers))}")
        if fault.through_proxy and url and not url.startswith("amqp://"):
            raise ConfigError(
                "fault", fault.name, "the network can be disturbed for amqp:// only, not for TLS or Kafka"
            )


def _parameters(kind: type[Fault]) -> str:
    return f"{kind.name} takes {', '.join(kind.model_fields)}"
