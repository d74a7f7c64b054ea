"""The laws that can be chosen by name: those that ship, and those that installed packages offer as entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoints, entry_points

from backpressure.core import controllers
from backpressure.core.controllers import LAWS, LawConfig, LawDescription
from backpressure.core.signals import Law
from backpressure.errors import ConfigError

__all__ = ["ENTRY_POINTS", "create", "describe", "law_names"]

ENTRY_POINTS = "backpressure.laws"
"""Entry-point group under which packages offer laws of their own: ``name = "package.module:Class"``."""


def law_names() -> tuple[str, ...]:
    """Return the names that need no path: the laws that ship, and those that installed packages offer."""
    return (*LAWS, *sorted(_offered().names))


def create(name: str, config: LawConfig | None = None) -> Law:
    """Return a new law: a shipped one, one that a package offers, or ``package.module:Class`` of the user's own.

    A class of the user's own is called with the `LawConfig` and must have `Law.update`. Raises `ConfigError` when there
    is no such law, or when it does not accept its parameters.
    """
    return controllers.create(_path(name), config)


def describe(name: str) -> LawDescription:
    """Return what the law called ``name`` says of itself; raises `ConfigError` when there is no such law."""
    description = controllers.describe(_path(name))
    return LawDescription(name, description.summary, description.parameters, description.traits)


def _offered() -> EntryPoints:
    return entry_points(group=ENTRY_POINTS)


def _path(name: str) -> str:
    """Return the path to the class of a law that a package offers, and any other name as it is."""
    if name in LAWS or ":" in name:
        return name
    offered = _offered()
    if name in offered.names:
        return offered[name].value
    known = ", ".join(law_names())
    raise ConfigError("producer.strategy", name, f"expected one of {known}, or package.module:Class of your own")
