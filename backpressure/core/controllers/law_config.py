"""What a law is configured with, and how its own parameters are declared and checked. Knows no particular law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from backpressure.errors import ConfigError

__all__ = ["LawConfig", "LawTraits", "Parameter", "limit_of", "traits_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LawTraits:
    """What a law says about itself, as its class attribute ``TRAITS``; a law without one has these defaults.

    ``adapts``: it follows the consumers' pace. ``retries``: a message that the broker refuses is sent again, where the
    settings leave that to the law. ``queue_bound`` is the bound that goes with the law when it is chosen as a strategy:
    the one in the settings, none at all, or one that refuses what is too much.
    """

    adapts: bool = True
    retries: bool = True
    queue_bound: Literal["as set", "none", "refusing"] = "as set"


def traits_of(law: object) -> LawTraits:
    """Return what a law (or the class of one) says about itself."""
    traits = getattr(law, "TRAITS", None)
    return traits if isinstance(traits, LawTraits) else LawTraits()


def limit_of(law: object) -> float:
    """Return the most that a law may ever decide by itself: its attribute ``limit_per_s``; infinite without one."""
    limit_per_s = getattr(law, "limit_per_s", inf)
    return float(limit_per_s) if isinstance(limit_per_s, (int, float)) else inf


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a law: ``unit`` is "" for a pure number; ``minimum`` and ``maximum`` are allowed themselves."""

    name: str
    default: float
    unit: str
    meaning: str
    minimum: float = 0.0
    maximum: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class LawConfig:
    """Settings of a law, in the units of its name.

    ``target_wait_s`` is the queue wait to aim for. ``floor_per_s`` and ``ceiling_per_s`` bound this producer's rate;
    None leaves the floor to the law and the ceiling to the offered load. ``tick_s`` is how often the law is asked,
    ``report_interval_s`` how often consumers report. ``parameters`` are the law's own, by name.
    """

    target_wait_s: float = 0.02
    floor_per_s: float | None = None
    ceiling_per_s: float | None = None
    tick_s: float = 0.1
    report_interval_s: float = 0.1
    parameters: Mapping[str, float] = field(default_factory=dict)

    def values(self, law: str, declared: Sequence[Parameter]) -> dict[str, float]:
        """Return every parameter ``law`` declares, as given or by default.

        Raises `ConfigError` for a name it does not declare and for a value out of range.
        """
        known = {parameter.name: parameter for parameter in declared}
        for name, value in self.parameters.items():
            key = f"control.parameters.{law}.{name}"
            if name not in known:
                allowed = ", ".join(known) if known else "no parameters at all"
                raise ConfigError(key, value, f"unknown parameter; {law} has {allowed}")
            low, high = known[name].minimum, known[name].maximum
            if not low <= value <= high:
                raise ConfigError(key, value, f"expected {low:g} … {high:g} {known[name].unit}".rstrip())
        return {name: self.parameters.get(name, parameter.default) for name, parameter in known.items()}

    def clamp(self, rate_per_s: float, *, floor_per_s: float = 0.0) -> float:
        """Return ``rate_per_s`` within floor and ceiling; ``floor_per_s`` is the law's own, used when none is set."""
        floor = floor_per_s if self.floor_per_s is None else self.floor_per_s
        ceiling = inf if self.ceiling_per_s is None else self.ceiling_per_s
        return min(ceiling, max(floor, rate_per_s))
