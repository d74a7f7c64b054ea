"""What a run may have an agent do: start the consumer and the producer of the agent's own installation.

Their settings are all that comes from the run. None of them names a file, a program or code, or says where to connect
or to listen: broker, logs and traces are the agent's own affair. The run checks this before it begins, and the agent
again, since it need not believe the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backpressure.catalogue import each, value_of
from backpressure.config import replaced
from backpressure.core.controllers import LAWS
from backpressure.errors import ConfigError
from backpressure.experiments.roles import RoleName
from backpressure.settings import Settings

SIGNALS = frozenset({"SIGTERM", "SIGKILL", "SIGSTOP", "SIGCONT"})
API_PATHS = frozenset({"/admin/resume", "/admin/config"})

_SHARED = frozenset({"control", "retry", "queue", "feedback"})
_MORE = frozenset({"process.seed"})
_OWN = ("broker", "log", "tracing")
_CODE = "producer.handler", "consumer.handler"
_FILES = "producer.samples", "producer.recorded_at"


def orders_for(role: RoleName, settings: Settings) -> dict[str, Any]:
    """Return what to tell an agent of ``settings``, by dotted key."""
    return {key: value for key, value in each(settings) if _may_be_told(role, key)}


def ordered(own: Settings, role: RoleName, orders: Mapping[str, Any]) -> Settings:
    """Return the settings of a process that an agent with ``own`` ones is to start; raises `ConfigError`."""
    for key, value in orders.items():
        if not _may_be_told(role, key):
            raise ConfigError(key, value, "an agent decides about this itself")
    mine = {key: value for key, value in each(own) if key.partition(".")[0] in _OWN}
    settings = replaced(replaced(Settings(), mine), orders, "the run")
    _refuse_files_and_code(settings)
    return settings


def check_orders(role: RoleName, settings: Settings) -> None:
    """Raise `ConfigError` where an agent would refuse ``settings``."""
    ordered(Settings(), role, orders_for(role, settings))


def _refuse_files_and_code(settings: Settings) -> None:
    law, profile = settings.producer.strategy, settings.producer.profile
    if law not in LAWS:
        raise ConfigError("producer.strategy", law, "agents know the laws that ship, none of your own")
    for key in _CODE:
        if value := value_of(settings, key):
            raise ConfigError(key, value, "agents run no code of yours: leave it out, or run these processes here")
    for key in _FILES:
        if value := value_of(settings, key):
            raise ConfigError(key, value, "agents read no files: leave it out, or run these processes here")
    if profile.startswith("table"):
        raise ConfigError("producer.profile", profile, "agents read no files: use another profile")


def _may_be_told(role: RoleName, key: str) -> bool:
    return key.partition(".")[0] in _SHARED | {role} or key in _MORE
