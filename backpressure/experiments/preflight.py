"""What can be found out before anything starts: whether the broker and the laws are fit for the scenario."""

from __future__ import annotations

import sys
from pathlib import Path

from backpressure.core.controllers import create
from backpressure.engines.pacing import law_config
from backpressure.errors import ConfigError
from backpressure.experiments.brokers import BrokerChoice
from backpressure.experiments.faults import check as check_faults
from backpressure.experiments.scenario import Scenario

__all__ = ["check_broker", "check_laws"]


def check_broker(scenario: Scenario, choice: BrokerChoice) -> None:
    """Raise `ConfigError` when the broker cannot do what a phase asks of it."""
    check_faults(scenario.faults, choice.kind, choice.url)
    if choice.kind == "kafka" or choice.url.startswith("kafka"):
        for phase in scenario.phases[1:]:
            bound = next((key for key in phase.changes if key.startswith("queue.")), None)
            if bound is not None:
                allowed = "Kafka's topics have no such bound, so it cannot change: leave it out, or use another broker"
                raise ConfigError(f"phase.{phase.name}.{bound}", phase.changes[bound], allowed)


def check_laws(scenario: Scenario) -> None:
    """Raise `ConfigError` when a law of the user's own (``module:Class``) cannot be had in the producers of a run."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as the producers will
    for phase in scenario.phases:
        name = phase.settings.producer.strategy
        if ":" in name:  # the others are checked with the scenario
            create(name, law_config(phase.settings))
