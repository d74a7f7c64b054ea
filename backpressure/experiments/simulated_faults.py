"""What each fault does to the plant, and how it is undone: one table, `_MODELS`.

The faults have the names and parameters of the real ones, but take effect at once: processes need no time to die or
start, nor does the broker. After an outage all clients reconnect together, at their first attempt after its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from math import inf
from typing import Any, Protocol

from backpressure.core.plant import Plant
from backpressure.derived import message_bytes
from backpressure.errors import ConfigError
from backpressure.experiments import faults
from backpressure.experiments.simulated_producers import SimulatedProducers
from backpressure.settings import BrokerSettings, Settings
from backpressure.transports.connecting import pauses


class SimulatedStage(Protocol):
    """What faults can reach in a simulated run."""

    plant: Plant
    producers: SimulatedProducers
    settings: Settings  # the current ones

    def man(self) -> None:
        """Have as many consumers as the settings ask for, each with the prefetch that the network needs."""

    def fail(self, changes: Mapping[str, float]) -> None:
        """Let work fail as the settings say, with these ``changes``."""

    def load_changed(self) -> None:
        """Record the new capacity and offered load."""


_Model = Callable[[Any, SimulatedStage], AbstractContextManager[None]]


def simulated(fault: faults.Fault, stage: SimulatedStage) -> AbstractContextManager[None]:
    """Apply ``fault`` to ``stage``; leaving the context undoes it."""
    return _MODELS[type(fault)](fault, stage)


def check_simulated(injected: Iterable[faults.Fault]) -> None:
    """Raise `ConfigError` for a fault that no simulation has."""
    for fault in injected:
        if isinstance(fault, faults.NodeFault):
            allowed = "a simulated broker has no nodes: run it, pace run --broker rabbitmq:3"
            raise ConfigError("fault", fault.name, allowed)
        if not fault.has_model:
            raise ConfigError("fault", fault.name, "no simulation has it: run it, pace run")


def reconnected_after_s(outage_s: float, broker: BrokerSettings) -> float:
    """Return how long after an outage clients are back, when their pauses have the mean length."""
    knocked_s = 0.0
    for pause_s in pauses(broker.reconnect_min_s, broker.reconnect_max_s, lambda least, most: (least + most) / 2):
        knocked_s += pause_s
        if knocked_s >= outage_s:
            break
    return knocked_s - outage_s


@contextmanager
def _consumer_kill(fault: faults.ConsumerKill, stage: SimulatedStage) -> Iterator[None]:
    stage.plant.queue.kill(fault.count, stage.plant.now)
    stage.load_changed()
    yield
    stage.man()
    stage.load_changed()


@contextmanager
def _consumer_stop(fault: faults.ConsumerStop, stage: SimulatedStage) -> Iterator[None]:
    hung = stage.plant.queue.hang(fault.count)
    stage.load_changed()
    yield
    stage.plant.queue.go_on(hung, stage.plant.now)
    stage.load_changed()


@contextmanager
def _consumer_slow(fault: faults.ConsumerSlow, stage: SimulatedStage) -> Iterator[None]:
    slow = stage.plant.queue.slow(fault.count, fault.share)
    stage.load_changed()
    yield
    for consumer in slow:
        consumer.speed = 1.0
    stage.load_changed()


@contextmanager
def _producer_kill(fault: faults.ProducerKill, stage: SimulatedStage) -> Iterator[None]:
    killed = stage.producers.kill(fault.count)
    stage.load_changed()
    yield
    stage.producers.replace(killed, stage.settings)
    stage.load_changed()


@contextmanager
def _outage(_: faults.BrokerRestart | faults.BrokerKill | faults.NetworkCut, stage: SimulatedStage) -> Iterator[None]:
    began_s = stage.plant.now
    stage.plant.cut()
    yield
    stage.plant.connect(reconnected_after_s(stage.plant.now - began_s, stage.settings.broker))


@contextmanager
def _broker_hang(_: faults.BrokerHang, stage: SimulatedStage) -> Iterator[None]:
    stage.plant.stand_still()
    yield
    stage.plant.go_on()


@contextmanager
def _half_open(_: faults.NetworkHalfOpen, stage: SimulatedStage) -> Iterator[None]:
    stage.plant.cut(noticed=False)
    yield
    stage.plant.connect(
        stage.settings.broker.reconnect_min_s
    )  # the connections end only now, so this is the first attempt


@contextmanager
def _memory_alarm(_: faults.MemoryAlarmFault, stage: SimulatedStage) -> Iterator[None]:
    stage.plant.set_queue(replace(stage.plant.queue.bound, blocked=True))
    yield
    stage.plant.set_queue(replace(stage.plant.queue.bound, blocked=False))


@contextmanager
def _nacks(fault: faults.Nacks, stage: SimulatedStage) -> Iterator[None]:
    stage.plant.set_queue(replace(stage.plant.queue.bound, refused_share=fault.share))
    yield
    stage.plant.set_queue(replace(stage.plant.queue.bound, refused_share=0.0))


@contextmanager
def _network_delay(fault: faults.NetworkDelay, stage: SimulatedStage) -> Iterator[None]:
    stage.plant.network = replace(stage.plant.network, way_s=fault.ms / 1000)
    stage.man()
    yield
    stage.plant.network = replace(stage.plant.network, way_s=0.0)
    stage.man()


@contextmanager
def _network_bandwidth(fault: faults.NetworkBandwidth, stage: SimulatedStage) -> Iterator[None]:
    carried_per_s = 1000 * fault.kb_per_s / message_bytes(stage.settings.producer)
    stage.plant.network = replace(stage.plant.network, carried_per_s=carried_per_s)
    yield
    stage.plant.network = replace(stage.plant.network, carried_per_s=inf)


@contextmanager
def _failing(fault: faults.Poison | faults.ProcessingFailures, stage: SimulatedStage) -> Iterator[None]:
    kind = "poison_rate" if isinstance(fault, faults.Poison) else "failure_rate"
    stage.fail({f"consumer.{kind}": fault.share})
    yield
    stage.fail({})


@contextmanager
def _clock_jump(_: faults.ClockJump, __: SimulatedStage) -> Iterator[None]:
    yield  # virtual time has no wall clock


_MODELS: Mapping[type[faults.Fault], _Model] = {
    faults.ConsumerKill: _consumer_kill,
    faults.ConsumerStop: _consumer_stop,
    faults.ConsumerSlow: _consumer_slow,
    faults.ProducerKill: _producer_kill,
    faults.BrokerRestart: _outage,
    faults.BrokerKill: _outage,
    faults.BrokerHang: _broker_hang,
    faults.MemoryAlarmFault: _memory_alarm,
    faults.Nacks: _nacks,
    faults.NetworkCut: _outage,
    faults.NetworkHalfOpen: _half_open,
    faults.NetworkDelay: _network_delay,
    faults.NetworkBandwidth: _network_bandwidth,
    faults.Poison: _failing,
    faults.ProcessingFailures: _failing,
    faults.ClockJump: _clock_jump,
}
